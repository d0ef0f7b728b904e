import { expect, it } from "vitest";
import { blankLayer, fixedScores, keptOf } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { dms } from "./dms.ts";

const rows = [
  [5, 1, 3, 2, 1, 0],
  [1, 1, 1, 4, 1, 1],
];

it("what scores below the threshold goes once it is outside the window", () => {
  const plans = dms(fixedScores(rows), { threshold: 3, window: 2 }).plan([blankLayer(6, 6)]);
  expect(keptOf(plans)).toEqual([
    [
      [0, 2, 4, 5],
      [3, 4, 5],
    ],
  ]);
});

it("what the policy protects stays too", () => {
  const policy = fixedScores(rows, { protects: () => ({ first: 2, last: 3 }) });
  expect(keptOf(dms(policy, { threshold: 3, window: 1 }).plan([blankLayer(6, 6)]))).toEqual([
    [
      [0, 1, 2, 3, 4, 5],
      [0, 1, 3, 4, 5],
    ],
  ]);
});

it("an amount and a threshold that is no number are refused", () => {
  expect(thrownBy(() => dms(fixedScores(rows), { threshold: 3 }).plan([], { budget: 3 }))).toBe(
    "ConfigError: dms(fixed): no amount, because its own parameters decide how much stays; got budget=3.",
  );
  expect(thrownBy(() => dms(fixedScores(rows), { threshold: Number.NaN }))).toBe(
    "ConfigError: dms: threshold must lie between -Infinity and Infinity; got threshold=NaN.",
  );
});
