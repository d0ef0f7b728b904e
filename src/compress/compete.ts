/** Heads that compete for one budget. */

import { largestIndices } from "../attention/top-k.ts";
import { allSlots } from "./top-slots.ts";

/**
 * The best slots of all rows together; of equal scores the earlier row, then the lower slot.
 *
 * @param rows - f64 [heads][T], on one scale
 * @param count - slots to keep in all
 * @returns i32 [heads][any number] ascending
 */
export function bestOfAll(rows: readonly Float64Array[], count: number): Int32Array[] {
  const total = rows.reduce((sum, row) => sum + row.length, 0);
  if (count >= total) return rows.map((row) => allSlots(row.length));
  const flat = new Float64Array(total);
  const starts = rows.map((_, n) => rows.slice(0, n).reduce((sum, row) => sum + row.length, 0));
  for (const [n, row] of rows.entries()) flat.set(row, starts[n]);
  const kept = largestIndices(flat, count);
  return rows.map((row, n) => {
    const own = kept.filter((index) => index >= starts[n] && index < starts[n] + row.length);
    return Int32Array.from(own, (index) => index - starts[n]);
  });
}
