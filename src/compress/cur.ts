/**
 * CurDKV: tokens whose key and value carry much of their neighbourhood's energy stay.
 *
 * @see https://arxiv.org/abs/2509.15038
 */

import { ConfigError } from "../errors.ts";
import { checkWhole } from "./check-options.ts";
import type { HeadRows } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { dot, sum } from "./vectors.ts";

/** Options of {@link cur}. */
export type CurOptions = {
  /** First tokens that always stay; 4 unless told. */
  readonly sinks?: number;
  /** What counts: the product of key and value energy unless told. */
  readonly leverage?: "product" | "key" | "value" | "average";
  /** Tokens that energies are normalised over; 16 unless told, Infinity for none. */
  readonly localWindow?: number;
};

/**
 * Scores a token by ‖k‖² and ‖v‖², each as a share of its window, combined and made to sum to 1.
 *
 * @throws ConfigError when an option is out of range
 */
export function cur({ sinks = 4, leverage = "product", localWindow = 16 }: CurOptions = {}): ScorePolicy {
  checkWhole("cur", { sinks }, 0);
  if (localWindow !== Infinity) checkWhole("cur", { localWindow }, 1);
  const combine = COMBINATIONS[leverage];
  if (combine === undefined) {
    throw new ConfigError("cur", 'leverage must be "product", "key", "value" or "average"', { leverage });
  }
  return scorePolicy({
    name: "cur",
    protects: () => ({ first: sinks, last: 0 }),
    score: ({ keys, values }) =>
      Array.from(keys.starts, (_, head) => {
        const ofKeys = energies(keys, head, localWindow);
        const ofValues = energies(values, head, localWindow);
        const scores = ofKeys.map((k, t) => combine(k, ofValues[t]));
        const total = sum(scores) || 1;
        return scores.map((score) => score / total).fill(1, 0, sinks);
      }),
  });
}

const COMBINATIONS: Readonly<Record<string, (k: number, v: number) => number>> = {
  product: (k, v) => k * v,
  key: (k) => k,
  value: (_, v) => v,
  average: (k, v) => (k + v) / 2,
};

/** Squared norms, as shares of their window. */
function energies({ data, dim, starts, stride, lengths }: HeadRows, head: number, window: number): Float64Array {
  const squares = Float64Array.from({ length: lengths[head] }, (_, t) => {
    const at = starts[head] + t * stride;
    return dot(data, at, data, at, dim);
  });
  if (window === Infinity) return squares;
  return squares.map((square, t) => {
    const start = t - (t % window);
    return square / (sum(squares.subarray(start, start + window)) || 1);
  });
}
