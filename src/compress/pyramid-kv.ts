/**
 * SnapKV with budgets that shrink from layer to layer.
 *
 * @see https://arxiv.org/abs/2406.02069
 */

import { roundHalfToEven } from "../dtype.ts";
import { type Amount, keptFraction } from "./amount.ts";
import { checkKernel, checkRange, checkWhole } from "./check-options.ts";
import { evenLength, kvHeadsOf, type Observation } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { type SnapKVOptions, snapKVScores } from "./snap-kv.ts";

/** Options of {@link pyramidKV}. */
export type PyramidKVOptions = SnapKVOptions & {
  /** The last layer keeps the average number of tokens divided by this; 20 unless told. */
  readonly beta?: number;
};

/**
 * Scores as SnapKV; the amount given is the average over the layers.
 *
 * @throws ConfigError when an option is out of range
 */
export function pyramidKV({ window = 64, kernel = 5, beta = 20 }: PyramidKVOptions = {}): ScorePolicy {
  checkWhole("pyramidKV", { window }, 1);
  checkKernel("pyramidKV", kernel);
  checkRange("pyramidKV", { beta }, 1, Infinity);
  return scorePolicy({
    name: "pyramidKV",
    evenHeads: true,
    needs: { queries: window },
    takes: { querySums: { queries: window, weights: "equal" } },
    moments: ["prefill"],
    protects: () => ({ first: 0, last: window }),
    counts: (observation, amount) =>
      new Array<number>(kvHeadsOf(observation)).fill(layerCount(observation, amount, window, beta)),
    score: (observation) => snapKVScores("pyramidKV", observation, { window, kernel }),
  });
}

/** Tokens this layer keeps: on a line from the first layer to the last, whose mean is the amount. */
function layerCount(observation: Observation, amount: Amount, window: number, beta: number): number {
  const n = evenLength("pyramidKV", observation);
  const { layer, layers } = observation;
  // A budget is a promise, so its fractions are cut off; a ratio rounds as the published code does.
  const whole = (tokens: number): number =>
    Math.max(1, Math.min(n, amount.budget === undefined ? roundHalfToEven(tokens) : Math.floor(tokens)));
  const average = amount.budget ?? keptFraction(amount, n);
  let least = average / beta;
  let most = 2 * average - least;
  // Layers of a cache that was compressed before differ in n, so a budget's line must not depend on it.
  const clamps = amount.budget === undefined;
  if (clamps && most >= n - window) {
    most = n - window;
    least = 2 * average - most;
  }
  const fits = (!clamps || n >= most) && most >= least && least >= window;
  return whole(fits && layers > 1 ? most - (layer * (most - least)) / (layers - 1) : average);
}
