/**
 * What a plan means, as a loop: every work item runs over its key tiles by online softmax, items of one row tile are
 * merged, rows are finished. Items may run in any order. Kernels do the same, faster.
 */

import { ConfigError } from "../errors.ts";
import { dropoutFactor } from "./dropout.ts";
import { withDenseKeys } from "./kv-gather.ts";
import { type AttentionPlan, checkPlanFits } from "./plan.ts";
import { finishAttention, type ReferenceOutput } from "./reference.ts";
import { scoreModifiers } from "./score.ts";
import { resolveSelection } from "./select.ts";
import { type AttentionRequest, type AttentionSpec, normalizeAttention } from "./spec.ts";
import { type AttentionState, emptyState } from "./state.ts";

/** How a plan is run. */
export type RunOptions = {
  /** Work items, each once, in the order to run them; workers one after the other when absent. */
  readonly order?: readonly number[];
};

/**
 * Runs a plan on this thread, f64 inside.
 *
 * @param plan - made for the sizes, positions, masks and options of the request
 * @param request - see AttentionRequest
 * @returns what `referenceAttention` returns, summed in the order of the tiles
 * @throws ShapeError or ConfigError when the plan was made for something else, or the order is not one
 */
export function runPlan(plan: AttentionPlan, request: AttentionRequest, options: RunOptions = {}): ReferenceOutput {
  const spec = normalizeAttention(withDenseKeys(request));
  checkPlanFits("runPlan", plan, { spec, selection: resolveSelection(spec) }, request.kv);
  const { B, Tq, H, Dv } = spec.dims;
  const { work, merges, tiles } = plan;
  const state = emptyState(spec.batched ? [B, Tq, H, Dv] : [Tq, H, Dv]);
  const parts = emptyState([merges.count * tiles.rowTile, Dv]);
  const attend = createRowLoop(plan, spec);

  for (const item of readOrder(options.order, work.row.length)) {
    const slot = merges.slots[item];
    forEachRow(plan, item, (row, index) => {
      if (slot === -1) attend(item, row, state, index);
      else attend(item, row, parts, slot * tiles.rowTile + (row % tiles.rowTile));
    });
  }
  for (let m = 0; m < merges.starts.length; m++) {
    for (let item = merges.starts[m]; item < merges.ends[m]; item++) {
      forEachRow(plan, item, (row, index) => {
        mergeRow(state, index, parts, merges.slots[item] * tiles.rowTile + (row % tiles.rowTile));
      });
    }
  }
  return finishAttention(spec, state);
}

function readOrder(order: readonly number[] | undefined, items: number): Iterable<number> {
  if (order === undefined) return Array(items).keys();
  const isEach = order.length === items && new Set(order).size === items;
  if (!isEach || !order.every((item) => Number.isInteger(item) && item >= 0 && item < items)) {
    throw new ConfigError("runPlan", `order must list the work items 0 to ${items - 1}, each once`, { order });
  }
  return order;
}

/** Calls `visit` with every packed row of an item and its row of [B, Tq, H]. */
function forEachRow(plan: AttentionPlan, item: number, visit: (row: number, index: number) => void): void {
  const { work, tiles, dims } = plan;
  const { rowTile, rowTiles, planes, group } = tiles;
  const batch = Math.floor(work.row[item] / (planes * rowTiles));
  const start = (work.row[item] % rowTiles) * rowTile;
  const end = Math.min(start + rowTile, dims.Tq * group);
  for (let row = start; row < end; row++) {
    const head = work.kvHead[item] * group + (row % group);
    visit(row, (batch * dims.Tq + Math.floor(row / group)) * dims.H + head);
  }
}

/** Brings a row of a state up to date with the key tiles of an item. */
type RowLoop = (item: number, row: number, state: AttentionState, at: number) => void;

function createRowLoop(plan: AttentionPlan, spec: AttentionSpec): RowLoop {
  const { tiles, bits, work } = plan;
  const { rowTile, rowTiles, keyTile, planes, group } = tiles;
  const { Tq, Tk, H, Hk, D, Dv } = spec.dims;
  const modify = scoreModifiers(spec);
  const drop = spec.dropout && dropoutFactor(spec.dropout);
  const scores = new Float64Array(keyTile);

  return (item, row, { max, sum, weighted }, at) => {
    const tile = work.row[item];
    const kvHead = work.kvHead[item];
    const b = Math.floor(tile / (planes * rowTiles));
    const i = Math.floor(row / group);
    const h = kvHead * group + (row % group);
    const query = ((b * Tq + i) * H + h) * D;
    const rowInTile = row - (tile % rowTiles) * rowTile;
    const block = (rowInTile >> 3) * keyTile;

    for (let entry = work.entryStart[item]; entry < work.entryEnd[item]; entry++) {
      const first = tiles.columns[entry] * keyTile;
      const keys = Math.min(keyTile, Tk - first);
      const partial = entry - tiles.firstPartial[tile];
      const visible = partial >= 0 ? bits.offsets[bits.first[tile] + partial] + block : -1;

      let largest = max[at];
      for (let n = 0; n < keys; n++) {
        scores[n] = -Infinity;
        if (visible >= 0 && ((bits.data[visible + n] >> (rowInTile & 7)) & 1) === 0) continue;
        const key = ((b * Tk + first + n) * Hk + kvHead) * D;
        let dot = 0;
        for (let d = 0; d < D; d++) dot += spec.q.data[query + d] * spec.k.data[key + d];
        scores[n] = modify(dot * spec.scale, b, h, i, first + n);
        largest = Math.max(largest, scores[n]);
      }
      if (largest === -Infinity) continue;

      rescale({ max, sum, weighted }, at, Dv, largest);
      for (let n = 0; n < keys; n++) {
        const weight = Math.exp(scores[n] - largest);
        if (weight === 0) continue; // values behind the mask are never touched
        sum[at] += weight;
        const kept = drop ? weight * drop(b, h, i, first + n) : weight;
        const value = ((b * Tk + first + n) * Hk + kvHead) * Dv;
        for (let d = 0; d < Dv; d++) weighted[at * Dv + d] += kept * spec.v.data[value + d];
      }
    }
  };
}

/** Gives a row a new maximum. */
function rescale(state: Omit<AttentionState, "shape">, row: number, depth: number, max: number): void {
  const factor = Math.exp(state.max[row] - max);
  state.max[row] = max;
  state.sum[row] *= factor;
  for (let d = row * depth; d < (row + 1) * depth; d++) state.weighted[d] *= factor;
}

/** Adds a row of one state to a row of another. */
function mergeRow(into: AttentionState, row: number, from: AttentionState, part: number): void {
  const depth = into.shape.at(-1) as number;
  const max = Math.max(into.max[row], from.max[part]);
  if (max === -Infinity) return;
  rescale(into, row, depth, max);
  const factor = Math.exp(from.max[part] - max);
  into.sum[row] += factor * from.sum[part];
  for (let d = 0; d < depth; d++) into.weighted[row * depth + d] += factor * from.weighted[part * depth + d];
}
