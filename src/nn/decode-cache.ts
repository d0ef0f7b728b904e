/**
 * Keys and values of one MultiHeadAttention for decoding, in a fixed number of slots, as Flax's init_cache makes them.
 * Keys are stored before rotation, with their positions.
 */

import { BudgetError, ConfigError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor, zeros } from "../tensor.ts";
import { positionRow } from "./attention-function.ts";
import { checkCount } from "./features.ts";

/** Sizes of a cache. */
export type DecodeCacheOptions = {
  /** Batch axes of the inputs; none unless told. */
  readonly batch?: readonly number[];
  /** Slots of each sequence. */
  readonly maxLength: number;
};

/** Tokens to be added: T for each batch entry. */
export type DecodeTokens = {
  /** f32 [..., T, Hk, D]. */
  readonly key: Tensor<"f32">;
  /** f32 [..., T, Hk, D]. */
  readonly value: Tensor<"f32">;
  /** [T] or [B, T]; when absent those after the last one of each sequence, from 0. */
  readonly positions?: ArrayLike<number> | undefined;
  /** i32 [B, T]; in all calls or in none. */
  readonly segments?: Int32Array | undefined;
};

/** What the added tokens attend to: n slots, themselves included. */
export type DecodeStep = {
  /** f32 [..., n, Hk, D]. */
  readonly key: Tensor<"f32">;
  /** f32 [..., n, Hk, D]. */
  readonly value: Tensor<"f32">;
  /** i32 [B, T]. */
  readonly queryPositions: Int32Array;
  /** i32 [B, n]. */
  readonly keyPositions: Int32Array;
  /** i32 [B, n]; where segments are in use. */
  readonly keySegments?: Int32Array;
};

const MAX_ELEMENTS = 2 ** 30;

/** Keys, values, positions and segments of the tokens so far. Made by `MultiHeadAttention.initCache`. */
export class DecodeCache {
  /** f32 [..., maxLength, Hk, D], before rotation; zeros in free slots. */
  readonly keys: Tensor<"f32">;
  /** f32 [..., maxLength, Hk, D]. */
  readonly values: Tensor<"f32">;
  /** i32 [B, maxLength]. */
  readonly positions: Int32Array;
  /** i32 [B, maxLength]; 0 where segments are not in use. */
  readonly segments: Int32Array;
  readonly maxLength: number;
  readonly #batch: readonly number[];
  #length = 0;
  #usesSegments = false;
  #busy = false;

  /**
   * @param kvHeads - Hk
   * @param headDim - D
   * @throws ConfigError or ShapeError for impossible sizes; BudgetError beyond 2^30 numbers
   */
  constructor({ batch = [], maxLength }: DecodeCacheOptions, kvHeads: number, headDim: number) {
    this.maxLength = checkCount("DecodeCache", "maxLength", maxLength);
    const shape = [...batch, maxLength, kvHeads, headDim];
    if (sizeOf(shape) > MAX_ELEMENTS) throw new BudgetError("DecodeCache", "at most 2^30 numbers", { shape });
    this.#batch = [...batch];
    this.keys = zeros("f32", shape);
    this.values = zeros("f32", shape);
    this.positions = new Int32Array(sizeOf(batch) * maxLength);
    this.segments = new Int32Array(sizeOf(batch) * maxLength);
  }

  /** Tokens of each sequence so far. */
  get length(): number {
    return this.#length;
  }

  /** Forgets all tokens. */
  reset(): void {
    this.#refuseWhileBusy();
    for (const t of [this.keys.data, this.values.data, this.positions, this.segments]) t.fill(0);
    this.#length = 0;
    this.#usesSegments = false;
  }

