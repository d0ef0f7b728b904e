/**
 * What a legal attention plan is, stated in code.
 */

import { ConfigError } from "../errors.ts";
import { maskPredicate } from "../mask/index.ts";
import { type AttentionPlan, checkPlanFits, type PlanRequest, readPlanRequest } from "./plan.ts";
import { selectionPredicate } from "./selection.ts";

const WHERE = "validateAttentionPlan";

/** How much was checked. */
export type PlanReport = {
  /** Entries of all row tiles. */
  readonly entries: number;
  /** Work items. */
  readonly items: number;
  /** Pairs compared with mask and selection; 0 when there were more than `maxPairs`. */
  readonly pairs: number;
};

/**
 * Checks that a plan is legal for a request:
 * 1. it was made for it;
 * 2. the columns of a row tile are key tiles, each at most once, ascending among the full and among the partial ones,
 *    and every partial one has bits;
 * 3. for every head, each entry is in exactly one work item, each row tile in at least one, and each item of one
 *    worker;
 * 4. items of one row tile have slots of their own and are merged together, whole row tiles have none;
 * 5. every pair that mask and selection allow is visible in exactly one entry, and no other pair is.
 * The fifth part looks at every pair, and is left out above `maxPairs`.
 *
 * @param maxPairs - most pairs (B·H·Tq·Tk) to look at; 2^22 when absent
 * @returns what was checked
 * @throws ShapeError or ConfigError at the first violation
 */
export function validateAttentionPlan(
  plan: AttentionPlan,
  request: PlanRequest,
  maxPairs: number = 2 ** 22,
): PlanReport {
  const read = readPlanRequest(request);
  checkPlanFits(WHERE, plan, read, request.kv);
  checkTiles(plan);
  checkWork(plan);
  checkMerges(plan);
  const { B, H, Tq, Tk } = plan.dims;
  const report = { entries: plan.tiles.columns.length, items: plan.work.row.length };
  if (B * H * Tq * Tk > maxPairs) return { ...report, pairs: 0 };

  const allowed = maskPredicate(read.spec.mask, read.spec.maskInputs);
  const selected = read.selection && selectionPredicate(read.selection);
  const planned = countVisible(plan);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      for (let i = 0; i < Tq; i++) {
        for (let j = 0; j < Tk; j++) {
          const expected = allowed(b, h, i, j) && (selected?.(b, h, i, j) ?? true) ? 1 : 0;
          const visible = planned[((b * H + h) * Tq + i) * Tk + j];
          if (visible === expected) continue;
          const got = { batch: b, head: h, query: i, key: j, visible };
          throw new ConfigError(WHERE, `the pair must be visible in ${expected} entries`, got);
        }
      }
    }
  }
  return { ...report, pairs: B * H * Tq * Tk };
}

function checkTiles({ tiles, bits }: AttentionPlan): void {
  const { rowPointers, firstPartial, columns, keyTiles } = tiles;
  let partials = 0;
  for (let row = 0; row < firstPartial.length; row++) {
    const [start, middle, end] = [rowPointers[row], firstPartial[row], rowPointers[row + 1]];
    if (!(start <= middle && middle <= end && end <= columns.length)) {
      throw new ConfigError(WHERE, "rowPointers[i] ≤ firstPartial[i] ≤ rowPointers[i + 1]", {
        row,
        start,
        middle,
        end,
      });
    }
    const seen = columns.subarray(start, end);
    if (new Set(seen).size < seen.length || seen.some((column) => column < 0 || column >= keyTiles)) {
      throw new ConfigError(WHERE, `a row tile has each of ${keyTiles} key tiles at most once`, { row, columns: seen });
    }
    const ascends = seen.every((column, n) => n === 0 || n === middle - start || column > seen[n - 1]);
    if (!ascends) {
      throw new ConfigError(WHERE, "full and partial key tiles must each ascend", { row, columns: seen });
    }
    if (bits.first[row] !== partials)
      throw new ConfigError(WHERE, `bits.first must be ${partials}`, { row, first: bits.first[row] });
    partials += end - middle;
  }
  if (bits.offsets.length !== partials) {
    throw new ConfigError(WHERE, `one offset per partial tile (${partials})`, { offsets: bits.offsets.length });
  }
  const end = bits.data.length - bits.bytesPerTile;
  bits.offsets.forEach((offset, index) => {
    if (offset > end) throw new ConfigError(WHERE, `offsets must be at most ${end}`, { index, offset });
  });
}

