/**
 * AdaKV: the heads of a layer compete, so that heads with much to remember keep more.
 *
 * @see https://arxiv.org/abs/2407.11550
 */

import { ConfigError } from "../errors.ts";
import type { Amount } from "./amount.ts";
import { checkRange } from "./check-options.ts";
import { bestOfAll } from "./compete.ts";
import type { Observation } from "./observation.ts";
import { givenAmount, type HeadScores, type Policy, requireScores, type ScorePolicy } from "./policy.ts";
import { unscored } from "./rerotated.ts";
import { topSlots, withEnds } from "./top-slots.ts";

/** Options of {@link adaptiveHeads}. */
export type AdaptiveHeadsOptions = {
  /** Share of its even budget that every head keeps for sure, 0 to 1; 0.2 unless told. */
  readonly safeguard?: number;
};

/**
 * Shares a layer's budget among its heads: each keeps its best floor(safeguard · B) tokens, the rest goes to the best
 * scores of the layer.
 *
 * @param policy - scores the tokens
 * @throws ConfigError when the policy does not score, or its heads' scores are not on one scale
 */
export function adaptiveHeads(policy: Policy, { safeguard = 0.2 }: AdaptiveHeadsOptions = {}): Policy {
  checkRange("adaptiveHeads", { safeguard }, 0, 1);
  const inner = requireComparable("adaptiveHeads", policy);
  return {
    ...unscored(inner),
    name: `adaptiveHeads(${inner.name})`,
    scope: "layer",
    ragged: true,
    plan: (layers, amount) => {
      const given = givenAmount("adaptiveHeads", amount);
      return layers.map((observation) => {
        const { scores, counts } = safeguarded(inner, observation, given, safeguard);
        return {
          kept: bestOfAll(
            scores,
            counts.reduce((sum, count) => sum + count, 0),
          ),
        };
      });
    },
  };
}

/** Scores with every head's safe tokens at +Infinity, and the even budgets that the heads share. */
export function safeguarded(
  policy: ScorePolicy,
  observation: Observation,
  amount: Amount,
  safeguard: number,
): { readonly scores: HeadScores; readonly counts: readonly number[] } {
  const ends = policy.protects(observation);
  const counts = policy.counts(observation, amount);
  const scores = policy.score(observation, amount).map((row, head) => {
    const safe = Math.floor(counts[head] * safeguard);
    const raised = withEnds(row, fitting(ends, counts[head]));
    for (const slot of topSlots(row, safe, ends)) raised[slot] = Infinity;
    return raised;
  });
  return { scores, counts };
}

/** Protected ends as far as an even budget holds them. */
function fitting(ends: { readonly first: number; readonly last: number }, count: number): typeof ends {
  const first = Math.min(ends.first, count);
  return { first, last: Math.min(ends.last, count - first) };
}

/**
 * A policy whose scores can be compared across heads.
 *
 * @throws ConfigError when they cannot
 */
export function requireComparable(where: string, policy: Policy): ScorePolicy {
  const inner = requireScores(where, policy);
  if (!inner.comparable) {
    throw new ConfigError(
      where,
      "a policy whose scores are on one scale for all heads",
      { policy: inner.name },
      "This one ranks tokens within each head, so heads would win by chance.",
    );
  }
  return inner;
}
