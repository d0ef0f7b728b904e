/**
 * Plans of a decoder's usual step: one query token over a sequence whose positions never fall and that has one
 * segment. Then the ends of a run of slots bound all its positions, and a plan takes a time that depends on the tiles
 * with work, not on the slots. The result is what `planAttention` makes.
 */

import { createMaskInputs, type Mask, requirements, type TilePlan } from "../mask/index.ts";
import { Box, compileVerdict, EMPTY, FULL, PARTIAL, type Verdict } from "../mask/interval.ts";
import { lowerMask } from "../mask/lower.ts";
import { leavesFor } from "../mask/min-max-tree.ts";
import type { KeyValues } from "./kv-view.ts";
import { shareWork, tileSizes, type WorkPlan } from "./plan.ts";
import type { PlanBits } from "./plan-tiles.ts";

/** One query token of every head and the keys that it may see. */
export type StepRequest = {
  /** H, all query heads of the view. */
  readonly heads: number;
  /** D. */
  readonly headDim: number;
  readonly kv: KeyValues;
  readonly mask: Mask;
  readonly queryPosition: number;
  readonly querySegment: number;
};

/** For whom a step is planned. */
export type StepOptions = {
  readonly workers: number;
  readonly tile: { readonly rows: number; readonly keys?: number };
};

/** More partial tiles than these are left to `planAttention`, which looks at them faster. */
const MAX_PARTIAL = 8;

/** Plans steps; keeps what it has compiled of the masks it has met. */
export class StepPlanner {
  readonly #looks = new WeakMap<Mask, Look | null>();

  /** @returns undefined where the step is not a usual one: leave it to `planAttention` */
  plan(request: StepRequest, options: StepOptions): WorkPlan | undefined {
    const { kv, mask, heads, headDim } = request;
    const { order, positions, segments, keys, values } = kv;
    const isOne = segments.length === positions.length && (kv.layout === undefined || kv.lengths === undefined);
    if (order === undefined || !order.ascending || order.segment === undefined || !isOne) return undefined;
    const look = this.#lookFor(mask);
    if (look === null) return undefined;
    const [Hk, D] = keys.shape.slice(-2);
    const dims = {
      B: 1,
      Tq: 1,
      Tk: positions.length,
      H: heads,
      Hk,
      D: headDim,
      Dv: values.shape.at(-1) as number,
    };
    const group = heads / Hk;
    if (D !== headDim || !Number.isInteger(group) || dims.Tk === 0) return undefined;
    const { rowTile, keyTile } = tileSizes("decode", dims, kv, options.tile);
    if (group > rowTile) return undefined;
    look.setQuery(request.queryPosition, request.querySegment, order.segment);
    const found = findTiles(look, positions, keyTile);
    if (found === undefined) return undefined;
    const { full, partial, bits, visibleKeys } = found;
    const tiles: TilePlan = {
      batch: 1,
      queryLength: 1,
      keyLength: dims.Tk,
      group,
      planes: 1,
      rowTile,
      keyTile,
      rowTiles: 1,
      keyTiles: Math.ceil(dims.Tk / keyTile),
      rowPointers: Int32Array.of(0, full.length + partial.length),
      firstPartial: Int32Array.of(full.length),
      columns: Int32Array.from([...full, ...partial]),
      maskHash: "",
    };
    return shareWork(dims, tiles, packBits(bits, { rowTile, keyTile, group }), visibleKeys * group, options.workers);
  }

  #lookFor(mask: Mask): Look | null {
    let look = this.#looks.get(mask);
    if (look === undefined) {
      look = createLook(mask);
      this.#looks.set(mask, look);
    }
    return look;
  }
}

/** What a mask says of a run of slots. */
type Look = {
  setQuery: (position: number, segment: number, keySegment: number) => void;
  /** Of the slots `first` to `last`, which have positions from `lo` to `hi`. */
  at: (first: number, last: number, lo: number, hi: number) => Verdict;
};

