/** What happens at the end of a prefill and what happens while decoding, together. */

import { ConfigError } from "../errors.ts";
import { type Amount, removedRatio } from "./amount.ts";
import type { DecodingCompression } from "./decoding-compression.ts";
import type { Policy } from "./policy.ts";

/** A compression at the end of a prefill. */
export type PrefillCompression = {
  readonly policy: Policy;
  /** Absent for a policy whose own parameters decide. */
  readonly amount?: Amount;
};

/** All that is ever done to a cache; either part may be absent. */
export type CompressionSchedule = {
  readonly prefill?: PrefillCompression;
  readonly decoding?: DecodingCompression;
};

/**
 * Joins a compression of the prompt with one of what is generated.
 *
 * @throws ConfigError when the prefill's amount is missing, not wanted or impossible, or when one part moves keys and
 * the other leaves them, so that positions would no longer agree
 */
export function prefillDecoding(prefill: PrefillCompression, decoding: DecodingCompression): CompressionSchedule {
  const where = "prefillDecoding";
  const { policy, amount } = prefill;
  if (!policy.moments.includes("prefill")) {
    throw new ConfigError(where, "a policy that can run after a prefill", { policy: policy.name });
  }
  if ((amount === undefined) !== (policy.amount === "own")) {
    throw new ConfigError(where, "an amount exactly where the policy takes one", { policy: policy.name, amount });
  }
  if (amount !== undefined) removedRatio(amount, 1);
  const moves = (one: Policy): boolean => one.effects.includes("moves keys");
  if (moves(policy) !== moves(decoding.policy)) {
    throw new ConfigError(
      where,
      "both policies or neither to move keys",
      { prefill: policy.name, decoding: decoding.policy.name },
      "Wrap both in rerotated, or neither.",
    );
  }
  return { prefill, decoding };
}
