/** Two policies, one after the other. */

import { ConfigError } from "../errors.ts";
import { gatherObservation, type Observation } from "./observation.ts";
import type { Policy, PolicyNeeds } from "./policy.ts";
import { unscored } from "./rerotated.ts";

/**
 * Applies a second policy to what a first one keeps: `composed(snapKV(), think())`.
 *
 * @param first - evicts tokens
 * @param second - decides by its own parameters; looks at keys, values and queries only
 * @throws ConfigError when the first does more than evict, or the second needs an amount or anything else
 */
export function composed(first: Policy, second: Policy): Policy {
  if (first.effects.some((effect) => effect !== "evicts")) {
    throw new ConfigError("composed", "a first policy that only evicts", {
      policy: first.name,
      effects: first.effects,
    });
  }
  const { queries, unrotatedQueries, outputProjection, ...others } = second.needs;
  if (queries === "question" || Object.values(others).some(Boolean)) {
    throw new ConfigError("composed", "a second policy that looks at keys, values and queries only", {
      policy: second.name,
      needs: second.needs,
    });
  }
  if (second.amount !== "own") {
    throw new ConfigError(
      "composed",
      "a second policy whose own parameters decide how much stays",
      { policy: second.name },
      "Two policies cannot share one amount.",
    );
  }
  return {
    ...unscored(first),
    name: `composed(${first.name}, ${second.name})`,
    needs: joinNeeds(first.needs, second.needs),
    moments: first.moments.filter((moment) => second.moments.includes(moment)),
    scope: first.scope === "model" || second.scope === "model" ? "model" : "layer",
    ragged: first.ragged || second.ragged,
    effects: [...new Set([...first.effects, ...second.effects])],
    plan: (layers, amount) => {
      const before = first.plan(layers, amount);
      const after = second.plan(
        before.map(({ kept }, n) => withQueries(gatherObservation(layers[n], kept), layers[n])),
      );
      return after.map((plan, n) => ({
        ...plan,
        kept: plan.kept.map((slots, head) => slots.map((slot) => before[n].kept[head][slot])),
      }));
    },
  };
}

function withQueries(gathered: Observation, { queries, unrotatedQueries, outputProjection }: Observation): Observation {
  return {
    ...gathered,
    ...(queries === undefined ? {} : { queries }),
    ...(unrotatedQueries === undefined ? {} : { unrotatedQueries }),
    ...(outputProjection === undefined ? {} : { outputProjection }),
  };
}

function joinNeeds(a: PolicyNeeds, b: PolicyNeeds): PolicyNeeds {
  const queries = [a.queries, b.queries].filter((q) => q !== undefined);
  const most = queries.includes("question") ? "question" : Math.max(...(queries as number[]));
  const unrotated = Math.max(a.unrotatedQueries ?? 0, b.unrotatedQueries ?? 0);
  return {
    ...a,
    ...b,
    ...(queries.length > 0 ? { queries: queries.length > 1 && most === "question" ? Infinity : most } : {}),
    ...(unrotated > 0 ? { unrotatedQueries: unrotated } : {}),
  };
}
