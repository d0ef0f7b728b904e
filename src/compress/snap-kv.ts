/**
 * What the last queries of the prompt attend to stays, and so do they.
 *
 * @see https://arxiv.org/abs/2404.14469
 */

import { checkKernel, checkWhole } from "./check-options.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type Observation, observed, type QueryWeights } from "./observation.ts";
import { type HeadScores, type ScorePolicy, scorePolicy } from "./policy.ts";
import { attentionSums, lastQueries } from "./query-attention.ts";
import { averagePool, largest } from "./vectors.ts";

/** Options of {@link snapKV}. */
export type SnapKVOptions = {
  /** Last tokens that are looked from, and stay; 64 unless told. */
  readonly window?: number;
  /** Neighbours that share their scores, odd; 5 unless told. */
  readonly kernel?: number;
};

/**
 * Scores a token by the mean attention of the last `window` queries, pooled over neighbours and query heads.
 *
 * @throws ConfigError when an option is out of range
 */
export function snapKV({ window = 64, kernel = 5 }: SnapKVOptions = {}): ScorePolicy {
  checkWhole("snapKV", { window }, 1);
  checkKernel("snapKV", kernel);
  return scorePolicy({
    name: "snapKV",
    needs: { queries: window },
    takes: { querySums: { queries: window, weights: "equal" } },
    moments: ["prefill"],
    protects: () => ({ first: 0, last: window }),
    score: (observation) => snapKVScores("snapKV", observation, { window, kernel }),
  });
}

/** SnapKV's scores: f64 [Hk][T], the window at the layer's largest + 1. */
export function snapKVScores(
  where: string,
  observation: Observation,
  { window, kernel }: Required<SnapKVOptions>,
): HeadScores {
  const means = windowAttention(where, observation, window, "equal");
  const pooled = means.map((row) => averagePool(row, kernel));
  return withWindow(groupMean(pooled, groupOf(observation)), observation, window);
}

/**
 * The mean attention of the last queries on the slots before the window, each query's row times its weight.
 *
 * @returns f64 [H][T − window], empty rows where T ≤ window
 */
export function windowAttention(
  where: string,
  observation: Observation,
  window: number,
  weights: QueryWeights,
): Float64Array[] {
  const queries = lastQueries(observed(where, observation, "queries"), window);
  const count = queries.positions.length;
  const sums = attentionSums(observation, queries, weights);
  return sums.map((row) => {
    const means = row.slice(0, Math.max(0, row.length - window));
    for (let t = 0; t < means.length; t++) means[t] /= count;
    return means;
  });
}

/** Appends the window at the layer's largest score + 1; heads no longer than the window score by recency. */
export function withWindow(scores: readonly Float64Array[], { keys }: Observation, window: number): HeadScores {
  const top = largest(scores) + 1;
  return scores.map((row, head) => {
    const T = keys.lengths[head];
    const whole = new Float64Array(T).fill(top);
    if (T <= window) for (let t = 0; t < T; t++) whole[t] = (t + 1) / T;
    whole.set(row);
    return whole;
  });
}
