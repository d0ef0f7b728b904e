/**
 * Keys and values of any layout and element type as plain dense tensors: what the reference computes on.
 */

import { bf16ToNumber, f16ToNumber } from "../dtype.ts";
import { ConfigError } from "../errors.ts";
import { requirements } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { checkKeyValues } from "./kv-check.ts";
import type { KeyValues, KvStore } from "./kv-view.ts";
import { dequantizeKv } from "./quantize.ts";
import { rowsOfModifier } from "./score.ts";
import type { AttentionRequest, DenseAttentionRequest } from "./spec.ts";

/** Dense keys and values. */
export type DenseKv = {
  /** f32 [B, Tk, Hk, D]; f64 where the keys are; zeros in slots that do not exist. */
  readonly k: Tensor<"f32" | "f64">;
  /** f32 [B, Tk, Hk, Dv]; f64 where the values are. */
  readonly v: Tensor<"f32" | "f64">;
  /** i32 [B, Tk]; 0 in slots that do not exist. */
  readonly keyPositions: Int32Array;
  /** i32 [B, Tk]; −1 in slots that do not exist. */
  readonly keySegments: Int32Array;
  /** i32 [B], slots that exist. */
  readonly lengths: Int32Array;
};

/**
 * Where a slot is stored: a row index into [outer · rows], the first two axes of the storage.
 *
 * @param kv - checked keys and values
 * @param rows - stored rows along axis 1
 */
export function storedRow(kv: KeyValues, rows: number, batch: number, slot: number): number {
  if (kv.layout === "ring") return batch * rows + ((kv.starts[batch] + slot) % rows);
  if (kv.layout === "paged") {
    const page = kv.pageTable.data[batch * kv.pageTable.shape[1] + Math.floor(slot / rows)];
    return page * rows + (slot % rows);
  }
  return batch * rows + slot;
}

/**
 * Copies keys and values into slot order, dequantised.
 *
 * @param kv - keys and values in any layout
 * @returns dense tensors with the batch axis, positions and segments by slot
 * @throws ShapeError or ConfigError when a table leads out of the storage
 */
export function gatherKv(kv: KeyValues): DenseKv {
  const { from, k, v, ...slots } = readSlots(kv);
  return { k: gatherRows(kv.keys, from, k.shape), v: gatherRows(kv.values, from, v.shape), ...slots };
}

/** As `gatherKv`, but k and v are shapes without numbers: what a plan needs. */
export function shapeOfKv(kv: KeyValues): DenseKv {
  const { from: _, ...shapes } = readSlots(kv);
  return shapes as DenseKv;
}

/** Dense keys and values without their numbers. */
type KvSlots = Omit<DenseKv, "k" | "v"> & { readonly [name in "k" | "v"]: Pick<DenseKv[name], "dtype" | "shape"> };

/** Everything but the numbers, and the stored row of each slot, −1 where there is none. */
function readSlots(kv: KeyValues): KvSlots & { from: Int32Array } {
  const { B, Tk, Hk, D, Dv, rows } = checkKeyValues("gatherKv", kv);
  const lengths = kv.layout === undefined ? undefined : kv.lengths;
  const exists = Int32Array.from({ length: B }, (_, b) => lengths?.[b] ?? Tk);
  const keyPositions = new Int32Array(B * Tk);
  const keySegments = new Int32Array(B * Tk).fill(-1);
  const from = new Int32Array(B * Tk).fill(-1); // stored row of each slot
  for (let b = 0; b < B; b++) {
    for (let s = 0; s < exists[b]; s++) {
      const slot = b * Tk + s;
      from[slot] = storedRow(kv, rows, b, s);
      keyPositions[slot] = kv.positions[slot];
      keySegments[slot] = kv.segments[slot];
    }
  }
  return {
    from,
    k: { dtype: "f32", shape: [B, Tk, Hk, D] },
    v: { dtype: "f32", shape: [B, Tk, Hk, Dv] },
    keyPositions,
    keySegments,
    lengths: exists,
  };
}

function gatherRows(store: KvStore, from: Int32Array, shape: readonly number[]): Tensor<"f32" | "f64"> {
  const dense = "codes" in store ? dequantizeKv(store) : store;
  const width = shape[2] * shape[3];
  const values = dense.dtype === "f64" ? new Float64Array(from.length * width) : new Float32Array(from.length * width);
  const decode = dense.dtype === "f16" ? f16ToNumber : dense.dtype === "bf16" ? bf16ToNumber : undefined;
  from.forEach((row, slot) => {
    if (row < 0) return;
    const stored = dense.data.subarray(row * width, (row + 1) * width);
    if (decode === undefined) values.set(stored, slot * width);
    else
      stored.forEach((bits, n) => {
        values[slot * width + n] = decode(bits);
      });
  });
  return values instanceof Float64Array ? tensor("f64", shape, values) : tensor("f32", shape, values);
}

/**
 * The same request with its view of keys and values, if it has one, as dense tensors.
 *
 * @param read - `gatherKv`, or `shapeOfKv` where the numbers do not matter
 * @throws ShapeError or ConfigError when a table leads out of the storage, or keys are given twice
 */
export function withDenseKeys(
  request: AttentionRequest,
  read: (kv: KeyValues) => DenseKv = gatherKv,
): DenseAttentionRequest {
  if (request.kv === undefined) return request;
  const { kv, ...options } = request;
  for (const name of ["k", "v", "keyPositions", "keySegments"] as const) {
    if (options[name] !== undefined) {
      throw new ConfigError("attention", `kv must be given instead of ${name}`, {}, "The view has its own.");
    }
  }
  if (request.queryPositions === undefined) {
    throw new ConfigError(
      "attention",
      "queryPositions are required with kv",
      {},
      "A view knows its own positions only.",
    );
  }
  const { k, v, keyPositions, keySegments, lengths } = read(kv);
  const batched = request.q.shape.length === 4 || k.shape[0] !== 1;
  const dense = {
    ...options,
    k: batched ? k : { ...k, shape: k.shape.slice(1) },
    v: batched ? v : { ...v, shape: v.shape.slice(1) },
    keyPositions,
    keySegments,
    lengths: request.lengths ?? lengths,
  };
  if (request.querySegments !== undefined || readsSegments(request)) return dense;
  // All that is left of segments is which keys exist.
  return {
    ...dense,
    querySegments: new Int32Array(k.shape[0] * request.q.shape[batched ? 1 : 0]),
    keySegments: keySegments.map((segment) => Math.min(segment, 0)),
  };
}

function readsSegments({ mask, scoreModifier }: AttentionRequest): boolean {
  const rows = [...(mask ? requirements(mask).rows : []), ...(scoreModifier ? rowsOfModifier(scoreModifier) : [])];
  return rows.includes("querySegments") || rows.includes("keySegments");
}
