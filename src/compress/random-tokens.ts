/** Tokens at random: the floor that every other policy must beat. */

import { checkRange, checkWhole } from "./check-options.ts";
import { kvHeadsOf } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { uniformAt } from "./seeded-numbers.ts";

/** Options of {@link randomTokens}. */
export type RandomTokensOptions = {
  /** Whole number below 2^32; the same seed keeps the same tokens. 0 unless told. */
  readonly seed?: number;
};

/**
 * Keeps tokens at random, each head its own. A token's score depends on the seed, the layer, the head and its
 * position.
 *
 * @throws ConfigError when an option is out of range
 */
export function randomTokens({ seed = 0 }: RandomTokensOptions = {}): ScorePolicy {
  checkRange("randomTokens", { seed }, 0, 2 ** 32 - 1);
  checkWhole("randomTokens", { seed }, 0);
  return scorePolicy({
    name: "randomTokens",
    score: (observation) =>
      Array.from({ length: kvHeadsOf(observation) }, (_, head) =>
        Float64Array.from(observation.positions[head], (p) => uniformAt(seed, observation.layer, head, p)),
      ),
  });
}
