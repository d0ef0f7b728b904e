/**
 * Keys and values as attention sees them: rows that know their position and segment, wherever they are stored.
 *
 * Slots are logical: slot s of batch entry b is the s-th row of that sequence, and `positions` and `segments` are
 * by slot. A layout says where slot s is stored:
 *
 * | layout     | stored at                                          | slots that exist      |
 * |------------|----------------------------------------------------|-----------------------|
 * | contiguous | row (b, s)                                         | s < lengths[b], or all |
 * | ring       | row (b, (starts[b] + s) mod capacity)              | s < lengths[b], or all |
 * | paged      | page pageTable[b, floor(s / P)], row s mod P       | s < lengths[b], or all |
 *
 * What is stored in slots that do not exist is never read.
 */

import type { Tensor } from "../tensor.ts";
import type { QuantizedKv } from "./quantize.ts";

/** What the owner of slots knows of them, which spares reading them at every step. */
export type SlotOrder = {
  /** Views with the same object here have equal positions and segments. */
  readonly version: object;
  /** Whether positions never fall from slot to slot. */
  readonly ascending: boolean;
  /** The segment of all slots; undefined where they differ. */
  readonly segment: number | undefined;
};

/** Keys and values of one layer and one sequence, shared with their owner: valid until the owner changes. */
export type KvView = {
  readonly layout?: undefined;
  /** f32 [Tk, Hk, D], keys as stored (rotated). */
  readonly keys: Tensor<"f32">;
  /** f32 [Tk, Hk, Dv]. */
  readonly values: Tensor<"f32">;
  /** i32 [Tk], the true position of every row. */
  readonly positions: Int32Array;
  /** i32 [Tk], the segment of every row; −1 is padding. */
  readonly segments: Int32Array;
  readonly order?: SlotOrder;
};

/** Keys or values in any element type; keys and values may differ in it. */
export type KvStore = Tensor<"f32" | "f64" | "f16" | "bf16"> | QuantizedKv;

/** What every layout has. */
type KvSlots = {
  /** i32 [B, Tk], the true position of every slot. */
  readonly positions: Int32Array;
  /** i32 [B, Tk], the segment of every slot; −1 is padding. */
  readonly segments: Int32Array;
  /** i32 [B], slots that exist, 0 to Tk; absent: all. */
  readonly lengths?: Int32Array;
  /** Only where B = 1. */
  readonly order?: SlotOrder;
};

/** Rows of each sequence one after the other; ragged when lengths differ. */
export type ContiguousKv = KvSlots & {
  readonly layout: "contiguous";
  /** [B, Tk, Hk, D]. */
  readonly keys: KvStore;
  /** [B, Tk, Hk, Dv]. */
  readonly values: KvStore;
};

/** Rows of each sequence in a ring that starts anywhere. */
export type RingKv = KvSlots & {
  readonly layout: "ring";
  /** [B, capacity, Hk, D], capacity ≥ Tk. */
  readonly keys: KvStore;
  /** [B, capacity, Hk, Dv]. */
  readonly values: KvStore;
  /** i32 [B], where slot 0 is stored, 0 to capacity − 1. */
  readonly starts: Int32Array;
};

/** Rows in pages of P rows, in any order; sequences may share pages. */
export type PagedKv = KvSlots & {
  readonly layout: "paged";
  /** [pages, P, Hk, D]. */
  readonly keys: KvStore;
  /** [pages, P, Hk, Dv]. */
  readonly values: KvStore;
  /** i32 [B, maxPages], the page of slots nP to nP + P − 1 in column n; −1 is no page. maxPages · P ≥ Tk. */
  readonly pageTable: Tensor<"i32">;
};

/** Keys and values in any layout. */
export type KeyValues = KvView | ContiguousKv | RingKv | PagedKv;

/** All heads in one view; or, where heads hold rows of their own, one view per key-value head, each with Hk = 1. */
export type KvViews = KeyValues | readonly KeyValues[];

/**
 * One sequence (B = 1) in two parts: older rows whose keys hold some of their channels, the others counting as 0, and
 * newer rows whose keys hold all. One of the two may have no rows.
 */
export type NarrowedKv = {
  /** The older rows: keys [..., Hk, D′], values [..., Hk, Dv]. */
  readonly narrow: KvViews;
  /** i32 [Hk][D′], the channels that the older keys hold, ascending. */
  readonly channels: readonly Int32Array[];
  /** The newer rows, in as many views. */
  readonly full: KvViews;
};
