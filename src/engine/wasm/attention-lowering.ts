/**
 * A plan as the words that the attention kernels read.
 */

import type { WorkPlan } from "../../attention/index.ts";
import type { KvSide, KvSlots } from "./attention-storage.ts";
import { ITEM, ITEM_WORDS } from "./kernels/attention-rows.ts";
import { TILE_KEYS } from "./kernels/attention-scratch.ts";
import { ENTRY_BYTES } from "./kernels/attention-tile.ts";

/** A plan in memory; the same for every layer with these sizes. Addresses. */
export type LoweredPlan = {
  readonly items: number;
  readonly itemCount: number;
  /** About how many arithmetic operations they take. */
  readonly operations: number;
  /** Workers the plan deals items out to. */
  readonly workers: number;
  /** i32 [workers + 1], see `Split`. */
  readonly workerPointers: number;
  /** i32 pairs of items. */
  readonly merges: number;
  readonly mergeCount: number;
};

/** Memory for a call. */
export type CallMemory = {
  /** Puts numbers into the engine's memory and returns their address. */
  readonly place: (values: ArrayBufferView) => number;
  /** Takes so many bytes and returns their address. */
  readonly take: (bytes: number) => number;
};

/** How the keys and values of a plan are stored. */
export type KvLayout = { readonly keys: KvSide; readonly values: KvSide; readonly slots: KvSlots };

/**
 * Writes a plan's entries, bits, items and merges.
 *
 * @param stateBytes - bytes of the states of one item
 */
export function lowerPlan(
  plan: WorkPlan,
  { keys, values, slots }: KvLayout,
  memory: CallMemory,
  stateBytes: number,
): LoweredPlan {
  const { tiles, work, merges, dims } = plan;
  const { words, starts } = lowerEntries(plan, slots, memory.place(plan.bits.data));
  const entries = memory.place(words);
  const states = merges.count > 0 ? memory.take(merges.count * stateBytes) : 0;
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
    word("keys", kvHead * keys.head);
    word("values", kvHead * values.head);
    word("keyScales", kvHead * keys.scaleHead);
    word("valueScales", kvHead * values.scaleHead);
    word("entries", entries + starts[work.entryStart[n]] * ENTRY_BYTES);
    word("entriesEnd", entries + starts[work.entryEnd[n]] * ENTRY_BYTES);
    word("state", merges.slots[n] < 0 ? 0 : states + merges.slots[n] * stateBytes);
  }
  const pairs = new Int32Array(2 * merges.starts.length);
  for (let n = 0; n < merges.starts.length; n++) pairs.set([merges.starts[n], merges.ends[n]], 2 * n);
  return {
    items: memory.place(items),
    itemCount: work.row.length,
    operations: plan.cost.flops,
    workers: work.workerPointers.length - 1,
    workerPointers: memory.place(work.workerPointers),
    merges: memory.place(pairs),
    mergeCount: merges.starts.length,
  };
}

/**
 * The entries of a plan, cut where their keys do not lie in consecutive rows, and where many keys follow each other that
 * no row sees.
 *
 * @returns words of the pieces, and the first piece of every entry of the plan
 */
export function lowerEntries(
  { tiles, bits, dims }: WorkPlan,
  slots: KvSlots,
  bitsAddress: number,
): { words: Int32Array; starts: Int32Array } {
  const { rowPointers, firstPartial, columns, keyTile, planes, rowTiles } = tiles;
  const width = ENTRY_BYTES / 4;
  const starts = new Int32Array(columns.length + 1);
  let words = new Int32Array(columns.length * width);
  let pieces = 0;
  const whole = [0, keyTile];
  const seenKeys = createSeenKeys(bits, keyTile);
  for (let row = 0; row < firstPartial.length; row++) {
    const batch = Math.floor(row / (planes * rowTiles));
    const exist = slots.exist(batch);
    for (let entry = rowPointers[row]; entry < rowPointers[row + 1]; entry++) {
      starts[entry] = pieces;
      const first = columns[entry] * keyTile;
      const partial = entry - firstPartial[row];
      const offset = partial < 0 ? -1 : bits.offsets[bits.first[row] + partial];
      const runs = offset < 0 ? whole : seenKeys(offset);
      for (let n = 0; n < runs.length; n += 2) {
        const end = Math.min(first + runs[n + 1], exist);
        for (let slot = first + runs[n]; slot < end; ) {
          const count = Math.min(end - slot, TILE_KEYS, slots.run(batch, slot));
          if ((pieces + 1) * width > words.length) words = doubled(words);
          const at = pieces++ * width;
          words[at] = slots.row(batch, slot);
          words[at + 1] = count;
          words[at + 2] = offset < 0 ? 0 : bitsAddress + offset + slot - first;
          words[at + 3] = batch * dims.Tk + slot;
          slot += count;
        }
      }
    }
  }
  starts[columns.length] = pieces;
  return { words: words.subarray(0, pieces * width), starts };
}

/** So many unseen keys cost about as much as another piece. */
const GAP = 8;

/** The keys of a tile of bits that some row sees, as pairs of first and after the last, with gaps of at least GAP. */
function createSeenKeys({ data, rowBlocks }: WorkPlan["bits"], keyTile: number): (offset: number) => number[] {
  const known = new Map<number, number[]>();
  return (offset) => {
    const found = known.get(offset);
    if (found) return found;
    const runs: number[] = [];
    for (let key = 0; key < keyTile; key++) {
      let seen = 0;
      for (let block = 0; block < rowBlocks; block++) seen |= data[offset + block * keyTile + key];
      if (seen === 0) continue;
      if (runs.length > 0 && key - runs[runs.length - 1] < GAP) runs[runs.length - 1] = key + 1;
      else runs.push(key, key + 1);
    }
    known.set(offset, runs);
    return runs;
  };
}

function doubled(words: Int32Array): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(2 * words.length);
  larger.set(words);
  return larger;
}
