/**
 * Tokens that queries to come are expected to attend to stay.
 *
 * @see https://arxiv.org/abs/2510.00636
 */

import { checkRange, checkWhole } from "./check-options.ts";
import { futureQueries, type QueryStatistics } from "./future-queries.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type Observation } from "./observation.ts";
import { type HeadScores, type ScorePolicy, scorePolicy } from "./policy.ts";
import { quadraticForms, rowProducts } from "./row-products.ts";
import { largest, norm, softmaxInPlace } from "./vectors.ts";

/** Options of {@link expectedAttention}. */
export type ExpectedAttentionOptions = {
  /** Positions ahead whose rotation is averaged; 512 unless told. */
  readonly futurePositions?: number;
  /** First tokens that always stay and are left out of the statistics; 4 unless told. */
  readonly sinks?: number;
  /** Use the covariance of the queries beside their mean; true unless told. */
  readonly covariance?: boolean;
  /** Multiply by the norm of the value; true unless told. */
  readonly valueNorm?: boolean;
  /** Added before the multiplication by the norm; 0 unless told, 0.01 is often better. */
  readonly epsilon?: number;
};

/**
 * Scores a token by softmax(k·μ/√D + kᵀΣk/(2D)) for queries of mean μ and covariance Σ, averaged over query heads,
 * times ‖v‖. Sinks get the layer's largest score + 1.
 *
 * @throws ConfigError when an option is out of range
 */
export function expectedAttention(options: ExpectedAttentionOptions = {}): ScorePolicy {
  const { futurePositions = 512, sinks = 4, covariance = true, valueNorm = true, epsilon = 0 } = options;
  checkWhole("expectedAttention", { futurePositions }, 1);
  checkWhole("expectedAttention", { sinks }, 0);
  checkRange("expectedAttention", { epsilon }, 0, Infinity);
  return scorePolicy({
    name: "expectedAttention",
    needs: { unrotatedQueries: Infinity },
    protects: () => ({ first: sinks, last: 0 }),
    score: (observation) => {
      const { heads, values } = observation;
      const statistics = futureQueries("expectedAttention", observation, { ahead: futurePositions, sinks, covariance });
      const perHead = Array.from({ length: heads }, (_, h) => expectation(observation, h, statistics[h], sinks));
      const means = groupMean(perHead, groupOf(observation));
      const scaled = means.map((row, head) =>
        row.map((score, t) => {
          const at = values.starts[head] + (sinks + t) * values.stride;
          return valueNorm ? (score + epsilon) * norm(values.data, at, values.dim) : score;
        }),
      );
      return withSinks(scaled, observation, sinks);
    },
  });
}

/** Expected attention of one query head on the slots behind the sinks. */
function expectation(observation: Observation, head: number, statistics: QueryStatistics, sinks: number): Float64Array {
  const { keys } = observation;
  const { data, dim: D, stride } = keys;
  const kvHead = Math.floor(head / groupOf(observation));
  const { mean, covariance } = statistics;
  const start = keys.starts[kvHead] + sinks * stride;
  const rows = { data, start, stride, count: Math.max(0, keys.lengths[kvHead] - sinks) };
  const scores = rowProducts(mean, 1, D, rows);
  const forms = covariance && quadraticForms(covariance, D, rows);
  for (let t = 0; t < scores.length; t++) scores[t] = scores[t] / Math.sqrt(D) + (forms ? forms[t] / (2 * D) : 0);
  softmaxInPlace(scores);
  return scores;
}

/** Puts the sinks before the scores of the other slots, at the layer's largest + 1. */
export function withSinks(scores: readonly Float64Array[], { keys }: Observation, sinks: number): HeadScores {
  const top = scores.some((row) => row.length > 0) ? largest(scores) + 1 : 1;
  return scores.map((row, head) => {
    const whole = new Float64Array(keys.lengths[head]).fill(top);
    whole.set(row, Math.min(sinks, whole.length));
    return whole;
  });
}
