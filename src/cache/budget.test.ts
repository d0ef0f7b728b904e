import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { QueuedMemory } from "../../test/support/queued-memory.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { createKvCache, type KvLayerSpec, type PositionedCache, planCacheBudget } from "./index.ts";

const SHAPE = { kvHeads: 2, keyDim: 4, valueDim: 3 };

function add(cache: PositionedCache, layer: number, count: number, { kvHeads, keyDim, valueDim }: KvLayerSpec): void {
  cache.append(layer, {
    keys: values([count, kvHeads, keyDim], 1),
    values: values([count, kvHeads, valueDim], 2),
    positions: Int32Array.from({ length: count }, (_, t) => t),
    segments: new Int32Array(count),
  });
}

describe("planCacheBudget", () => {
  it("counts keys, values, scales, positions and segments", () => {
    const plan = (layer: Partial<KvLayerSpec>, more = {}) =>
      planCacheBudget({ layers: [{ ...SHAPE, ...layer }], maxBytes: 10_000, ...more });
    expect(plan({})).toMatchObject({ bytesPerToken: 2 * 7 * 4 + 8, tokens: 156, bytes: 156 * 64, fixedBytes: 0 });
    expect(plan({ elements: "int8" }).bytesPerToken).toBe(2 * (7 + 8) + 8);
    expect(plan({ elements: "int4" }).bytesPerToken).toBe(2 * (4 + 8) + 8);
    expect(plan({ elements: "int4", pristineKeys: true }).bytesPerToken).toBe(2 * (6 + 12) + 12);
    expect(plan({}, { ragged: true }).bytesPerToken).toBe(2 * 7 * 4 + 2 * 8);
    expect(plan({}, { axes: 3 }).bytesPerToken).toBe(2 * 7 * 4 + 20);
    expect(plan({}, { maxTokens: 10 })).toMatchObject({ tokens: 10, bytes: 640 });
    expect(plan({ layout: { type: "paged" } })).toMatchObject({ tokens: 144, bytes: 144 * 64 });
  });

  it("takes rings off first", () => {
    const layers: KvLayerSpec[] = [SHAPE, { ...SHAPE, layout: { type: "ring", window: 10, maxChunk: 5 } }];
    const plan = planCacheBudget({ layers, maxBytes: 2000 });
    expect(plan).toMatchObject({ fixedBytes: 14 * 64, tokens: 17, bytes: 14 * 64 + 17 * 64 });
    expect(plan.layers.map((layer) => layer.capacity)).toEqual([17, undefined]);
  });

  it("refuses what cannot hold the least, before anything is allocated", () => {
    expect(thrownBy(() => planCacheBudget({ layers: [SHAPE, SHAPE], maxBytes: 1000, minTokens: 8 }))).toBe(
      "BudgetError: planCacheBudget: maxBytes must hold minTokens; got maxBytes=1000, minTokens=8, neededBytes=1024. " +
        "Raise maxBytes, ask for fewer tokens, or choose int8 or int4 elements.",
    );
    expect(thrownBy(() => planCacheBudget({ layers: [SHAPE], maxBytes: 0.5 }))).toBe(
      "ConfigError: planCacheBudget: maxBytes must be a positive integer; got maxBytes=0.5.",
    );
    expect(thrownBy(() => planCacheBudget({ layers: [{ ...SHAPE, capacity: 3 }], maxBytes: 99 }))).toBe(
      "ConfigError: planCacheBudget: the capacity is what is planned; got capacity=3, layer=0.",
    );
  });

  const layerArbitrary = fc.record({
    kvHeads: fc.integer({ min: 1, max: 3 }),
    keyDim: fc.integer({ min: 1, max: 7 }),
    valueDim: fc.integer({ min: 1, max: 7 }),
    elements: fc.constantFrom("f32" as const, "int8" as const, "int4" as const),
    layout: fc.constantFrom(
      { type: "contiguous" } as const,
      { type: "paged", pageSize: 4 } as const,
      { type: "ring", window: 5, maxChunk: 3 } as const,
    ),
  });

  it("a full cache takes exactly the planned bytes, and one more token would not fit", () => {
    fc.assert(
      fc.property(
        fc.array(layerArbitrary, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 3000, max: 9000 }),
        (layers, maxBytes) => {
          const plan = planCacheBudget({ layers, maxBytes, maxTokens: 300 });
          const memory = new QueuedMemory();
          const cache = createKvCache(plan.layers, { memory });
          for (const [index, layer] of plan.layers.entries()) {
            for (let token = 0; token < (layer.capacity ?? 9); token++) add(cache, index, 1, layer);
          }
          memory.flush();
          expect(cache.allocatedBytes).toBe(plan.bytes);
          expect(plan.bytes).toBeLessThanOrEqual(maxBytes);
          expect(memory.takenBytes).toBeLessThanOrEqual(plan.bytes);
          const more = { layers, maxBytes, minTokens: plan.tokens + 1 };
          if (plan.tokens < 300) expect(thrownBy(() => planCacheBudget(more))).toContain("BudgetError");
        },
      ),
      { numRuns: 60 },
    );
  });

  it("ragged heads stay within the planned bytes, however unequal", () => {
    for (const layout of [{ type: "contiguous" }, { type: "paged", pageSize: 4 }] as const) {
      const plan = planCacheBudget({ layers: [{ ...SHAPE, layout }], maxBytes: 5000, ragged: true });
      const cache = createKvCache(plan.layers);
      for (let round = 0; round < 4; round++) {
        add(cache, 0, plan.tokens - cache.length() - (round > 0 ? 4 : 0), SHAPE);
        const last = (count: number, head: number): Int32Array =>
          Int32Array.from({ length: count }, (_, at) => cache.length(0, head) - count + at);
        cache.compact(0, [last(2, 0), last(plan.tokens - 8, 1)]);
        expect(cache.allocatedBytes).toBeLessThanOrEqual(plan.bytes);
      }
    }
  });

  it("heads of all layers stay within one pool, however unequal layers are, and beyond it an append is refused", () => {
    const layer = { ...SHAPE, layout: { type: "paged", pageSize: 4 } } as const;
    const plan = planCacheBudget({ layers: [layer, layer], maxBytes: 9000, ragged: true });
    const cache = createKvCache(plan.layers, { heads: "pooled" });
    for (let round = 0; round < 6; round++) {
      const [long, short] = round % 2 === 0 ? [0, 1] : [1, 0];
      if (cache.length(short) > 1) cache.compact(short, Int32Array.of(0));
      add(cache, long, 2 * plan.tokens - 8 - cache.length(long), SHAPE);
      expect(cache.length(long)).toBeGreaterThan(1.5 * plan.tokens);
      expect(cache.allocatedBytes).toBeLessThanOrEqual(plan.bytes);
      expect(thrownBy(() => add(cache, short, 13, SHAPE))).toContain("BudgetError: cache.append");
    }
    cache.dispose();
    expect(cache.allocatedBytes).toBe(0);
    add(cache, 1, plan.tokens, SHAPE);
    expect(cache.allocatedBytes).toBeLessThanOrEqual(plan.bytes);
  });

  it("a pool needs pages and capacities", () => {
    expect(thrownBy(() => createKvCache([{ ...SHAPE, layout: { type: "paged" } }], { heads: "pooled" }))).toBe(
      "ConfigError: createKvCache: a paged layout and a capacity in every layer, for heads that are pooled; got " +
        'layout="paged", capacity=undefined, layer=0. The pool has as many pages as the capacities come to.',
    );
    expect(thrownBy(() => createKvCache([SHAPE], { heads: "alone" as "apart" }))).toBe(
      'ConfigError: createKvCache: heads must be "together", "apart" or "pooled"; got heads="alone".',
    );
  });
});
