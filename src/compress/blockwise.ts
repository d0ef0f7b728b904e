/**
 * Blocks arrive one by one and compete with what was kept so far, as they would in a prefill under a budget.
 *
 * @see https://arxiv.org/abs/2504.15364 section 3
 */

import { ConfigError } from "../errors.ts";
import { checkWhole } from "./check-options.ts";
import { gatherObservation, type Observation } from "./observation.ts";
import { givenAmount, type Policy, requireScores, type ScorePolicy } from "./policy.ts";
import { unscored } from "./rerotated.ts";
import { allSlots, topSlots } from "./top-slots.ts";

/** Options of {@link blockwise}. */
export type BlockwiseOptions = {
  /** Tokens of a block; 128 unless told. */
  readonly blockTokens?: number;
};

/**
 * Starts with the first B tokens of every head and lets block after block compete with the B kept.
 *
 * @param policy - scores tokens by keys and values alone
 * @throws ConfigError when the policy does not score, or looks at more than keys and values
 */
export function blockwise(policy: Policy, { blockTokens = 128 }: BlockwiseOptions = {}): Policy {
  checkWhole("blockwise", { blockTokens }, 1);
  const inner = requireScores("blockwise", policy);
  if (Object.values(inner.needs).some(Boolean)) {
    throw new ConfigError(
      "blockwise",
      "a policy that looks at keys and values only",
      { policy: inner.name, needs: inner.needs },
      "What queries there were when a block arrived is not known afterwards.",
    );
  }
  return {
    ...unscored(inner),
    name: `blockwise(${inner.name})`,
    scope: "layer",
    plan: (layers, amount) => {
      const given = givenAmount("blockwise", amount);
      return layers.map((observation) => {
        const counts = inner.counts(observation, given);
        const lengths = Array.from(observation.keys.lengths);
        let kept = counts.map(allSlots);
        const blocks = Math.max(...lengths.map((T, head) => Math.ceil((T - counts[head]) / blockTokens)));
        for (let n = 0; n < blocks; n++) {
          const candidates = kept.map((slots, head) => {
            const start = Math.min(lengths[head], counts[head] + n * blockTokens);
            const end = Math.min(lengths[head], start + blockTokens);
            return Int32Array.from([...slots, ...allSlots(end).subarray(start)]);
          });
          kept = compete(inner, gatherObservation(observation, candidates), counts, candidates);
        }
        return { kept };
      });
    },
  };
}

/** The best candidates of every head. */
function compete(
  policy: ScorePolicy,
  seen: Observation,
  counts: readonly number[],
  candidates: readonly Int32Array[],
): Int32Array[] {
  const ends = policy.protects(seen);
  // A score that depends on the amount sees it as the budget it is here.
  const scores = policy.score(seen, { budget: Math.max(...counts) });
  return scores.map((row, head) => topSlots(row, counts[head], ends).map((index) => candidates[head][index]));
}
