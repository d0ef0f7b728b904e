/**
 * Finch: what the question at the end of the prompt attends to stays, and so does the question. The paper also moves
 * the kept keys together: `rerotated(finch())`.
 *
 * @see https://direct.mit.edu/tacl/article/doi/10.1162/tacl_a_00716/125280
 */

import { keptCount } from "./amount.ts";
import { checkWhole } from "./check-options.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type Observation, observed } from "./observation.ts";
import { givenAmount, type ScorePolicy, scorePolicy } from "./policy.ts";
import { windowAttention, withWindow } from "./snap-kv.ts";
import { topSlots } from "./top-slots.ts";

/** Options of {@link finch}. */
export type FinchOptions = {
  /** Choose within chunks of this many tokens, each alone; the whole prompt at once unless told. */
  readonly chunkTokens?: number;
  /** Multiply each query's attention by the number of tokens before it; true unless told. */
  readonly normalize?: boolean;
};

/**
 * Scores a token by the mean attention of the question's queries, averaged over query heads.
 *
 * @throws ConfigError when an option is out of range
 */
export function finch({ chunkTokens = Infinity, normalize = true }: FinchOptions = {}): ScorePolicy {
  if (chunkTokens !== Infinity) checkWhole("finch", { chunkTokens }, 1);
  const question = (observation: Observation): number => observed("finch", observation, "questionTokens");
  const weights = normalize ? "slots" : "equal";
  const whole = scorePolicy({
    name: "finch",
    needs: { queries: "question", questionTokens: true },
    takes: { querySums: { queries: "question", weights } },
    moments: ["prefill"],
    protects: (observation) => ({ first: 0, last: question(observation) }),
    score: (observation) => {
      const means = windowAttention("finch", observation, question(observation), weights);
      return withWindow(groupMean(means, groupOf(observation)), observation, question(observation));
    },
  });
  if (chunkTokens === Infinity) return whole;
  return {
    ...whole,
    plan: (layers, amount) => {
      const given = givenAmount("finch", amount);
      return layers.map((observation) => ({
        kept: whole.score(observation, given).map((scores) => {
          const context = scores.length - question(observation);
          const kept: number[] = [];
          for (let start = 0; start < scores.length; start += chunkTokens) {
            const chunk = scores.subarray(start, start + chunkTokens);
            const last = Math.max(0, Math.min(chunk.length, start + chunk.length - context));
            const slots = topSlots(chunk, keptCount(given, chunk.length), { first: 0, last });
            for (const slot of slots) kept.push(start + slot);
          }
          return Int32Array.from(kept);
        }),
      }));
    },
  };
}