function checkWork({ tiles, work, dims }: AttentionPlan): void {
  const { row, kvHead, entryStart, entryEnd, workerPointers } = work;
  const rowsPerPlane = tiles.rowTiles;
  const count = dims.B * dims.Hk * rowsPerPlane;
  const reached = new Map<string, number>(); // by row tile and head: the entry after the last that is in an item
  for (let item = 0; item < row.length; item++) {
    const key = `${row[item]} ${kvHead[item]}`;
    const expected = reached.get(key) ?? tiles.rowPointers[row[item]];
    if (entryStart[item] !== expected || entryEnd[item] < expected) {
      throw new ConfigError(WHERE, `the next item of the row tile must start at entry ${expected}`, {
        item,
        entryStart: entryStart[item],
        entryEnd: entryEnd[item],
      });
    }
    reached.set(key, entryEnd[item]);
  }
  if (reached.size !== count) {
    throw new ConfigError(WHERE, `every head must have items for all its row tiles (${count})`, { got: reached.size });
  }
  for (const [key, end] of reached) {
    const expected = tiles.rowPointers[Number(key.split(" ")[0]) + 1];
    if (end !== expected) throw new ConfigError(WHERE, `the items of a row tile must end at ${expected}`, { key, end });
  }
  const ascending = workerPointers.every((pointer, w) => w === 0 || pointer >= workerPointers[w - 1]);
  if (workerPointers[0] !== 0 || workerPointers.at(-1) !== row.length || !ascending) {
    throw new ConfigError(WHERE, `workers must share the items 0 to ${row.length - 1}`, { workerPointers });
  }
}

function checkMerges({ work, merges }: AttentionPlan): void {
  const expected = new Int32Array(work.row.length).fill(-1);
  let slot = 0;
  for (let m = 0; m < merges.starts.length; m++) {
    const [start, end] = [merges.starts[m], merges.ends[m]];
    for (let item = start; item < end; item++) {
      expected[item] = slot++;
      if (work.row[item] !== work.row[start] || work.kvHead[item] !== work.kvHead[start]) {
        throw new ConfigError(WHERE, "a merge must join items of one row tile and head", { merge: m, item });
      }
    }
  }
  const items = new Map<string, number>();
  work.row.forEach((row, item) => {
    const key = `${row} ${work.kvHead[item]}`;
    items.set(key, (items.get(key) ?? 0) + 1);
  });
  work.row.forEach((row, item) => {
    const isPart = (items.get(`${row} ${work.kvHead[item]}`) as number) > 1;
    if (merges.slots[item] !== expected[item] || isPart !== expected[item] >= 0) {
      throw new ConfigError(WHERE, "parts of row tiles must have a slot each and be merged", {
        item,
        slot: merges.slots[item],
      });
    }
  });
  if (merges.count !== slot) throw new ConfigError(WHERE, `count must be ${slot}`, { count: merges.count });
}

/** u8 [B, H, Tq, Tk], in how many entries each pair is visible. */
function countVisible({ tiles, bits, dims }: AttentionPlan): Uint8Array {
  const { B, H, Hk, Tq, Tk } = dims;
  const { planes, rowTile, rowTiles, keyTile, group } = tiles;
  const counts = new Uint8Array(B * H * Tq * Tk);
  for (let b = 0; b < B; b++) {
    for (let kvHead = 0; kvHead < Hk; kvHead++) {
      for (let row = 0; row < Tq * group; row++) {
        const rowInTile = row % rowTile;
        const tile = (b * planes + (planes === 1 ? 0 : kvHead)) * rowTiles + Math.floor(row / rowTile);
        const head = kvHead * group + (row % group);
        const to = ((b * H + head) * Tq + Math.floor(row / group)) * Tk;
        for (let entry = tiles.rowPointers[tile]; entry < tiles.rowPointers[tile + 1]; entry++) {
          const first = tiles.columns[entry] * keyTile;
          const partial = entry - tiles.firstPartial[tile];
          const offset = partial < 0 ? -1 : bits.offsets[bits.first[tile] + partial] + (rowInTile >> 3) * keyTile;
          for (let key = 0; key < keyTile && first + key < Tk; key++) {
            if (offset < 0 || (bits.data[offset + key] >> (rowInTile & 7)) & 1) counts[to + first + key] += 1;
          }
        }
      }
    }
  }
  return counts;
}
