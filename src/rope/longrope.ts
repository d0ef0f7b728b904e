/**
 * LongRoPE: which of the two lists is in force, and its attention factor.
 *
 * @see https://arxiv.org/abs/2402.13753
 */

import type { LongRopeSchedule } from "./schedule.ts";

/** Whether the long list is in force: only beyond the original context, not at its end. */
function isLong(schedule: LongRopeSchedule, length: number): boolean {
  return length > schedule.originalLength;
}

/** [R/2] divisors of the plain frequencies at this length. */
export function longRopeFactors(schedule: LongRopeSchedule, length: number): readonly number[] {
  return isLong(schedule, length) ? schedule.longFactors : schedule.shortFactors;
}

/** The factor of cos and sin: that of the list, or the given one, or sqrt(1 + ln f / ln L). */
export function longRopeAttentionFactor(schedule: LongRopeSchedule, length: number): number {
  const { factor, originalLength, attentionFactor, shortMscale, longMscale } = schedule;
  const ofList = isLong(schedule, length) ? longMscale : shortMscale;
  if (ofList !== undefined) return ofList;
  if (attentionFactor !== undefined) return attentionFactor;
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalLength));
}