  /**
   * Adds tokens and attends with them. They stay only if `attend` succeeds.
   *
   * @throws BudgetError when they do not fit; ConfigError when another call is under way; ShapeError for other sizes
   */
  async add<T>(tokens: DecodeTokens, attend: (step: DecodeStep) => Promise<T>): Promise<T> {
    this.#refuseWhileBusy();
    const T = this.#checkTokens(tokens);
    const n = this.#length + T;
    const B = sizeOf(this.#batch);
    const queryPositions =
      tokens.positions === undefined
        ? this.#nextPositions(B, T)
        : positionRow("DecodeCache", "positions", tokens.positions, B, T);
    this.#write(this.keys.data, tokens.key.data, T);
    this.#write(this.values.data, tokens.value.data, T);
    this.#write(this.positions, queryPositions, T);
    this.#write(this.segments, tokens.segments ?? new Int32Array(B * T), T);
    const slots = (t: Tensor<"f32">): Tensor<"f32"> =>
      tensor("f32", [...this.#batch, n, ...t.shape.slice(-2)], this.#read(t.data, n));
    this.#busy = true;
    try {
      const result = await attend({
        key: slots(this.keys),
        value: slots(this.values),
        queryPositions,
        keyPositions: this.#read(this.positions, n),
        ...(tokens.segments && { keySegments: this.#read(this.segments, n) }),
      });
      this.#length = n;
      this.#usesSegments = tokens.segments !== undefined;
      return result;
    } finally {
      this.#busy = false;
    }
  }

  #refuseWhileBusy(): void {
    if (!this.#busy) return;
    throw new ConfigError("DecodeCache", "one call at a time", {}, "Await each step before the next one.");
  }

  /** T, for tokens that fit. */
  #checkTokens({ key, value, segments }: DecodeTokens): number {
    const T = key.shape.at(-3) ?? 0;
    const wanted = [...this.#batch, T, ...this.keys.shape.slice(-2)];
    if (key.shape.join() !== wanted.join() || value.shape.join() !== wanted.join()) {
      const batch = this.#batch;
      throw new ShapeError("DecodeCache", "keys and values must have the batch axes and heads of the cache", {
        key: key.shape,
        value: value.shape,
        batch,
        heads: this.keys.shape.slice(-2),
      });
    }
    if (this.#length + T > this.maxLength) {
      throw new BudgetError(
        "DecodeCache",
        "the tokens must fit into the free slots",
        { tokens: T, length: this.#length, maxLength: this.maxLength },
        "Make a cache with a larger maxLength.",
      );
    }
    if (this.#length > 0 && this.#usesSegments !== (segments !== undefined)) {
      throw new ConfigError("DecodeCache", "segments in all calls or in none", { segments: segments !== undefined });
    }
    if (segments !== undefined && segments.length !== sizeOf(this.#batch) * T) {
      throw new ShapeError("DecodeCache", "segments must be [B, T]", { length: segments.length, T });
    }
    return T;
  }

  #nextPositions(B: number, T: number): Int32Array {
    return Int32Array.from({ length: B * T }, (_, i) => {
      const last = Math.floor(i / T) * this.maxLength + this.#length - 1;
      return (this.#length === 0 ? 0 : this.positions[last] + 1) + (i % T);
    });
  }

  /** Puts [B, T, ...] into the slots after the last token. */
  #write(slots: Float32Array | Int32Array, values: Float32Array | Int32Array, T: number): void {
    const width = values.length / Math.max(sizeOf(this.#batch) * T, 1);
    for (let b = 0; b < sizeOf(this.#batch); b++) {
      const from = values.subarray(b * T * width, (b + 1) * T * width);
      slots.set(from, (b * this.maxLength + this.#length) * width);
    }
  }

  /** The first n slots of each sequence, [B, n, ...]. */
  #read<A extends Float32Array | Int32Array>(slots: A, n: number): A {
    const B = sizeOf(this.#batch);
    const width = slots.length / (B * this.maxLength);
    if (B === 1) return slots.subarray(0, n * width) as A;
    const out = new (slots.constructor as { new (length: number): A })(B * n * width);
    for (let b = 0; b < B; b++) {
      const start = b * this.maxLength * width;
      out.set(slots.subarray(start, start + n * width), b * n * width);
    }
    return out;
  }
}
