/**
 * A plan as the words that the attention kernels read.
 */

import type { AttentionPlan } from "../../attention/index.ts";
import { ITEM, ITEM_WORDS } from "./kernels/attention-rows.ts";
import { ENTRY_BYTES } from "./kernels/attention-tile.ts";

/** A plan in memory; the same for every layer with these sizes. Addresses. */
export type LoweredPlan = {
  readonly items: number;
  readonly itemCount: number;
  /** Workers the plan deals items out to. */
  readonly workers: number;
  /** i32 [workers + 1], see `Split`. */
  readonly workerPointers: number;
  /** i32 pairs of items. */
  readonly merges: number;
  readonly mergeCount: number;
};

/** Distances in the key and value storage, in bytes. */
export type KvStrides = {
  /** From one batch entry to the next. */
  readonly keyBatch: number;
  readonly valueBatch: number;
  /** From one head to the next. */
  readonly keyHead: number;
  readonly valueHead: number;
};

/** Puts bytes into the engine's memory and returns their address. */
export type PlaceBytes = (bytes: Uint8Array | Int32Array) => number;

/**
 * Writes a plan's entries, bits, items and merges.
 *
 * @param takeStates - takes memory for so many bytes of states
 * @param stateBytes - bytes of the states of one item
 */
export function lowerPlan(
  plan: AttentionPlan,
  strides: KvStrides,
  place: PlaceBytes,
  takeStates: (bytes: number) => number,
  stateBytes: number,
): LoweredPlan {
  const { tiles, work, merges, dims } = plan;
  const entries = place(entryWords(plan, place(plan.bits.data)));
  const states = merges.count > 0 ? takeStates(merges.count * stateBytes) : 0;
  const group = dims.H / dims.Hk;
  const items = new Int32Array(work.row.length * ITEM_WORDS);
  for (let n = 0; n < work.row.length; n++) {
    const row = work.row[n];
    const kvHead = work.kvHead[n];
    const batch = Math.floor(row / (tiles.planes * tiles.rowTiles));
    const rowStart = (row % tiles.rowTiles) * tiles.rowTile;
    const word = (name: keyof typeof ITEM, value: number): void => {
      items[n * ITEM_WORDS + ITEM[name]] = value;
    };
    word("rowStart", rowStart);
    word("rowCount", Math.min(tiles.rowTile, dims.Tq * group - rowStart));
    word("queryBase", batch * dims.Tq);
    word("headBase", kvHead * group);
    word("keys", batch * strides.keyBatch + kvHead * strides.keyHead);
    word("values", batch * strides.valueBatch + kvHead * strides.valueHead);
    word("entries", entries + work.entryStart[n] * ENTRY_BYTES);
    word("entriesEnd", entries + work.entryEnd[n] * ENTRY_BYTES);
    word("state", merges.slots[n] < 0 ? 0 : states + merges.slots[n] * stateBytes);
  }
  const pairs = new Int32Array(2 * merges.starts.length);
  for (let n = 0; n < merges.starts.length; n++) pairs.set([merges.starts[n], merges.ends[n]], 2 * n);
  return {
    items: place(items),
    itemCount: work.row.length,
    workers: work.workerPointers.length - 1,
    workerPointers: place(work.workerPointers),
    merges: place(pairs),
    mergeCount: merges.starts.length,
  };
}

/** {first key, keys, address of bits or 0} of every entry. */
export function entryWords({ tiles, bits, dims }: AttentionPlan, bitsAddress: number): Int32Array {
  const { rowPointers, firstPartial, columns, keyTile } = tiles;
  const words = new Int32Array((columns.length * ENTRY_BYTES) / 4);
  for (let row = 0; row < firstPartial.length; row++) {
    for (let entry = rowPointers[row]; entry < rowPointers[row + 1]; entry++) {
      const firstKey = columns[entry] * keyTile;
      const partial = entry - firstPartial[row];
      words[3 * entry] = firstKey;
      words[3 * entry + 1] = Math.min(keyTile, dims.Tk - firstKey);
      words[3 * entry + 2] = partial < 0 ? 0 : bitsAddress + bits.offsets[bits.first[row] + partial];
    }
  }
  return words;
}
