/**
 * The contract of a key-value cache, as small as it can be: append rows, view them.
 */

import type { KvView } from "../attention/kv-view.ts";
import type { Tensor } from "../tensor.ts";

/** Rows to append to one layer of a cache. */
export type KvRows = {
  /** f32 [T, Hk, D], already rotated to `positions`. */
  readonly keys: Tensor<"f32">;
  /** f32 [T, Hk, Dv]. */
  readonly values: Tensor<"f32">;
  /** i32 [T], true positions. */
  readonly positions: Int32Array;
  /** i32 [T], segments; −1 is padding. */
  readonly segments: Int32Array;
};

/** The memory a cache lives in: a backend's, or the host's. */
export type KvMemory = {
  /** A zeroed f32 tensor. */
  allocate(shape: readonly number[]): Tensor<"f32">;
  /** Copies x into out, of the same size; takes effect in order with everything else issued to this memory. */
  copy(out: Tensor<"f32">, x: Tensor<"f32">): void;
  /** Gives a tensor back once everything issued so far has taken effect. */
  release(t: Tensor<"f32">): void;
};

/** Keys and values of every layer of one model, with the position and segment of every row. */
export interface KvCache {
  /** Number of layers. */
  readonly layers: number;
  /** Rows held by a layer; the largest over the layers when none is named. */
  length(layer?: number): number;
  /** Bytes of the rows held (keys and values), without spare capacity. */
  readonly bytes: number;
  /** The position that follows the last appended one; 0 when empty. */
  readonly nextPosition: number;
  /** Adds rows to one layer. */
  append(layer: number, rows: KvRows): void;
  /** The rows of one layer; shares memory, valid until the next append or clear. */
  view(layer: number): KvView;
  /** Forgets everything. */
  clear(): void;
}
