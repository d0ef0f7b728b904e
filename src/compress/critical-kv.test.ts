import { expect, it } from "vitest";
import { fixedScores, keptOf, layerOf } from "../../test/support/observation.ts";
import { criticalAdaptiveHeads, criticalKV } from "./critical-kv.ts";

// Magnitudes behind the output projection (C = 2, weights 1 and −2): 3 times the value.
const values = [1, 1, 10, 1, 1, 4].map((v) => [v]);
const layer = layerOf([values], { outputProjection: Float32Array.of(1, -2) });
const scores = fixedScores([[6, 5, 1, 2, 4, 3]]);

it("the first half of the budget goes by scores, the second by scores times projected values", () => {
  const policy = criticalKV(scores, { epsilon: 0 });
  const [row] = policy.score(layer, { budget: 4 });
  expect([...row]).toEqual([3.4028234663852886e38, 3.4028234663852886e38, 30, 6, 12, 36]);
  expect(keptOf(policy.plan([layer], { budget: 4 }))).toEqual([[[0, 1, 2, 5]]]);
});

it("no first stage weighs every token; epsilon lets tokens without score compete", () => {
  const policy = criticalKV(fixedScores([[0, 0, 0, 0, 0, 0]]), { epsilon: 0.5, firstStage: 0 });
  expect([...policy.score(layer, { budget: 4 })[0]]).toEqual([1.5, 1.5, 15, 1.5, 1.5, 6]);
});

it("heads that compete choose within their own budgets in two stages", () => {
  const two = layerOf([values, values], { outputProjection: Float32Array.of(1, 1) });
  const policy = fixedScores([
    [60, 50, 10, 20, 40, 30],
    [6, 5, 1, 2, 4, 3],
  ]);
  // Even budgets of 3, one safe token each: the first head wins 5 of 6, of which 2 by score alone.
  const plans = criticalAdaptiveHeads(policy, { safeguard: 0.34, epsilon: 0 }).plan([two], { budget: 3 });
  expect(keptOf(plans)).toEqual([[[0, 1, 2, 4, 5], [0]]]);
});
