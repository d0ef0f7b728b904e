import { expect, it } from "vitest";
import { keptOf, layerOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { chunkwise, keyDiff, knorm, kvzip, observedAttention, snapKV } from "./index.ts";

const layer = layerOf([[[1], [2], [3], [9], [8], [7], [4]]]);

it("each chunk keeps its share, and at least one token", () => {
  const policy = chunkwise(knorm(), { chunkTokens: 3 });
  expect(keptOf(policy.plan([layer], { compressionRatio: 0.6 }))).toEqual([[[0, 5, 6]]]);
});

it("a budget is not exceeded, and refused where it does not hold a token per chunk", () => {
  const policy = chunkwise(knorm(), { chunkTokens: 3 });
  for (const budget of [3, 4, 5, 6]) {
    expect(policy.plan([layer], { budget })[0].kept[0].length).toBeLessThanOrEqual(budget);
  }
  expect(thrownBy(() => policy.plan([layer], { budget: 2 }))).toBe(
    "BudgetError: chunkwise: a budget of at least one token per chunk; got budget=2, chunks=3. Take larger chunks.",
  );
});

it("a chunk is scored as if there were nothing else, with its own queries", () => {
  const [seen] = randomLayers(17, 1);
  const policy = chunkwise(snapKV({ window: 2 }), { chunkTokens: 6 });
  expect(policy.needs).toEqual({ queries: Infinity });
  const [row] = policy.chunkScores(seen, { compressionRatio: 0.5 });
  const windows = [4, 5, 10, 11, 15, 16];
  for (const slot of windows) expect(row[slot]).toBeGreaterThan(1);
  const [{ kept }] = policy.plan([seen], { compressionRatio: 0.5 });
  for (const slots of kept) expect([...slots]).toEqual(expect.arrayContaining(windows));
  const alone = keyDiff().score(layerOf([[[1], [2], [3]]]), { budget: 1 })[0];
  expect(chunkwise(keyDiff(), { chunkTokens: 3 }).chunkScores(layer, { budget: 1 })[0].slice(0, 3)).toEqual(alone);
});

it("what cannot be cut into chunks is refused", () => {
  for (const [policy, needs] of [
    [observedAttention(), '{"attentionMass":true}'],
    [kvzip(), '{"repeats":"chunks"}'],
  ] as const) {
    expect(thrownBy(() => chunkwise(policy))).toBe(
      `ConfigError: chunkwise: a policy that looks at keys, values and queries only; got policy="${policy.name}", needs=${needs}. What this one looks at cannot be cut into chunks.`,
    );
  }
});
