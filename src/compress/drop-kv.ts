/**
 * DropKV: tokens whose removal alone would change the attention output most stay.
 *
 * Without token j the output of query i moves by p/(1 − p)·(o_i − v_j), where p is the attention it pays to j.
 *
 * @see https://openreview.net/forum?id=MqfNzH3TVH
 */

import { checkKernel, checkRange, checkWhole } from "./check-options.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, observed } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { lastQueries, visitAttention } from "./query-attention.ts";
import { averagePool, largest } from "./vectors.ts";

/** Options of {@link dropKV}. */
export type DropKVOptions = {
  /** Last tokens that are looked from, and stay; 32 unless told. */
  readonly window?: number;
  /** Neighbours that share their scores, odd; 7 unless told. */
  readonly kernel?: number;
  /** Added to 1 − p; 1e-6 unless told. */
  readonly epsilon?: number;
};

/**
 * Scores a token by Σ (p/(1 − p + ε))²·‖v − o‖² over the last queries, averaged over query heads and pooled.
 *
 * @throws ConfigError when an option is out of range
 */
export function dropKV({ window = 32, kernel = 7, epsilon = 1e-6 }: DropKVOptions = {}): ScorePolicy {
  checkWhole("dropKV", { window }, 1);
  checkKernel("dropKV", kernel);
  checkRange("dropKV", { epsilon }, Number.MIN_VALUE, 1);
  return scorePolicy({
    name: "dropKV",
    needs: { queries: window },
    moments: ["prefill"],
    protects: () => ({ first: 0, last: window }),
    score: (observation) => {
      const { values, heads, keys } = observation;
      const group = groupOf(observation);
      const queries = lastQueries(observed("dropKV", observation, "queries"), window);
      const perHead = Array.from({ length: heads }, (_, h) => new Float64Array(keys.lengths[Math.floor(h / group)]));
      const output = new Float64Array(values.dim);
      visitAttention(observation, queries, (head, _, row) => {
        const first = values.starts[Math.floor(head / group)];
        output.fill(0);
        for (let t = 0; t < row.length; t++) {
          for (let d = 0; d < output.length; d++) output[d] += row[t] * values.data[first + t * values.stride + d];
        }
        for (let t = 0; t < row.length; t++) {
          let distance = 0;
          for (let d = 0; d < output.length; d++) {
            distance += (values.data[first + t * values.stride + d] - output[d]) ** 2;
          }
          perHead[head][t] += (row[t] / (1 - row[t] + epsilon)) ** 2 * distance;
        }
      });
      return groupMean(perHead, group).map((row) => {
        const pooled = averagePool(row, kernel);
        return pooled.fill(largest([pooled]) + 1, Math.max(0, row.length - window));
      });
    },
  });
}
