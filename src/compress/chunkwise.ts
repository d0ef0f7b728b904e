/** Chunks that are compressed each for itself, so that every part of a text keeps its share. */

import { BudgetError, ConfigError } from "../errors.ts";
import { type Amount, keptCount, removedRatio } from "./amount.ts";
import { checkWhole } from "./check-options.ts";
import { evenLength, kvHeadsOf, type Observation, sliceObservation } from "./observation.ts";
import {
  givenAmount,
  type HeadScores,
  layerAmount,
  type Policy,
  type PolicyNeeds,
  requireScores,
  type ScorePolicy,
} from "./policy.ts";
import { unscored } from "./rerotated.ts";
import { topSlots } from "./top-slots.ts";

/** Options of {@link chunkwise}. */
export type ChunkwiseOptions = {
  /** Tokens of a chunk; 1024 unless told. */
  readonly chunkTokens?: number;
};

/** A policy that scores within chunks. */
export type ChunkwisePolicy = Policy & {
  /** f64 [Hk][T] the scores that each chunk gives its tokens. */
  chunkScores(observation: Observation, amount: Amount): HeadScores;
};

/**
 * Applies a policy to chunks of the prompt, each as if there were nothing else. Every chunk keeps the same share, and
 * at least one token.
 *
 * @param policy - scores the tokens, from what can be cut into chunks: keys, values, queries
 * @throws ConfigError when the policy does not score, or looks at more than a chunk; when planning with a budget,
 * BudgetError when it does not hold one token per chunk
 */
export function chunkwise(policy: Policy, { chunkTokens = 1024 }: ChunkwiseOptions = {}): ChunkwisePolicy {
  checkWhole("chunkwise", { chunkTokens }, 1);
  const inner = requireScores("chunkwise", policy);
  const needs = needsOfChunks(inner);
  const chunksOf = (observation: Observation): Observation[] => {
    const T = evenLength("chunkwise", observation);
    return Array.from({ length: Math.ceil(T / chunkTokens) }, (_, n) =>
      sliceObservation("chunkwise", observation, n * chunkTokens, Math.min(T, (n + 1) * chunkTokens)),
    );
  };
  return {
    ...unscored(inner),
    evenHeads: true,
    name: `chunkwise(${inner.name})`,
    needs,
    takes: {}, // sums of the whole prompt say nothing about a chunk
    moments: ["prefill"],
    scope: "layer",
    plan: (layers, amount) => {
      const given = givenAmount("chunkwise", amount);
      return layers.map((observation) => {
        const T = evenLength("chunkwise", observation);
        const share = { compressionRatio: removedRatio(layerAmount(inner, observation, given), T) };
        checkBudget(given, Math.ceil(T / chunkTokens));
        const heads = Array.from({ length: kvHeadsOf(observation) }, (): number[] => []);
        for (const [n, chunk] of chunksOf(observation).entries()) {
          const count = keptCount(share, evenLength("chunkwise", chunk));
          const ends = inner.protects(chunk);
          for (const [head, scores] of inner.score(chunk, share).entries()) {
            for (const slot of topSlots(scores, count, ends)) heads[head].push(n * chunkTokens + slot);
          }
        }
        return { kept: heads.map((slots) => Int32Array.from(slots)) };
      });
    },
    chunkScores: (observation, amount) => {
      const parts = chunksOf(observation).map((chunk) => inner.score(chunk, amount));
      return Array.from({ length: kvHeadsOf(observation) }, (_, head) =>
        Float64Array.from(parts.flatMap((part) => Array.from(part[head]))),
      );
    },
  };
}

function checkBudget({ budget }: Amount, chunks: number): void {
  if (budget !== undefined && budget < chunks) {
    throw new BudgetError(
      "chunkwise",
      "a budget of at least one token per chunk",
      { budget, chunks },
      "Take larger chunks.",
    );
  }
}

/** What the policy needs when every chunk wants its own queries. */
function needsOfChunks({ name, needs }: ScorePolicy): PolicyNeeds {
  const { queries, unrotatedQueries, unrotatedKeys, outputProjection, ...others } = needs;
  if (queries === "question" || Object.values(others).some(Boolean)) {
    throw new ConfigError(
      "chunkwise",
      "a policy that looks at keys, values and queries only",
      { policy: name, needs },
      "What this one looks at cannot be cut into chunks.",
    );
  }
  return {
    ...(queries === undefined ? {} : { queries: Infinity }),
    ...(unrotatedQueries === undefined ? {} : { unrotatedQueries: Infinity }),
    ...(unrotatedKeys === undefined ? {} : { unrotatedKeys }),
    ...(outputProjection === undefined ? {} : { outputProjection }),
  };
}
