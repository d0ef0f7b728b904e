/**
 * The tiles of a plan dealt out to workers.
 */

import { BudgetError, ConfigError } from "../errors.ts";
import type { TilePlan } from "./tile-plan.ts";

/** How work is dealt out. Costs are in units of one full tile. */
export type WorkOptions = {
  /** Hk, key-value heads; each runs the plan's row tiles. */
  readonly kvHeads: number;
  /** Number of workers, at least 1. */
  readonly workers: number;
  /** Whether the keys of one row tile may go to several workers, whose states must then be merged. */
  readonly splitKeys?: boolean | undefined;
  /** Cost of a partial tile; 1.25 when absent. */
  readonly partialCost?: number | undefined;
  /** Cost of a row tile besides its tiles; 0.25 when absent. */
  readonly rowCost?: number | undefined;
};

/** Work items by worker. Item i is the entries entryStart[i] to entryEnd[i] − 1 of one row tile for one head. */
export type WorkItems = {
  /** i32 [items], row tile: index into `rowPointers` of the plan. */
  readonly row: Int32Array;
  /** i32 [items]. */
  readonly kvHead: Int32Array;
  /** i32 [items]. */
  readonly entryStart: Int32Array;
  /** i32 [items]. A row tile without entries has one item without entries: its output must still be written. */
  readonly entryEnd: Int32Array;
  /** i32 [workers + 1]: worker w has the items workerPointers[w] to workerPointers[w + 1] − 1. */
  readonly workerPointers: Int32Array;
  /** f64 [workers]: cost of each worker's items. */
  readonly costs: Float64Array;
};

const MAX_WORKERS = 4096;
const MAX_ITEMS = 2 ** 21;

/** One row tile, or a part of one. */
type Item = { row: number; kvHead: number; entryStart: number; entryEnd: number; cost: number };

/**
 * Deals the row tiles of all heads out to workers: each gets a run of neighbouring items, so that keys and values
 * are read by as few workers as possible. No worker gets more than the mean plus the cost of the largest item; with
 * `splitKeys` no item is larger than the mean plus one tile.
 *
 * @throws ConfigError when a size or cost is out of range
 * @throws BudgetError when there are more than 2^21 row tiles over all heads
 */
export function planWork(plan: TilePlan, options: WorkOptions): WorkItems {
  const { kvHeads, workers, splitKeys = false, partialCost = 1.25, rowCost = 0.25 } = options;
  for (const [name, value] of Object.entries({ kvHeads, workers })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ConfigError("planWork", `${name} must be an integer of at least 1`, { [name]: value });
    }
  }
  if (workers > MAX_WORKERS) throw new ConfigError("planWork", `workers must be at most ${MAX_WORKERS}`, { workers });
  for (const [name, value] of Object.entries({ partialCost, rowCost })) {
    if (!Number.isFinite(value) || value <= 0) {
      throw new ConfigError("planWork", `${name} must be a positive number`, { [name]: value });
    }
  }
  if (plan.planes !== 1 && plan.planes !== kvHeads) {
    throw new ConfigError("planWork", `kvHeads must be ${plan.planes}, as in the plan`, { kvHeads });
  }
  const items = plan.batch * kvHeads * plan.rowTiles;
  if (items > MAX_ITEMS) throw new BudgetError("planWork", `at most ${MAX_ITEMS} row tiles of all heads`, { items });
  const whole = listRows(plan, kvHeads, partialCost, rowCost);
  const total = whole.reduce((sum, item) => sum + item.cost, 0);
  const parts = splitKeys ? whole.flatMap((item) => split(item, total / workers, plan, partialCost, rowCost)) : whole;
  return deal(parts, workers);
}

/** All row tiles of all heads: by batch entry, then head, then row, so that neighbours share keys. */
function listRows(plan: TilePlan, kvHeads: number, partialCost: number, rowCost: number): Item[] {
  const { rowTiles, planes, rowPointers, firstPartial } = plan;
  const items: Item[] = [];
  for (let batch = 0; batch < plan.batch; batch++) {
    for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
      const firstRow = (batch * planes + (planes === 1 ? 0 : kvHead)) * rowTiles;
      for (let row = firstRow; row < firstRow + rowTiles; row++) {
        const entryStart = rowPointers[row] as number;
        const entryEnd = rowPointers[row + 1] as number;
        const middle = firstPartial[row] as number;
        const cost = rowCost + (middle - entryStart) + (entryEnd - middle) * partialCost;
        items.push({ row, kvHead, entryStart, entryEnd, cost });
      }
    }
  }
  return items;
}

/** Parts of at most `most` each, or of one tile. */
function split(item: Item, most: number, plan: TilePlan, partialCost: number, rowCost: number): Item[] {
  if (item.cost <= most) return [item];
  const middle = plan.firstPartial[item.row] as number;
  const parts: Item[] = [];
  let start = item.entryStart;
  let cost = rowCost;
  for (let entry = item.entryStart; entry < item.entryEnd; entry++) {
    const tile = entry < middle ? 1 : partialCost;
    if (entry > start && cost + tile > most) {
      parts.push({ ...item, entryStart: start, entryEnd: entry, cost });
      start = entry;
      cost = rowCost;
    }
    cost += tile;
  }
  parts.push({ ...item, entryStart: start, cost });
  return parts;
}

/** Cuts the list so that each item goes to the worker in whose equal share of the total its middle lies. */
function deal(items: readonly Item[], workers: number): WorkItems {
  const total = items.reduce((sum, item) => sum + item.cost, 0);
  const workerPointers = new Int32Array(workers + 1);
  const costs = new Float64Array(workers);
  let before = 0;
  for (const item of items) {
    const share = Math.floor(((before + item.cost / 2) / total) * workers);
    const worker = Math.min(share, workers - 1);
    costs[worker]! += item.cost;
    workerPointers[worker + 1]! += 1;
    before += item.cost;
  }
  for (let worker = 0; worker < workers; worker++) workerPointers[worker + 1]! += workerPointers[worker] as number;
  return Object.freeze({
    row: Int32Array.from(items, (item) => item.row),
    kvHead: Int32Array.from(items, (item) => item.kvHead),
    entryStart: Int32Array.from(items, (item) => item.entryStart),
    entryEnd: Int32Array.from(items, (item) => item.entryEnd),
    workerPointers,
    costs,
  });
}
