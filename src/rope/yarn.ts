/**
 * YaRN: high frequencies kept, low ones divided by the factor, a linear ramp over the pairs between.
 *
 * @see https://arxiv.org/abs/2309.00071
 */

import type { YarnSchedule } from "./schedule.ts";

/**
 * YaRN's mscale: 1 for factors up to 1, else 0.1·m·ln f + 1.
 *
 * @param factor - f, the extension of the context
 * @param m - weight of the logarithm
 */
export function yarnMscale(factor: number, m = 1): number {
  return factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1;
}

/** The factor of cos and sin: given, or a ratio of two mscales where both weights are set, or the plain mscale. */
export function yarnAttentionFactor(schedule: YarnSchedule): number {
  const { factor, attentionFactor, mscale, mscaleAllDim } = schedule;
  if (attentionFactor !== undefined) return attentionFactor;
  return mscale && mscaleAllDim ? yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim) : yarnMscale(factor);
}

/** The pairs between which the ramp runs: up to `low` untouched, from `high` on divided by the factor. */
export function yarnRamp(schedule: YarnSchedule): { low: number; high: number } {
  const { dim, theta, originalLength, betaFast = 32, betaSlow = 1, truncate = true } = schedule;
  // The (fractional) pair that makes this many turns within the original context.
  const pairOf = (turns: number): number =>
    (dim * Math.log(originalLength / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = truncate ? Math.floor(pairOf(betaFast)) : pairOf(betaFast);
  const high = truncate ? Math.ceil(pairOf(betaSlow)) : pairOf(betaSlow);
  return { low: Math.max(low, 0), high: Math.min(high, dim - 1) };
}

/**
 * The inverse frequencies.
 *
 * @param plain - f64 [R/2], those without scaling
 */
export function yarnFrequencies(schedule: YarnSchedule, plain: Float64Array): Float64Array {
  const { low, high } = yarnRamp(schedule);
  const width = low === high ? 0.001 : high - low;
  return plain.map((w, i) => {
    const ramp = Math.min(Math.max((i - low) / width, 0), 1);
    return w * (1 - ramp) + (w / schedule.factor) * ramp;
  });
}
