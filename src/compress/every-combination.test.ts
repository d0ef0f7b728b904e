import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { randomLayers } from "../../test/support/observation.ts";
import { SMALL_POLICIES, SMALL_WRAPPERS } from "../../test/support/policies.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { createKvCache, type PositionedCache } from "../cache/index.ts";
import { ConfigError } from "../errors.ts";
import { f32 } from "../tensor.ts";
import type { Amount, Observation, Policy } from "./index.ts";
import * as compress from "./index.ts";

const [HEADS, D, DV] = [2, 4, 3];

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

/** A cache of the rows of a layer. */
function cacheOf({ keys, values, positions, rotary }: Observation, layout: "contiguous" | "paged"): PositionedCache {
  const layer = { kvHeads: HEADS, keyDim: D, valueDim: DV, rotary, layout: { type: layout } };
  const cache = createKvCache([layer]);
  const tokenMajor = ({ data, dim, starts, stride }: compress.HeadRows): number[] =>
    Array.from(positions[0]).flatMap((_, t) =>
      Array.from(starts).flatMap((start) => [...data.subarray(start + t * stride).subarray(0, dim)]),
    );
  const [T, segments] = [positions[0].length, new Int32Array(positions[0].length)];
  cache.append(0, {
    keys: f32([T, HEADS, D], tokenMajor(keys)),
    values: f32([T, HEADS, DV], tokenMajor(values)),
    ...{ positions: positions[0], segments },
  });
  return cache;
}

/** A plan carried out on a cache gives the rows that it means, in no more bytes than they take. */
function checkCache(observation: Observation, plan: compress.LayerPlan, layout: "contiguous" | "paged"): void {
  const cache = cacheOf(observation, layout);
  const kept = compress.applyPlanToCache(cache, 0, plan);
  if (plan.kept.some((slots) => slots.length === 0)) return; // such a head keeps its first row
  const { keys, values, positions } = compress.applyPlan(observation, plan);
  const rows = kept.reduce((sum, slots) => sum + slots.length, 0);
  const width = plan.droppedChannels ? D / 2 : D;
  expect(cache.bytes).toBe(4 * rows * (width + DV));
  expect(cache.isNarrowed(0)).toBe(plan.droppedChannels !== undefined);
  for (const [head, slots] of kept.entries()) {
    expect([...cache.positions(0, head)]).toEqual([...positions[head]]);
    const [view] = cache.wideViews(0).slice(cache.isRagged(0) ? head : 0);
    const heads = cache.isRagged(0) ? 1 : HEADS;
    const of = (data: ArrayLike<number>, dim: number): Float32Array =>
      Float32Array.from({ length: slots.length * dim }, (_, n) => {
        const row = Math.floor(n / dim) * heads + (heads === 1 ? 0 : head);
        return data[row * dim + (n % dim)];
      });
    const want = ({ data, starts, dim }: compress.HeadRows): Float32Array =>
      data.subarray(starts[head], starts[head] + slots.length * dim);
    expectClose(of(view.keys.data, D), want(keys), F32_STORED);
    expectClose(of(view.values.data, DV), want(values), F32_STORED);
  }
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
      for (const layout of ["contiguous", "paged"] as const) checkCache(seen[n], plan, layout);
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
