import { describe, expect, it } from "vitest";
import { randomLayers } from "../../test/support/observation.ts";
import { SMALL_POLICIES, SMALL_WRAPPERS } from "../../test/support/policies.ts";
import { ConfigError } from "../errors.ts";
import type { Amount, Observation, Policy } from "./index.ts";
import * as compress from "./index.ts";

const WRAPPERS: Readonly<Record<string, (policy: Policy) => Policy>> = {
  ...SMALL_WRAPPERS,
  decoding: (policy) => compress.decodingCompression(policy).policy,
  composed: (policy) => compress.composed(policy, compress.think()),
};

const layers = randomLayers(23);
const names = Object.keys(SMALL_POLICIES);
const pairs = Object.keys(WRAPPERS).flatMap((outer) => names.map((inner) => [outer, inner] as const));

/** The observation with nothing but what the policy says it needs. */
function onlyNeeded(observation: Observation, { needs }: Policy): Observation {
  const {
    queries,
    unrotatedQueries,
    unrotatedKeys,
    attentionMass,
    outputProjection,
    questionTokens,
    repeats,
    ...base
  } = observation as Required<Observation>;
  const last = (all: typeof queries, count: number) => compress.lastQueries(all, count);
  const { scheduleLength: _, ...rest } = base;
  return {
    ...rest,
    ...(needs.queries === undefined
      ? {}
      : { queries: last(queries, needs.queries === "question" ? 3 : needs.queries) }),
    ...(needs.unrotatedQueries === undefined
      ? {}
      : { unrotatedQueries: last(unrotatedQueries, needs.unrotatedQueries) }),
    ...(needs.unrotatedKeys ? { unrotatedKeys } : {}),
    ...(needs.attentionMass ? { attentionMass } : {}),
    ...(needs.outputProjection ? { outputProjection } : {}),
    ...(needs.questionTokens ? { questionTokens } : {}),
    ...(needs.repeats ? { repeats } : {}),
  };
}

function amountFor({ amount }: Policy): [Amount] | [] {
  return amount === "given" ? [{ compressionRatio: 0.5 }] : [];
}

describe.each(pairs)("%s(%s)", (outer, inner) => {
  it("plans from what it says it needs, or is refused with a reason", () => {
    let policy: Policy;
    try {
      policy = WRAPPERS[outer](SMALL_POLICIES[inner]);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      expect(outer).not.toBe("alone");
      return;
    }
    const seen = layers.map((layer) => onlyNeeded(layer, policy));
    const plans = policy.plan(seen, ...amountFor(policy));
    expect(plans.length).toBe(3);
    for (const [n, plan] of plans.entries()) {
      const counts = plan.kept.map((slots) => slots.length);
      for (const slots of plan.kept) {
        expect([...slots]).toEqual([...new Set(slots)].filter((slot) => slot >= 0 && slot < 23).sort((a, b) => a - b));
      }
      expect(counts.some((count) => count > 0)).toBe(true);
      if (!policy.ragged) expect(counts[1]).toBe(counts[0]);
      expect(plan.positions !== undefined).toBe(policy.effects.includes("moves keys"));
      expect(plan.values !== undefined).toBe(policy.effects.includes("merges values"));
      expect(plan.droppedChannels !== undefined).toBe(policy.effects.includes("drops channels"));
      expect(compress.applyPlan(seen[n], plan).keys.data.every(Number.isFinite)).toBe(true);
    }
    expect(policy.plan(seen, ...amountFor(policy))).toEqual(plans);
  });
});

it("which combinations are refused", () => {
  const refused = Object.entries(WRAPPERS).map(([outer, wrap]) => {
    const not = names.filter((inner) => {
      try {
        wrap(SMALL_POLICIES[inner]);
        return false;
      } catch {
        return true;
      }
    });
    return `${outer}: ${not.join(" ") || "none"}`;
  });
  expect(refused).toMatchInlineSnapshot(`
    [
      "alone: none",
      "rerotated: think",
      "adaptiveHeads: streamingLLM lagKV think simLayerKV duoAttention",
      "criticalKV: think simLayerKV duoAttention",
      "criticalAdaptiveHeads: streamingLLM lagKV think simLayerKV duoAttention",
      "perLayer: kvzip kvCompose think simLayerKV duoAttention",
      "chunkwise: observedAttention finch kvzip kvCompose think simLayerKV duoAttention",
      "chunkKV: think simLayerKV duoAttention",
      "blockwise: snapKV tova pyramidKV observedAttention expectedAttention leverageScore nonCausalAttention compactor capKV dropKV finch kvzip kvCompose think simLayerKV duoAttention",
      "merging: think",
      "dms: think simLayerKV duoAttention",
      "decoding: snapKV pyramidKV observedAttention leverageScore nonCausalAttention compactor dropKV finch kvzip kvCompose think simLayerKV duoAttention",
      "composed: think",
    ]
  `);
});
