import { expect, it } from "vitest";
import { fixedScores, keptOf, layerOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { composed, dms, knorm, merging, snapKV, think } from "./index.ts";

it("the second policy sees what the first keeps", () => {
  const layer = layerOf([[[5], [1], [4], [2], [3]]]);
  const policy = composed(knorm(), dms(knorm(), { threshold: -2.5, window: 1 }));
  expect(keptOf(policy.plan([layer], { budget: 4 }))).toEqual([[[1, 3, 4]]]); // 4 is outside the window and too large
});

it("channels are dropped by the keys that stay", () => {
  const policy = composed(snapKV({ window: 3 }), think({ window: 2 }));
  expect(policy.needs).toEqual({ queries: 3 });
  expect(policy.effects).toEqual(["evicts", "drops channels"]);
  for (const plan of policy.plan(randomLayers(13), { budget: 5 })) {
    expect(plan.kept.map((slots) => slots.length)).toEqual([5, 5]);
    expect(plan.droppedChannels?.map((row) => row.reduce((sum, x) => sum + x, 0))).toEqual([2, 2]);
  }
});

it("what cannot follow or be followed is refused", () => {
  expect(thrownBy(() => composed(merging(knorm()), think()))).toBe(
    'ConfigError: composed: a first policy that only evicts; got policy="merging(knorm)", effects=["evicts","merges values"].',
  );
  expect(thrownBy(() => composed(knorm(), fixedScores([])))).toBe(
    'ConfigError: composed: a second policy whose own parameters decide how much stays; got policy="fixed". Two policies cannot share one amount.',
  );
});
