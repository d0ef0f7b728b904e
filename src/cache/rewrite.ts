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
  rewrite(cache, "replaceValues", layer, (lane, firstHead) => {
    for (let head = 0; head < lane.heads; head++) {
      const { dim } = lane.store.block.values;
      const expected = lane.length * dim;
      const length = values[firstHead + head]?.length ?? expected;
      if (length === expected) continue;
      throw new ShapeError("replaceValues", `values of head ${firstHead + head} must have ${expected} numbers`, {
        length,
        layer,
      });
    }
    changeRows(
      lane,
      ({ values: rows }) => [rows],
      (numbers, slot, count, dim) => {
        for (let n = 0; n < count * lane.heads; n++) {
          const source = values[firstHead + (n % lane.heads)];
          const from = (slot + Math.floor(n / lane.heads)) * dim;
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
          const goes = dropped[firstHead + (n % lane.heads)];
          for (let d = 0; d < dim; d++) if (goes[d]) numbers[n * dim + d] = 0;
        }
      },
    );
  });
}

function rewrite<View extends KeyValues>(
  cache: PositionedCache<View>,
  name: string,
  layer: number,
  change: (lane: Lane, firstHead: number) => void,
): void {
  cache.checkSettled(name);
  let firstHead = 0;
  for (const lane of cache.states[layer].lanes) {
    change(lane, firstHead);
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
