/**
 * Where keys and values lie: element types, strides, and which stored row a slot has.
 */

import { type AttentionDims, type KeyValues, type KvStore, storedRow } from "../../attention/index.ts";
import { type KvType, rowBytes } from "./kernels/attention-elements.ts";
import type { KvStorage } from "./kernels/attention-scratch.ts";

/** Keys or values in memory, without their addresses. */
export type KvSide = KvStorage & {
  /** Bytes from one head to the next, and from the scale of one head to that of the next. */
  readonly head: number;
  readonly scaleHead: number;
};

/** Slots and the rows they are stored in. Rows are numbered over all batch entries or pages. */
export type KvSlots = {
  /** Slots of a batch entry that exist; what is stored in others is never read. */
  readonly exist: (batch: number) => number;
  /** The row of a slot that exists. */
  readonly row: (batch: number, slot: number) => number;
  /** Slots from this one on that lie in consecutive rows, at least 1. */
  readonly run: (batch: number, slot: number) => number;
};

/** The type and strides of a store [..., Hk, D]. */
export function storageOf(store: Pick<KvStore, "shape"> & Partial<KvStore>): KvSide {
  const [heads, width] = store.shape.slice(-2);
  const type = typeOf(store);
  const head = rowBytes(type, width);
  const scales = "axis" in store && store.axis !== undefined;
  const scaleHead = scales && store.axis === "dkv" ? 4 : 0;
  return {
    type,
    stride: heads * head,
    head,
    scaleStride: !scales ? 0 : scaleHead > 0 ? heads * 4 : 4,
    scaleHead,
  };
}

function typeOf(store: Partial<KvStore>): KvType {
  if ("bits" in store) return store.bits === "fp8" ? "fp8" : store.bits === 8 ? "int8" : "int4";
  const { dtype } = store as { dtype?: string };
  return dtype === "f16" || dtype === "bf16" ? dtype : "f32";
}

/** The slots of a request's keys: those of a view, or those of tensors [B, Tk, Hk, D]. */
export function slotsOf(kv: KeyValues | undefined, { Tk }: Pick<AttentionDims, "Tk">): KvSlots {
  const lengths = kv === undefined || kv.layout === undefined ? undefined : kv.lengths;
  const exist = (batch: number): number => lengths?.[batch] ?? Tk;
  if (kv?.layout === "ring") {
    const capacity = kv.keys.shape[1];
    const row = (batch: number, slot: number): number => storedRow(kv, capacity, batch, slot);
    return { exist, row, run: (batch, slot) => (batch + 1) * capacity - row(batch, slot) };
  }
  if (kv?.layout === "paged") {
    const page = kv.keys.shape[1];
    const row = (batch: number, slot: number): number => storedRow(kv, page, batch, slot);
    return { exist, row, run: (_, slot) => page - (slot % page) };
  }
  return { exist, row: (batch, slot) => batch * Tk + slot, run: () => Infinity };
}
