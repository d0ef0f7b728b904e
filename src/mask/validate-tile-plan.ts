/**
 * What a legal tile plan is, stated in code.
 */

import { ConfigError } from "../errors.ts";
import type { Mask } from "./expression.ts";
import { checkMaskInputs, type MaskInputs, requirements } from "./inputs.ts";
import { maskPredicate } from "./predicate.ts";
import type { TilePlan } from "./tile-plan.ts";

const WHERE = "validateTilePlan";

/** How much was checked. */
export type TilePlanReport = {
  readonly entries: number;
  /** Pairs compared with the predicate; 0 when there were more than `maxPairs`. */
  readonly pairs: number;
};

/**
 * Checks that a plan is legal for a mask:
 * 1. its sizes are those of the inputs, and its pointers ascend from 0 to the number of columns;
 * 2. the columns of a row tile are key tiles, each at most once, ascending among the full and the partial ones;
 * 3. every allowed pair lies in an entry (so, by 2, in exactly one), and full entries hold allowed pairs only.
 * The third part looks at every pair, and is left out above `maxPairs`.
 *
 * @param maxPairs - most pairs (B·H·Tq·Tk) to compare with the predicate; 2^22 when absent
 * @returns what was checked
 * @throws ConfigError at the first violation
 */
export function validateTilePlan(
  plan: TilePlan,
  mask: Mask,
  inputs: MaskInputs,
  maxPairs: number = 2 ** 22,
): TilePlanReport {
  checkMaskInputs(WHERE, mask, inputs);
  checkSizes(plan, mask, inputs);
  const rows = plan.batch * plan.planes * plan.rowTiles;
  for (let row = 0; row < rows; row++) checkRow(plan, row);
  const pairs = inputs.batch * inputs.heads * inputs.queryLength * inputs.keyLength;
  if (pairs > maxPairs) return { entries: plan.columns.length, pairs: 0 };
  checkPairs(plan, mask, inputs);
  return { entries: plan.columns.length, pairs };
}

function checkSizes(plan: TilePlan, mask: Mask, inputs: MaskInputs): void {
  const { heads } = inputs;
  const expected = {
    batch: inputs.batch,
    queryLength: inputs.queryLength,
    keyLength: inputs.keyLength,
    planes: requirements(mask).headDependent ? heads / plan.group : 1,
    rowTiles: Math.ceil((inputs.queryLength * plan.group) / plan.rowTile),
    keyTiles: Math.ceil(inputs.keyLength / plan.keyTile),
    maskHash: mask.hash(),
  };
  for (const [name, value] of Object.entries(expected)) {
    const got = plan[name as keyof typeof expected];
    if (got !== value) throw new ConfigError(WHERE, `${name} must be ${value}`, { [name]: got });
  }
  const rows = plan.batch * plan.planes * plan.rowTiles;
  const { rowPointers, firstPartial, columns } = plan;
  if (rowPointers.length !== rows + 1 || firstPartial.length !== rows) {
    throw new ConfigError(WHERE, `one pointer per row tile (${rows}), and one more for the end`, {
      rowPointers: rowPointers.length,
      firstPartial: firstPartial.length,
    });
  }
  if (rowPointers[0] !== 0 || rowPointers[rows] !== columns.length) {
    throw new ConfigError(WHERE, `rowPointers must go from 0 to the number of columns, ${columns.length}`, {
      first: rowPointers[0],
      last: rowPointers[rows],
    });
  }
}

function checkRow(plan: TilePlan, row: number): void {
  const start = plan.rowPointers[row] as number;
  const middle = plan.firstPartial[row] as number;
  const end = plan.rowPointers[row + 1] as number;
  if (!(start <= middle && middle <= end)) {
    throw new ConfigError(WHERE, "rowPointers[i] ≤ firstPartial[i] ≤ rowPointers[i + 1]", { row, start, middle, end });
  }
  checkAscending(plan, row, start, middle);
  checkAscending(plan, row, middle, end);
  const full = new Set(plan.columns.subarray(start, middle));
  for (let entry = middle; entry < end; entry++) {
    const column = plan.columns[entry] as number;
    if (full.has(column)) throw new ConfigError(WHERE, "a key tile appears at most once in a row", { row, column });
  }
}

function checkAscending(plan: TilePlan, row: number, start: number, end: number): void {
  let previous = -1;
  for (let entry = start; entry < end; entry++) {
    const column = plan.columns[entry] as number;
    if (column <= previous || column >= plan.keyTiles) {
      throw new ConfigError(WHERE, `columns must ascend and stay below ${plan.keyTiles}`, { row, previous, column });
    }
    previous = column;
  }
}

function checkPairs(plan: TilePlan, mask: Mask, inputs: MaskInputs): void {
  const allows = maskPredicate(mask, inputs);
  const { queryLength, keyLength } = inputs;
  const { group, planes, rowTiles, keyTiles, rowTile, keyTile } = plan;
  const kinds = new Uint8Array(keyTiles); // of one row tile: 0 empty, 1 full, 2 partial
  for (let row = 0; row < plan.batch * planes * rowTiles; row++) {
    const batch = Math.floor(row / (planes * rowTiles));
    const plane = Math.floor(row / rowTiles) % planes;
    const firstRow = (row % rowTiles) * rowTile;
    kinds.fill(0);
    for (let entry = plan.rowPointers[row] as number; entry < (plan.rowPointers[row + 1] as number); entry++) {
      kinds[plan.columns[entry] as number] = entry < (plan.firstPartial[row] as number) ? 1 : 2;
    }
    const endRow = Math.min(firstRow + rowTile, queryLength * group);
    // a plane that is shared stands for all key-value heads: the mask does not depend on the head
    for (let packed = firstRow; packed < endRow; packed++) {
      const query = Math.floor(packed / group);
      const head = plane * group + (packed % group);
      for (let key = 0; key < keyLength; key++) {
        const kind = kinds[Math.floor(key / keyTile)] as number;
        if (kind === 2 || allows(batch, head, query, key) === (kind === 1)) continue;
        const expected =
          kind === 1 ? "full tiles hold allowed pairs only" : "every allowed pair lies in a tile with work";
        throw new ConfigError(WHERE, expected, { batch, head, query, key });
      }
    }
  }
}
