/** The exponential of a softmax: of numbers that are not positive, a few times faster than Math.exp. */

/** Steps between two halvings. */
const STEPS = 256;
const STEPS_PER_UNIT = STEPS / Math.LN2;
const STEP = Math.LN2 / STEPS;
/** 2^−n. */
const HALVES = Float64Array.from({ length: 1024 }, (_, n) => 2 ** -n);
/** 2^(−n / 256). */
const FRACTIONS = Float64Array.from({ length: STEPS }, (_, n) => 2 ** (-n / STEPS));

/**
 * e^x to a relative error below 1e-9, and 0 below x = −700.
 *
 * @param x - at most 0
 */
export function exponential(x: number): number {
  if (!(x > -700)) return 0;
  const steps = (0.5 - x * STEPS_PER_UNIT) | 0; // the nearest integer
  const rest = x + steps * STEP; // within half a step
  return HALVES[steps >> 8] * FRACTIONS[steps & 255] * (1 + rest * (1 + rest * 0.5));
}
