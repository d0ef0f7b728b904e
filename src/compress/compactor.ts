/**
 * Outlying keys and attended tokens, blended.
 *
 * @see https://arxiv.org/abs/2507.08143
 */

import { removedRatio } from "./amount.ts";
import { checkRange, checkWhole } from "./check-options.ts";
import { checkLeverage, type LeverageOptions, leverageScores } from "./leverage-score.ts";
import { knownChunkSums, type NonCausalOptions, nonCausalScores } from "./non-causal-attention.ts";
import { evenLength, kvHeadsOf, sliceObservation } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { largest } from "./vectors.ts";

/** Options of {@link compactor}. */
export type CompactorOptions = LeverageOptions &
  NonCausalOptions & {
    /** First tokens that always stay; 8 unless told. */
    readonly sinks?: number;
    /** Last tokens that always stay; 4 unless told. */
    readonly recent?: number;
    /** Weight of the leverage beside the attention; the fraction removed unless told. */
    readonly blending?: number;
  };

/**
 * Scores the tokens between the protected ends by blending · leverage + non-causal attention.
 *
 * @throws ConfigError when an option is out of range
 */
export function compactor(options: CompactorOptions = {}): ScorePolicy {
  const { sinks = 8, recent = 4, chunkTokens = 256, blending } = options;
  checkWhole("compactor", { sinks, recent }, 0);
  checkWhole("compactor", { chunkTokens }, 1);
  if (blending !== undefined) checkRange("compactor", { blending }, 0, Infinity);
  checkLeverage("compactor", options);
  return scorePolicy({
    name: "compactor",
    evenHeads: true,
    needs: { queries: Infinity, unrotatedKeys: true },
    takes: { chunkSums: { chunkTokens, first: sinks, last: recent } },
    moments: ["prefill"],
    protects: () => ({ first: sinks, last: recent }),
    score: (observation, amount) => {
      const T = evenLength("compactor", observation);
      const start = Math.min(sinks, T);
      const end = Math.max(start, T - recent);
      if (start === end) return Array.from({ length: kvHeadsOf(observation) }, () => new Float64Array(T));
      const sums = knownChunkSums(observation, { chunkTokens, first: sinks, last: recent });
      const middle = {
        ...sliceObservation("compactor", observation, start, end),
        ...(sums && { chunkSums: { chunkTokens, first: 0, last: 0, sums } }),
      };
      const leverages = leverageScores("compactor", middle, options);
      const attention = nonCausalScores("compactor", middle, chunkTokens);
      const weight = blending ?? removedRatio(amount, T);
      const scores = attention.map((row, head) => row.map((score, t) => weight * leverages[head][t] + score));
      const top = largest(scores);
      return scores.map((row) => {
        const whole = new Float64Array(T).fill(top);
        whole.set(row, start);
        return whole;
      });
    },
  });
}
