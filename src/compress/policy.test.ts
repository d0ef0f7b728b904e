import { expect, it } from "vitest";
import { blankLayer, fixedScores, keptOf } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { simLayerKV, think } from "./index.ts";
import { requireScores } from "./policy.ts";

const policy = fixedScores([
  [5, 1, 4, 2],
  [1, 2, 3, 4],
]);

it("each head keeps its own best tokens", () => {
  expect(keptOf(policy.plan([blankLayer(4, 4)], { compressionRatio: 0.5 }))).toEqual([
    [
      [0, 2],
      [2, 3],
    ],
  ]);
});

it("a ratio counts each head's own tokens, a budget is the same for all", () => {
  const ragged = fixedScores([
    [5, 1, 4, 2, 3, 0],
    [1, 2],
  ]);
  expect(keptOf(ragged.plan([blankLayer(6, 2)], { compressionRatio: 0.5 }))).toEqual([[[0, 2, 4], [1]]]);
  expect(keptOf(ragged.plan([blankLayer(6, 2)], { budget: 3 }))).toEqual([
    [
      [0, 2, 4],
      [0, 1],
    ],
  ]);
});

it("an amount is needed where the policy takes one, and refused where it does not", () => {
  expect(thrownBy(() => policy.plan([blankLayer(4, 4)]))).toBe(
    "ConfigError: fixed: an amount to keep. Pass { compressionRatio } or { budget }.",
  );
  expect(thrownBy(() => simLayerKV({ threshold: 0.5 }).plan([], { budget: 3 }))).toBe(
    "ConfigError: simLayerKV: no amount, because its own parameters decide how much stays; got budget=3.",
  );
});

it("a wrapper of scores refuses a policy without", () => {
  expect(thrownBy(() => requireScores("chunkKV", think()))).toBe(
    'ConfigError: chunkKV: a policy that scores tokens; got policy="think". This one decides directly.',
  );
});
