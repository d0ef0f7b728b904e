/**
 * M-RoPE: every pair turns by the position on one of several axes (t, h, w). Only the choice of axis differs from
 * plain RoPE; the frequencies keep their order.
 *
 * @see https://arxiv.org/abs/2409.12191
 */

import { ConfigError } from "../errors.ts";

/**
 * How sections lie over the pairs.
 *
 * - `chunked` (Qwen2-VL): the first section's pairs, then the second's, ...; axes t, h, w, t, ...
 * - `interleaved` (Qwen3-VL): t h w t h w ... while h and w last, then t
 * - `ernie` (ERNIE-4.5-VL): sections are [h, w, t]; h and w alternate, the last pairs are t
 */
export type MropeLayout = "chunked" | "interleaved" | "ernie";

/**
 * The axis of every pair: 0 for t, 1 for h, 2 for w.
 *
 * @param section - pairs per section; they sum to `pairs`
 * @param layout - the order of the sections
 * @param pairs - R/2
 * @returns [R/2] axes
 * @throws ConfigError when the sections do not fit
 */
export function mropePairAxes(section: readonly number[], layout: MropeLayout, pairs: number): number[] {
  const isCounts = section.every((count) => Number.isSafeInteger(count) && count >= 0);
  const total = section.reduce((sum, count) => sum + count, 0);
  const rightLength = layout === "chunked" ? section.length > 0 : section.length === 3;
  if (!isCounts || !rightLength || total !== pairs) {
    throw new ConfigError("mropePairAxes", `mrope_section must be counts of pairs that sum to ${pairs}`, {
      mrope_section: section,
      layout,
    });
  }
  switch (layout) {
    case "chunked":
      return section.flatMap((count, index) => new Array<number>(count).fill(index % 3));
    case "interleaved":
      return Array.from({ length: pairs }, (_, i) => (i % 3 !== 0 && i < 3 * section[i % 3] ? i % 3 : 0));
    case "ernie":
      return Array.from({ length: pairs }, (_, i) => (i < section[0] + section[1] ? 1 + (i % 2) : 0));
  }
}
