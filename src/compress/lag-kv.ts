/**
 * Tokens that stand out against the partition behind them stay.
 *
 * @see https://arxiv.org/abs/2504.04704
 */

import { checkWhole } from "./check-options.ts";
import type { HeadRows } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { softmaxInPlace } from "./vectors.ts";

/** Options of {@link lagKV}. */
export type LagKVOptions = {
  /** First tokens that always stay; 4 unless told. */
  readonly sinks?: number;
  /** Tokens of a partition; 128 unless told. */
  readonly lagTokens?: number;
  /** Let scores compete across partitions and heads instead of ranks within a partition; false unless told. */
  readonly crossScoring?: boolean;
};

/**
 * Scores the tokens of every partition but the last: channels are scaled by the range they have in the next
 * partition, and the spread over channels, as a softmax within the partition, is averaged over keys and values.
 * Prompts shorter than the sinks and two partitions keep the latest tokens.
 *
 * @throws ConfigError when an option is out of range
 */
export function lagKV({ sinks = 4, lagTokens = 128, crossScoring = false }: LagKVOptions = {}): ScorePolicy {
  checkWhole("lagKV", { sinks }, 0);
  checkWhole("lagKV", { lagTokens }, 1);
  const tail = (T: number): number => (T < sinks + 2 * lagTokens ? 0 : lagTokens + ((T - sinks) % lagTokens));
  return scorePolicy({
    name: "lagKV",
    comparable: crossScoring,
    protects: ({ keys }) => ({ first: sinks, last: Math.min(...Array.from(keys.lengths, tail)) }),
    score: ({ keys, values }) =>
      Array.from(keys.lengths, (T, head) => {
        const scores = new Float64Array(T).fill(1);
        if (tail(T) === 0) {
          for (let t = sinks; t < T; t++) scores[t] = (t - sinks) / (T - sinks);
          return scores;
        }
        for (let start = sinks; start + 2 * lagTokens <= T; start += lagTokens) {
          const ofKeys = partitionScores(keys, head, start, lagTokens);
          const ofValues = partitionScores(values, head, start, lagTokens);
          const both = ofKeys.map((score, t) => (score + ofValues[t]) / 2);
          scores.set(crossScoring ? both : ranks(both), start);
        }
        return scores;
      }),
  });
}

/** Softmax over a partition of how much its rows spread over channels, seen from the next partition. */
function partitionScores(rows: HeadRows, head: number, start: number, lag: number): Float64Array {
  const { data, dim, stride } = rows;
  const at = (t: number): number => rows.starts[head] + t * stride;
  const low = new Float64Array(dim).fill(Infinity);
  const high = new Float64Array(dim).fill(-Infinity);
  for (let t = start + lag; t < start + 2 * lag; t++) {
    for (let d = 0, n = at(t); d < dim; d++, n++) {
      low[d] = Math.min(low[d], data[n]);
      high[d] = Math.max(high[d], data[n]);
    }
  }
  // A channel that stands still in the next partition says nothing.
  const factors = low.map((least, d) => (high[d] > least ? 1 / (high[d] - least) : 0));
  const scaled = new Float64Array(dim);
  const scores = new Float64Array(lag);
  for (let t = 0; t < lag; t++) {
    let total = 0;
    for (let d = 0, n = at(start + t); d < dim; d++, n++) {
      scaled[d] = (data[n] - low[d]) * factors[d];
      total += scaled[d];
    }
    const mean = total / dim;
    let squares = 0;
    for (let d = 0; d < dim; d++) squares += (scaled[d] - mean) ** 2;
    scores[t] = Math.sqrt(squares / Math.max(1, dim - 1));
  }
  softmaxInPlace(scores);
  return scores;
}

/** Rank of every score, 0 for the lowest, over their number; of equal scores the lower index ranks lower. */
function ranks(scores: Float64Array): Float64Array {
  const order = Array.from(scores.keys()).sort((a, b) => scores[a] - scores[b] || a - b);
  const out = new Float64Array(scores.length);
  for (const [rank, index] of order.entries()) out[index] = rank / scores.length;
  return out;
}
