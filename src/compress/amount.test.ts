import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { keptCount, removedRatio } from "./amount.ts";

describe("tokens kept", () => {
  it.each<[string, Parameters<typeof keptCount>[0], number, number]>([
    ["a ratio rounds down", { compressionRatio: 0.5 }, 97, 48],
    ["in double precision: 10 · (1 − 0.9) is a little less than 1", { compressionRatio: 0.9 }, 10, 1],
    ["a ratio of 0 keeps all", { compressionRatio: 0 }, 13, 13],
    ["rounding never empties a head", { compressionRatio: 0.9 }, 3, 1],
    ["a budget is a number of tokens", { budget: 5 }, 13, 5],
    ["a budget beyond the tokens keeps all", { budget: 50 }, 13, 13],
    ["of nothing, nothing", { budget: 5 }, 0, 0],
  ])("%s", (_, amount, tokens, expected) => {
    expect(keptCount(amount, tokens)).toBe(expected);
  });

  it("lie between 1 and all, and fall as the ratio grows", () => {
    const ratio = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
    fc.assert(
      fc.property(ratio, ratio, fc.integer({ min: 1, max: 5000 }), (a, b, tokens) => {
        const [less, more] = [Math.min(a, b), Math.max(a, b)].map((r) => keptCount({ compressionRatio: r }, tokens));
        expect(less).toBeGreaterThanOrEqual(more);
        expect(more).toBeGreaterThanOrEqual(1);
        expect(less).toBeLessThanOrEqual(tokens);
      }),
    );
  });
});

it("a budget as a ratio", () => {
  expect(removedRatio({ budget: 3 }, 12)).toBe(0.75);
  expect(removedRatio({ budget: 30 }, 12)).toBe(0);
});

it.each<[unknown, string]>([
  [
    {},
    "ConfigError: compress: give either compressionRatio or budget; got compressionRatio=undefined, budget=undefined.",
  ],
  [
    { compressionRatio: 0.5, budget: 3 },
    "ConfigError: compress: give either compressionRatio or budget; got compressionRatio=0.5, budget=3.",
  ],
  [
    { compressionRatio: 1 },
    "ConfigError: compress: compressionRatio must lie in [0, 1); got compressionRatio=1. It is the fraction removed; to forget everything, clear the cache.",
  ],
  [
    { compressionRatio: Number.NaN },
    "ConfigError: compress: compressionRatio must lie in [0, 1); got compressionRatio=NaN. It is the fraction removed; to forget everything, clear the cache.",
  ],
  [{ budget: 0 }, "ConfigError: compress: budget must be a whole number of tokens, at least 1; got budget=0."],
  [{ budget: 2.5 }, "ConfigError: compress: budget must be a whole number of tokens, at least 1; got budget=2.5."],
])("an impossible amount %j is refused", (amount, message) => {
  expect(thrownBy(() => keptCount(amount as { budget: number }, 10))).toBe(message);
});
