/**
 * DMS: tokens that score below a threshold go once they leave a sliding window; how many that are depends on the text.
 *
 * @see https://arxiv.org/abs/2506.05345 for the rule; its trained scores are not part of this
 */

import { checkRange, checkWhole } from "./check-options.ts";
import { type Policy, refuseAmount, requireScores } from "./policy.ts";
import { unscored } from "./rerotated.ts";

/** Options of {@link dms}. */
export type DmsOptions = {
  /** Tokens that score less go. What is a good value depends on the policy. */
  readonly threshold: number;
  /** Last tokens that stay whatever they score; 128 unless told. */
  readonly window?: number;
};

/**
 * Evicts what scores below a threshold, in every head for itself. The last token always stays.
 *
 * @param policy - scores the tokens; sees a compression ratio of 0 where the score depends on it
 * @throws ConfigError when the policy does not score
 */
export function dms(policy: Policy, { threshold, window = 128 }: DmsOptions): Policy {
  checkRange("dms", { threshold }, -Infinity, Infinity);
  checkWhole("dms", { window }, 1);
  const inner = requireScores("dms", policy);
  const name = `dms(${inner.name})`;
  return {
    ...unscored(inner),
    name,
    scope: "layer",
    amount: "own",
    ragged: true,
    plan: (layers, amount) => {
      refuseAmount(name, amount);
      return layers.map((observation) => {
        const { first, last } = inner.protects(observation);
        const recent = Math.max(window, last);
        return {
          kept: inner.score(observation, { compressionRatio: 0 }).map((scores) => {
            const stays = (t: number): boolean => t < first || t >= scores.length - recent || !(scores[t] < threshold);
            return Int32Array.from(scores.keys()).filter(stays);
          }),
        };
      });
    },
  };
}
