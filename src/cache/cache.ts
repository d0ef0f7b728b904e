/**
 * The contract of a key-value cache, as a decoder needs it: append rows, view them.
 */

import type { KeyValues, KvView, QuantizedKv } from "../attention/index.ts";
import type { Tensor } from "../tensor.ts";

/** Rows to append to one layer of a cache. */
export type KvRows = {
  /** f32 [T, Hk, D], already rotated to `positions` (to `axes` where the layer has several). */
  readonly keys: Tensor<"f32">;
  /** f32 [T, Hk, Dv]. */
  readonly values: Tensor<"f32">;
  /** i32 [T], true positions: what masks compare. */
  readonly positions: Int32Array;
  /** i32 [T], segments; −1 is padding. */
  readonly segments: Int32Array;
  /** i32 [T] per axis: what M-RoPE rotated by. Absent: `positions` on every axis, as text has. */
  readonly axes?: readonly Int32Array[];
};

/** The memory a cache lives in: a backend's, or the host's. */
export type KvMemory = {
  /** A zeroed f32 tensor. */
  allocate(shape: readonly number[]): Tensor<"f32">;
  /**
   * Copies x into out, bit for bit; takes effect in order with everything else issued to this memory.
   *
   * @param head - copy only this head of x [T, H, W]
   */
  copy(out: Tensor<"f32">, x: Tensor<"f32">, head?: number): void;
  /** Gives a tensor back once everything issued so far has taken effect. */
  release(t: Tensor<"f32">): void;
  /**
   * Quantises x into codes and scales that lie in tensors of this memory; takes effect in order. Absent: the memory
   * holds no quantised rows.
   *
   * @param head - quantise only this head of x [T, H, W]
   */
  quantize?(out: QuantizedKv, x: Tensor<"f32">, head?: number): void;
  /**
   * Whether something issued has not taken effect yet, so that rows cannot be read or changed from here. Tensors that
   * wait to be given back do not count.
   */
  readonly pending?: boolean;
};

/** Keys and values of every layer of one model, with the position and segment of every row. */
export interface KvCache<View extends KeyValues = KvView> {
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
  /** The rows of one layer; shares memory, valid until the next operation on the cache. */
  view(layer: number): View;
  /** Forgets everything. */
  clear(): void;
}
