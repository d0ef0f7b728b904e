/**
 * ChunkKV: neighbours stay or go together, so that phrases stay whole.
 *
 * @see https://arxiv.org/abs/2502.00299
 */

import { largestIndices } from "../attention/top-k.ts";
import { BudgetError } from "../errors.ts";
import { type Amount, keptCount } from "./amount.ts";
import { checkWhole } from "./check-options.ts";
import { evenLength, type Observation } from "./observation.ts";
import { givenAmount, layerAmount, type Policy, requireScores } from "./policy.ts";
import { unscored } from "./rerotated.ts";
import { topSlots } from "./top-slots.ts";
import { sum } from "./vectors.ts";

/** Options of {@link chunkKV}. */
export type ChunkKVOptions = {
  /** Tokens of a chunk; 20 unless told. */
  readonly chunkTokens?: number;
};

/**
 * Keeps whole chunks, the same in every head of a layer: those that hold protected tokens, then those with the largest
 * mean score, summed over heads. A ratio counts chunks, so that a short last chunk makes it inexact; a budget is never
 * exceeded, and up to a chunk of it may stay unused. In prompts shorter than a chunk every head chooses for itself.
 *
 * @param policy - scores the tokens
 * @throws ConfigError when the policy does not score; when planning, BudgetError when a budget holds no chunk
 */
export function chunkKV(policy: Policy, { chunkTokens = 20 }: ChunkKVOptions = {}): Policy {
  checkWhole("chunkKV", { chunkTokens }, 1);
  const inner = requireScores("chunkKV", policy);
  return {
    ...unscored(inner),
    evenHeads: true,
    name: `chunkKV(${inner.name})`,
    scope: "layer",
    ragged: false,
    plan: (layers, amount) => {
      const given = givenAmount("chunkKV", amount);
      return layers.map((observation) => {
        const T = evenLength("chunkKV", observation);
        const ends = inner.protects(observation);
        const scores = inner.score(observation, given);
        if (T < chunkTokens) {
          const counts = inner.counts(observation, given);
          return { kept: scores.map((row, head) => topSlots(row, counts[head], ends)) };
        }
        const means = Float64Array.from({ length: Math.ceil(T / chunkTokens) }, (_, n) => {
          const start = n * chunkTokens;
          const size = Math.min(T, start + chunkTokens) - start;
          if (start < ends.first || start + size > T - ends.last) return Infinity; // holds protected tokens
          return scores.reduce((total, row) => total + sum(row.subarray(start, start + size)), 0) / size;
        });
        const slots = chosenChunks(means, observation, layerAmount(inner, observation, given), chunkTokens).flatMap(
          (n) => Array.from({ length: Math.min(chunkTokens, T - n * chunkTokens) }, (_, i) => n * chunkTokens + i),
        );
        return { kept: scores.map(() => Int32Array.from(slots)) };
      });
    },
  };
}

/** Chunks that stay, ascending. */
function chosenChunks(means: Float64Array, observation: Observation, amount: Amount, chunkTokens: number): number[] {
  if (amount.budget === undefined) return largestIndices(means, keptCount(amount, means.length));
  const T = evenLength("chunkKV", observation);
  let room = keptCount(amount, T);
  const ranked = Array.from(means.keys()).sort((a, b) => means[b] - means[a] || a - b);
  const chosen = ranked.filter((n) => {
    const size = Math.min(chunkTokens, T - n * chunkTokens);
    if (size > room) return false;
    room -= size;
    return true;
  });
  if (chosen.length === 0) {
    throw new BudgetError("chunkKV", "a budget that holds a chunk", { budget: amount.budget, chunkTokens });
  }
  return chosen.sort((a, b) => a - b);
}
