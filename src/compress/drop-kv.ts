/**
 * DropKV: tokens whose removal alone would change the attention output most stay.
 *
 * Without token j the output of query i moves by p/(1 − p)·(o_i − v_j), where p is the attention it pays to j.
 *
 * @see https://openreview.net/forum?id=MqfNzH3TVH
 */

import { checkKernel, checkRange, checkWhole } from "./check-options.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type HeadRows, observed } from "./observation.ts";
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
      const columns = Array.from(values.starts, (_, kvHead) => columnsOf(values, kvHead));
      const moved = new Float64Array(Math.max(0, ...Array.from(keys.lengths)));
      visitAttention(observation, queries, (head, _, row) => {
        const own = columns[Math.floor(head / group)];
        squaredDistances(moved, row, own);
        const scores = perHead[head];
        for (let t = 0; t < row.length; t++) scores[t] += (row[t] / (1 - row[t] + epsilon)) ** 2 * moved[t];
      });
      return groupMean(perHead, group).map((row) => {
        const pooled = averagePool(row, kernel);
        return pooled.fill(largest([pooled]) + 1, Math.max(0, row.length - window));
      });
    },
  });
}

/** The values of one head by column: f64 [Dv][T], with columns of zeros up to a multiple of four. */
function columnsOf({ data, dim, starts, stride, lengths }: HeadRows, head: number): Float64Array[] {
  return Array.from({ length: 4 * Math.ceil(dim / 4) }, (_, d) => {
    const column = new Float64Array(lengths[head]);
    if (d < dim) for (let t = 0, at = starts[head] + d; t < column.length; t++, at += stride) column[t] = data[at];
    return column;
  });
}

/** ‖v − o‖² of every value, where o is their sum weighted by a row of attention. */
function squaredDistances(out: Float64Array, row: Float64Array, columns: readonly Float64Array[]): void {
  const T = row.length;
  out.fill(0, 0, T);
  for (let d = 0; d < columns.length; d += 4) {
    const [v0, v1, v2, v3] = columns.slice(d, d + 4);
    let o0 = 0;
    let o1 = 0;
    let o2 = 0;
    let o3 = 0;
    for (let t = 0; t < T; t++) {
      const weight = row[t];
      o0 += weight * v0[t];
      o1 += weight * v1[t];
      o2 += weight * v2[t];
      o3 += weight * v3[t];
    }
    for (let t = 0; t < T; t++) {
      out[t] += (v0[t] - o0) ** 2 + (v1[t] - o1) ** 2 + (v2[t] - o2) ** 2 + (v3[t] - o3) ** 2;
    }
  }
}
