/**
 * Rewriting what the rows of a layer hold, for compression that does more than choose rows. Rows, positions and bytes
 * stay as many as they were. To be used between the steps of a model, like every operation that reads rows.
 */

import type { KeyValues } from "../attention/index.ts";
import { ShapeError } from "../errors.ts";
import type { Lane } from "./lane.ts";
import type { PositionedCache } from "./positioned-cache.ts";
import type { RowArray } from "./row-array.ts";
import type { RowBlock } from "./row-block.ts";
import { runsOf } from "./slot-store.ts";

/** Rows loaded at a time; bounds the memory of a rewrite. */
const BATCH_ROWS = 256;

/**
 * Puts other values in place of a layer's; quantised ones are quantised again.
 *
 * @param values - f32 [Hk][length, Dv], as many rows as each head holds; undefined: the head's values stay
 * @throws ShapeError when sizes differ
 */
export function replaceValues<View extends KeyValues>(
  cache: PositionedCache<View>,
  layer: number,
  values: readonly (Float32Array | undefined)[],
): void {
  const { kvHeads, valueDim } = cache.states[layer].spec;
  for (let head = 0; head < kvHeads; head++) {
    const expected = cache.length(layer, head) * valueDim;
    const length = values[head]?.length ?? expected;
    if (length === expected) continue;
    throw new ShapeError("replaceValues", `values of head ${head} must have ${expected} numbers`, { length, layer });
  }
  rewrite(cache, "replaceValues", layer, (lane, firstHead, firstSlot) => {
    changeRows(
      lane,
      ({ values: rows }) => [rows],
      (numbers, slot, count, dim) => {
        for (let n = 0; n < count * lane.heads; n++) {
          const source = values[firstHead + (n % lane.heads)];
          const from = (firstSlot + slot + Math.floor(n / lane.heads)) * dim;
          if (source) numbers.set(source.subarray(from, from + dim), n * dim);
        }
      },
    );
  });
}

/**
 * Sets key channels to 0, in every row of a layer; rows keep their width. Pristine keys are cleared too.
 *
 * @param dropped - u8 [Hk][D], 1 for channels to clear
 */
export function clearKeyChannels<View extends KeyValues>(
  cache: PositionedCache<View>,
  layer: number,
  dropped: readonly Uint8Array[],
): void {
  rewrite(cache, "clearKeyChannels", layer, (lane, firstHead) => {
    changeRows(
      lane,
      ({ keys, pristine }) => (pristine ? [keys, pristine] : [keys]),
      (numbers, _slot, count, dim) => {
        for (let n = 0; n < count * lane.heads; n++) {
          const head = n % lane.heads;
          const goes = dropped[firstHead + head];
          for (let d = 0; d < dim; d++) if (goes[lane.channels?.[head][d] ?? d]) numbers[n * dim + d] = 0;
        }
      },
    );
  });
}

function rewrite<View extends KeyValues>(
  cache: PositionedCache<View>,
  name: string,
  layer: number,
  change: (lane: Lane, firstHead: number, firstSlot: number) => void,
): void {
  cache.checkSettled(name);
  const { lanes, narrow } = cache.states[layer];
  let firstHead = 0;
  for (const [n, lane] of lanes.entries()) {
    const older = narrow[n];
    if (older) change(older, firstHead, 0);
    change(lane, firstHead, older?.length ?? 0);
    firstHead += lane.heads;
  }
}

/** Loads, changes and saves every row, some at a time. */
function changeRows(
  lane: Lane,
  arrays: (block: RowBlock) => readonly RowArray[],
  change: (numbers: Float32Array, slot: number, count: number, dim: number) => void,
): void {
  lane.store.own(0, lane.length);
  for (const { slot, row, count } of runsOf(lane.store, 0, lane.length, BATCH_ROWS)) {
    for (const array of arrays(lane.store.block)) {
      const numbers = array.load(row, count);
      change(numbers, slot, count, array.dim);
      array.save(row, count, numbers);
    }
  }
}
