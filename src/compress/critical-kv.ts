/**
 * CriticalKV: half of the budget goes to the best scores, the other half to scores weighted by how large the value
 * is behind the output projection.
 *
 * @see https://arxiv.org/abs/2502.03805
 */

import { requireComparable, safeguarded } from "./adaptive-heads.ts";
import { checkRange } from "./check-options.ts";
import { bestOfAll } from "./compete.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type Observation } from "./observation.ts";
import { givenAmount, type HeadScores, type Policy, requireScores, type ScorePolicy, scorePolicy } from "./policy.ts";
import { projectedNorms } from "./projected-values.ts";
import { unscored } from "./rerotated.ts";
import { topSlots } from "./top-slots.ts";

/** Options of {@link criticalKV}. */
export type CriticalKVOptions = {
  /** Added to scores before they are weighted; 1e-4 unless told. */
  readonly epsilon?: number;
  /** Share of the budget that goes by the plain scores, 0 to 1; 0.5 unless told. */
  readonly firstStage?: number;
};

/** Options of {@link criticalAdaptiveHeads}. */
export type CriticalAdaptiveHeadsOptions = CriticalKVOptions & {
  /** Share of its even budget that every head keeps for sure, 0 to 1; 0.2 unless told. */
  readonly safeguard?: number;
};

/** The score of tokens that stay whatever the second stage says: the largest f32. */
const CERTAIN = (2 - 2 ** -23) * 2 ** 127;
const NO_ENDS = { first: 0, last: 0 };

/**
 * Weights another policy's scores by ‖W_o·v‖₁, averaged over query heads: (score + ε)·‖W_o·v‖₁, except for the best
 * floor(firstStage · B) plain scores, which stay for sure.
 *
 * @param policy - gives the plain scores; should not weigh by value norms itself
 * @throws ConfigError when the policy does not score
 */
export function criticalKV(policy: Policy, options: CriticalKVOptions = {}): ScorePolicy {
  const { epsilon, firstStage } = checked("criticalKV", options);
  const inner = requireScores("criticalKV", policy);
  return scorePolicy({
    name: `criticalKV(${inner.name})`,
    needs: { ...inner.needs, outputProjection: true },
    takes: { ...inner.takes, projectedNorms: 1 },
    moments: inner.moments,
    comparable: false, // its certain tokens are those of even budgets: see criticalAdaptiveHeads
    protects: inner.protects,
    counts: inner.counts,
    score: (observation, amount) => {
      const counts = inner.counts(observation, amount);
      const plain = inner.score(observation, amount);
      const weighted = weigh("criticalKV", observation, plain, epsilon);
      return weighted.map((row, head) => {
        for (const slot of topSlots(plain[head], Math.floor(counts[head] * firstStage), NO_ENDS)) row[slot] = CERTAIN;
        return row;
      });
    },
  });
}

/**
 * Both wrappers at once: budgets per head as `adaptiveHeads`, then within each head the two stages of
 * `criticalKV`.
 *
 * @param policy - gives the plain scores
 * @throws ConfigError when the policy does not score, or its heads' scores are not on one scale
 */
export function criticalAdaptiveHeads(policy: Policy, options: CriticalAdaptiveHeadsOptions = {}): Policy {
  const { epsilon, firstStage } = checked("criticalAdaptiveHeads", options);
  const { safeguard = 0.2 } = options;
  checkRange("criticalAdaptiveHeads", { safeguard }, 0, 1);
  const inner = requireComparable("criticalAdaptiveHeads", policy);
  return {
    ...unscored(inner),
    name: `criticalAdaptiveHeads(${inner.name})`,
    needs: { ...inner.needs, outputProjection: true },
    takes: { ...inner.takes, projectedNorms: 1 },
    scope: "layer",
    ragged: true,
    plan: (layers, amount) => {
      const given = givenAmount("criticalAdaptiveHeads", amount);
      return layers.map((observation) => {
        const { scores, counts } = safeguarded(inner, observation, given, safeguard);
        const total = counts.reduce((sum, count) => sum + count, 0);
        const budgets = bestOfAll(scores, total).map((kept) => kept.length);
        const weighted = weigh("criticalAdaptiveHeads", observation, scores, epsilon);
        return {
          kept: weighted.map((row, head) => {
            const first = Math.floor(budgets[head] * firstStage);
            for (const slot of topSlots(scores[head], first, NO_ENDS)) row[slot] = Infinity;
            return topSlots(row, budgets[head], NO_ENDS);
          }),
        };
      });
    },
  };
}

function weigh(where: string, observation: Observation, scores: HeadScores, epsilon: number): HeadScores {
  const norms = groupMean(projectedNorms(where, observation, 1), groupOf(observation));
  return scores.map((row, head) => row.map((score, t) => (score + epsilon) * norms[head][t]));
}

function checked(where: string, { epsilon = 1e-4, firstStage = 0.5 }: CriticalKVOptions): Required<CriticalKVOptions> {
  checkRange(where, { epsilon }, 0, Infinity);
  checkRange(where, { firstStage }, 0, 1);
  return { epsilon, firstStage };
}