/** @returns null when the mask reads more than positions, segments and slots */
function createLook(mask: Mask): Look | null {
  const { rows, tables, integerTables, headDependent } = requirements(mask);
  const others = rows.filter((row) => row !== "querySegments" && row !== "keySegments");
  if (others.length + tables.length + integerTables.length > 0 || headDependent) return null;
  const inputs = createMaskInputs({ queryLength: 1, keyLength: 1 });
  const box = new Box();
  const segments = new Int32Array(1);
  const verdict = compileVerdict(lowerMask(mask, { querySegments: segments, keySegments: segments }), inputs, box);
  const { queryPosition, querySegment, keyPosition, keySegment, keySlot } = box.variables;
  return {
    setQuery: (position, segment, ofKeys) => {
      queryPosition.set(position, position);
      querySegment.set(segment, segment);
      keySegment.set(ofKeys, ofKeys);
    },
    at: (first, last, lo, hi) => {
      keyPosition.set(lo, hi);
      keySlot.set(first, last);
      return verdict();
    },
  };
}

type FoundTiles = {
  /** Tiles all of whose keys are seen, ascending. */
  readonly full: number[];
  /** Tiles some of whose keys are seen, ascending. */
  readonly partial: number[];
  /** Per partial tile which keys are seen. */
  readonly bits: Uint8Array[];
  readonly visibleKeys: number;
};

function findTiles(look: Look, positions: Int32Array, keyTile: number): FoundTiles | undefined {
  const slots = positions.length;
  const tiles = Math.ceil(slots / keyTile);
  const full: number[] = [];
  const partial: number[] = [];
  const bits: Uint8Array[] = [];
  let visibleKeys = 0;

  /** Files the tiles from `first` on; false when there are too many partial ones. */
  const descend = (first: number, count: number): boolean => {
    if (first >= tiles) return true;
    const last = Math.min(first + count, tiles);
    const [start, end] = [first * keyTile, Math.min(last * keyTile, slots)];
    const answer = look.at(start, end - 1, positions[start], positions[end - 1]);
    if (answer === EMPTY) return true;
    if (answer === FULL) {
      for (let tile = first; tile < last; tile++) full.push(tile);
      visibleKeys += end - start;
      return true;
    }
    if (count > 1) return descend(first, count / 2) && descend(first + count / 2, count / 2);
    return lookInto(first, start, end);
  };

  /** Files a tile by its keys, one after the other. */
  const lookInto = (tile: number, start: number, end: number): boolean => {
    const seen = new Uint8Array(keyTile);
    let count = 0;
    for (let slot = start; slot < end; slot++) {
      const answer = look.at(slot, slot, positions[slot], positions[slot]);
      if (answer === PARTIAL) return false;
      seen[slot - start] = answer;
      count += answer;
    }
    visibleKeys += count;
    if (count === end - start) full.push(tile);
    else if (count > 0) {
      partial.push(tile);
      bits.push(seen);
    }
    return partial.length <= MAX_PARTIAL;
  };

  return descend(0, leavesFor(tiles)) ? { full, partial, bits, visibleKeys } : undefined;
}

/** Bits as `PlanBits` has them: all rows of the group see the same, equal tiles are stored once. */
function packBits(
  seen: readonly Uint8Array[],
  { rowTile, keyTile, group }: { rowTile: number; keyTile: number; group: number },
): PlanBits {
  const rowBlocks = Math.ceil(rowTile / 8);
  const bytesPerTile = rowBlocks * keyTile;
  const different = seen.filter((tile, n) => n === firstEqual(seen, tile));
  const data = new Uint8Array(different.length * bytesPerTile);
  for (const [n, tile] of different.entries()) {
    for (let block = 0; block < rowBlocks; block++) {
      const rows = (1 << Math.min(8, Math.max(0, group - 8 * block))) - 1;
      for (let key = 0; key < keyTile; key++) data[n * bytesPerTile + block * keyTile + key] = tile[key] * rows;
    }
  }
  return {
    rowBlocks,
    bytesPerTile,
    first: new Int32Array(1),
    offsets: Uint32Array.from(seen, (tile) => firstEqual(different, tile) * bytesPerTile),
    data,
  };
}

function firstEqual(tiles: readonly Uint8Array[], tile: Uint8Array): number {
  return tiles.findIndex((other) => other === tile || other.every((seen, key) => seen === tile[key]));
}
