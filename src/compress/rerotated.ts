/**
 * Re-rotation: the kept keys of every head move together, to positions 0, 1, 2, …, so that distances stay within
 * what the model was trained for. The next query follows the longest head.
 *
 * @see https://arxiv.org/abs/2309.17453 section 3.2
 */

import { ConfigError } from "../errors.ts";
import type { Policy } from "./policy.ts";
import { allSlots } from "./top-slots.ts";

/**
 * Lets the kept keys of another policy move together.
 *
 * @param policy - decides what stays
 * @throws ConfigError when the policy moves keys already, or drops key channels
 */
export function rerotated(policy: Policy): Policy {
  if (policy.effects.includes("moves keys")) {
    throw new ConfigError("rerotated", "a policy that leaves keys where they are", { policy: policy.name });
  }
  if (policy.effects.includes("drops channels")) {
    throw new ConfigError(
      "rerotated",
      "a policy that keeps whole pairs of key channels",
      { policy: policy.name },
      "Turning a key mixes the two channels of a pair, and here one of them may be gone.",
    );
  }
  return {
    ...unscored(policy),
    name: `rerotated(${policy.name})`,
    effects: [...policy.effects, "moves keys"],
    plan: (layers, amount) =>
      policy
        .plan(layers, amount)
        .map((plan) => ({ ...plan, positions: plan.kept.map((kept) => allSlots(kept.length)) })),
  };
}

/** The properties of a policy that its wrappers take over. */
export function unscored(policy: Policy): Policy {
  const { name, needs, takes, moments, scope, amount, ragged, uneven, evenHeads, effects, plan } = policy;
  const flags = { ...(takes && { takes }), ...(uneven && { uneven }), ...(evenHeads && { evenHeads }) };
  return { name, needs, moments, scope, amount, ragged, ...flags, effects, plan };
}
