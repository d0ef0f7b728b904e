/**
 * Refuses keys and values whose tables lead out of their storage, so that no kernel has to look.
 */

import { holds } from "../dtype.ts";
import { ConfigError, ShapeError } from "../errors.ts";
import { sizeOf } from "../tensor.ts";
import type { KeyValues, KvStore, PagedKv, RingKv } from "./kv-view.ts";
import { checkQuantizedKv } from "./quantize.ts";

const LAYOUTS: readonly unknown[] = ["contiguous", "ring", "paged"];
const DTYPES: readonly unknown[] = ["f32", "f64", "f16", "bf16"];

/** Sizes of keys and values, by the house's shape letters. */
export type KvDims = {
  readonly B: number;
  readonly Tk: number;
  readonly Hk: number;
  readonly D: number;
  readonly Dv: number;
  /** Stored rows along axis 1: Tk, the capacity of a ring, or the page size. */
  readonly rows: number;
};

/**
 * Checks sizes, lengths, ring starts and page tables.
 *
 * @param where - the function that refuses, for messages
 * @returns the sizes
 * @throws ShapeError when sizes do not fit together
 * @throws ConfigError when a length, a ring start or a page id is out of range
 */
export function checkKeyValues(where: string, kv: KeyValues): KvDims {
  if (kv.layout !== undefined && !LAYOUTS.includes(kv.layout)) {
    throw new ConfigError(where, `layout must be one of ${LAYOUTS.join(", ")}, or absent`, { layout: kv.layout });
  }
  const keys = storeShape(where, "keys", kv.keys, kv.layout === undefined ? 3 : 4);
  const values = storeShape(where, "values", kv.values, kv.layout === undefined ? 3 : 4);
  if (keys.slice(0, -1).join() !== values.slice(0, -1).join()) {
    throw new ShapeError(where, "keys and values must have the same shape but for the last axis", { keys, values });
  }
  const [outer, rows, Hk, D] = kv.layout === undefined ? [1, ...keys] : keys;
  const Dv = values.at(-1) as number;
  const B = kv.layout === "paged" ? pageTableShape(where, kv)[0] : outer;
  const Tk = countSlots(where, kv, B, rows);
  if (kv.layout === undefined) return { B, Tk, Hk, D, Dv, rows };
  checkLengths(where, kv.lengths, B, Tk);
  if (kv.layout === "ring") checkStarts(where, kv, B, rows);
  if (kv.layout === "paged") checkPages(where, kv, { B, Tk, pages: outer, rows });
  return { B, Tk, Hk, D, Dv, rows };
}

function storeShape(where: string, name: string, store: KvStore, rank: number): readonly number[] {
  if ("codes" in store) checkQuantizedKv(where, store);
  else if (!DTYPES.includes(store.dtype) || !holds(store.dtype, store.data)) {
    throw new ShapeError(where, `${name} must be f32, f64, f16 or bf16, in an array of that type`, {
      dtype: store.dtype,
      array: Object.prototype.toString.call(store.data),
    });
  } else if (store.data.length !== sizeOf(store.shape)) {
    throw new ShapeError(where, `the data of ${name} must have the size of its shape`, {
      length: store.data.length,
      shape: store.shape,
    });
  }
  if (store.shape.length !== rank) {
    throw new ShapeError(where, `${name} must have ${rank} axes`, { shape: store.shape });
  }
  return store.shape;
}

/** Tk, and that positions and segments have it. */
function countSlots(where: string, kv: KeyValues, B: number, rows: number): number {
  const { positions, segments } = kv;
  for (const [name, row] of Object.entries({ positions, segments })) {
    if (!(row instanceof Int32Array)) throw new ShapeError(where, `${name} must be an Int32Array`, {});
  }
  if (segments.length !== positions.length) {
    throw new ShapeError(where, "positions and segments must have the same length", {
      positions: positions.length,
      segments: segments.length,
    });
  }
  const Tk = B === 0 ? 0 : positions.length / B;
  if (!Number.isInteger(Tk) || Tk * B !== positions.length) {
    throw new ShapeError(where, "positions must be [B, Tk]", { length: positions.length, B });
  }
  if (kv.layout === "paged") {
    const room = kv.pageTable.shape[1] * rows;
    if (Tk > room) {
      throw new ShapeError(where, "positions must not be longer than the page table", { Tk, room });
    }
  } else if (kv.layout === "ring") {
    if (Tk > rows) {
      throw new ShapeError(where, "positions must not be longer than the ring", { Tk, capacity: rows });
    }
  } else if (Tk !== rows) {
    throw new ShapeError(where, "positions must have one entry per stored row", { Tk, rows });
  }
  return Tk;
}

function checkLengths(where: string, lengths: Int32Array | undefined, B: number, Tk: number): void {
  if (lengths === undefined) return;
  if (lengths.length !== B) throw new ShapeError(where, `lengths must have ${B} entries`, { length: lengths.length });
  lengths.forEach((length, b) => {
    if (length < 0 || length > Tk) {
      throw new ConfigError(where, `lengths must be from 0 to ${Tk}`, { batch: b, length });
    }
  });
}

function checkStarts(where: string, kv: RingKv, B: number, capacity: number): void {
  if (kv.starts.length !== B) {
    throw new ShapeError(where, `starts must have ${B} entries`, { length: kv.starts.length });
  }
  kv.starts.forEach((start, b) => {
    if (start < 0 || start >= Math.max(capacity, 1)) {
      throw new ConfigError(where, `starts must be from 0 to ${capacity - 1}`, { batch: b, start });
    }
  });
}

function pageTableShape(where: string, { pageTable }: PagedKv): readonly number[] {
  if (pageTable.dtype !== "i32" || pageTable.shape.length !== 2 || pageTable.data.length !== sizeOf(pageTable.shape)) {
    throw new ShapeError(where, "pageTable must be i32 [B, maxPages]", {
      dtype: pageTable.dtype,
      shape: pageTable.shape,
    });
  }
  return pageTable.shape;
}

function checkPages(
  where: string,
  { pageTable, lengths }: PagedKv,
  { B, Tk, pages, rows }: { B: number; Tk: number; pages: number; rows: number },
): void {
  if (rows === 0) throw new ShapeError(where, "the page size must be at least 1", { rows });
  const columns = pageTable.shape[1];
  for (let b = 0; b < B; b++) {
    const used = Math.ceil((lengths?.[b] ?? Tk) / rows);
    for (let n = 0; n < columns; n++) {
      const page = pageTable.data[b * columns + n];
      if (page < -1 || page >= pages) {
        throw new ConfigError(where, `page ids must be from 0 to ${pages - 1}, or -1`, { batch: b, column: n, page });
      }
      if (page === -1 && n < used) {
        throw new ConfigError(where, "every slot in use must have a page", {
          batch: b,
          column: n,
          slots: lengths?.[b] ?? Tk,
        });
      }
    }
  }
}
