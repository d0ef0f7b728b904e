import { expect, it } from "vitest";
import { blankLayer, keptOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { randomTokens } from "./random-tokens.ts";
import { gaussianNumbers } from "./seeded-numbers.ts";

it("the same seed keeps the same tokens, another one keeps others", () => {
  const layers = randomLayers(31);
  const kept = (seed: number): unknown => keptOf(randomTokens({ seed }).plan(layers, { compressionRatio: 0.5 }));
  expect(kept(7)).toEqual(kept(7));
  expect(kept(7)).not.toEqual(kept(8));
});

it("heads and layers choose for themselves", () => {
  const [first, second] = keptOf(randomTokens().plan(randomLayers(31), { compressionRatio: 0.5 }));
  expect(first[0]).not.toEqual(first[1]);
  expect(first[0]).not.toEqual(second[0]);
});

it("scores are spread evenly over [0, 1)", () => {
  const [scores] = randomTokens({ seed: 3 }).score(blankLayer(4000), { budget: 1 });
  const mean = scores.reduce((sum, x) => sum + x, 0) / scores.length;
  expect(Math.min(...scores)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...scores)).toBeLessThan(1);
  expect(Math.abs(mean - 0.5)).toBeLessThan(0.02); // 4 standard errors of 1/√12/√4000
});

it("normal numbers have mean 0 and variance 1", () => {
  const numbers = gaussianNumbers(5, 1, 2, 4000);
  const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
  const variance = numbers.reduce((sum, x) => sum + (x - mean) ** 2, 0) / numbers.length;
  expect(Math.abs(mean)).toBeLessThan(0.07); // 4 standard errors
  expect(Math.abs(variance - 1)).toBeLessThan(0.1);
});

it("a seed that is no whole number of 32 bits is refused", () => {
  expect(thrownBy(() => randomTokens({ seed: 2 ** 32 }))).toBe(
    "ConfigError: randomTokens: seed must lie between 0 and 4294967295; got seed=4294967296.",
  );
  expect(thrownBy(() => randomTokens({ seed: 0.5 }))).toBe(
    "ConfigError: randomTokens: seed must be a whole number, at least 0; got seed=0.5.",
  );
});
