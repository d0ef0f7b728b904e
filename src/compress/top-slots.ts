/** Which slots of one head stay. */

import { largestIndices } from "../attention/top-k.ts";

/** Slots at the ends of a head that stay whatever they score. */
export type ProtectedEnds = {
  /** At the start: sinks. */
  readonly first: number;
  /** At the end: the recent window. */
  readonly last: number;
};

/**
 * The slots with the largest scores, protected ends first; of equal scores the lower slot. Where the count does not
 * hold the ends, sinks go before the window, and of the window the latest stay.
 *
 * @param scores - f64 [T]
 * @param count - how many to keep
 * @returns i32 [min(count, T)] ascending
 */
export function topSlots(scores: Float64Array, count: number, ends: ProtectedEnds): Int32Array {
  const T = scores.length;
  const kept = Math.min(T, count);
  const first = Math.min(ends.first, T);
  const last = Math.min(ends.last, T - first);
  if (kept <= first + last) {
    const sinks = Math.min(first, kept);
    return Int32Array.from({ length: kept }, (_, i) => (i < sinks ? i : T - kept + i));
  }
  return Int32Array.from(largestIndices(withEnds(scores, { first, last }), kept));
}

/** The scores with protected ends at +Infinity. */
export function withEnds(scores: Float64Array, { first, last }: ProtectedEnds): Float64Array {
  const raised = scores.slice();
  raised.fill(Infinity, 0, first);
  raised.fill(Infinity, Math.max(0, raised.length - last));
  return raised;
}

/** All slots of a head of T tokens. */
export function allSlots(T: number): Int32Array {
  return Int32Array.from({ length: T }, (_, slot) => slot);
}
