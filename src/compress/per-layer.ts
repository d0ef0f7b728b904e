/** An amount for every layer. */

import { ConfigError } from "../errors.ts";
import { type Amount, removedRatio } from "./amount.ts";
import { type Policy, refuseAmount } from "./policy.ts";
import { unscored } from "./rerotated.ts";

/**
 * Gives every layer an amount of its own.
 *
 * @param policy - decides what stays; must plan each layer alone and take an amount
 * @param amounts - [L] what each layer keeps
 * @throws ConfigError when the policy plans all layers together or decides how much itself, or an amount is
 * impossible; when planning, when the model has another number of layers
 */
export function perLayer(policy: Policy, amounts: readonly Amount[]): Policy {
  if (policy.scope === "model" || policy.amount === "own") {
    throw new ConfigError(
      "perLayer",
      "a policy that plans each layer alone and is told how much to keep",
      { policy: policy.name, scope: policy.scope, amount: policy.amount },
      "This one shares out the layers' tokens itself.",
    );
  }
  for (const amount of amounts) removedRatio(amount, 1);
  const name = `perLayer(${policy.name})`;
  return {
    ...unscored(policy),
    name,
    amount: "own",
    plan: (layers, amount) => {
      refuseAmount(name, amount);
      return layers.flatMap((observation) => {
        if (observation.layers !== amounts.length) {
          throw new ConfigError("perLayer", "an amount for every layer of the model", {
            amounts: amounts.length,
            layers: observation.layers,
          });
        }
        return policy.plan([observation], amounts[observation.layer]);
      });
    },
  };
}
