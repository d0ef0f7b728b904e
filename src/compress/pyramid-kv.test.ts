import { expect, it } from "vitest";
import { blankLayer } from "../../test/support/observation.ts";
import type { Amount } from "./amount.ts";
import { pyramidKV } from "./pyramid-kv.ts";

it.each<[string, { window: number; beta: number }, Amount, number[]]>([
  // Average 40, last 40 / 10 = 4, first 2 · 40 − 4 = 76.
  ["fall evenly from layer to layer", { window: 4, beta: 10 }, { compressionRatio: 0.6 }, [76, 40, 4]],
  // 2 · 60 − 3 = 117 is more than 100 − 4: first 96, last 120 − 96.
  [
    "leave the first layer at most all but the window",
    { window: 4, beta: 20 },
    { compressionRatio: 0.4 },
    [96, 60, 24],
  ],
  [
    "are even where the last layer would not hold the window",
    { window: 8, beta: 10 },
    { compressionRatio: 0.6 },
    [40, 40, 40],
  ],
  // 4.1 and 77.9: fractions of a budget are cut off.
  ["never add up to more than the budget", { window: 4, beta: 10 }, { budget: 41 }, [77, 41, 4]],
])("budgets %s", (_, options, amount, expected) => {
  const policy = pyramidKV(options);
  const counts = [0, 1, 2].map((layer) => policy.counts({ ...blankLayer(100), layer, layers: 3 }, amount));
  expect(counts).toEqual(expected.map((count) => [count]));
});

it("a model of one layer keeps the average", () => {
  expect(pyramidKV({ window: 4 }).counts(blankLayer(100), { budget: 30 })).toEqual([30]);
});
