import fc from "fast-check";
import { expect, it } from "vitest";
import { blankLayer, fixedScores, keptOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { adaptiveHeads, knorm, lagKV, snapKV } from "./index.ts";

const policy = fixedScores([
  [9, 8, 7, 6],
  [1, 2, 3, 4],
]);

it.each<[string, number, number[][]]>([
  ["without a safeguard the best of the layer stay", 0, [[0, 1, 2, 3], []]],
  ["half of each head's even budget is safe", 0.5, [[0, 1, 2], [3]]],
  [
    "a full safeguard is even",
    1,
    [
      [0, 1],
      [2, 3],
    ],
  ],
])("%s", (_, safeguard, expected) => {
  const plans = adaptiveHeads(policy, { safeguard }).plan([blankLayer(4, 4)], { compressionRatio: 0.5 });
  expect(keptOf(plans)).toEqual([expected]);
});

it("a layer keeps exactly what its heads would keep evenly, and every head its safe share", () => {
  const inputs = fc.record({
    T: fc.integer({ min: 2, max: 31 }),
    ratio: fc.double({ min: 0, max: 0.95, noNaN: true }),
    safeguard: fc.double({ min: 0, max: 1, noNaN: true }),
  });
  fc.assert(
    fc.property(inputs, ({ T, ratio, safeguard }) => {
      const even = Math.max(1, Math.floor(T * (1 - ratio)));
      const plans = adaptiveHeads(knorm(), { safeguard }).plan(randomLayers(T, 1), { compressionRatio: ratio });
      const [counts] = keptOf(plans).map((heads) => heads.map((slots) => slots.length));
      expect(counts[0] + counts[1]).toBe(2 * even);
      expect(Math.min(...counts)).toBeGreaterThanOrEqual(Math.floor(even * safeguard));
    }),
    { numRuns: 50 },
  );
});

it("protected ends stay in every head, the more so where the budget is tight", () => {
  const plans = adaptiveHeads(snapKV({ window: 5 }), { safeguard: 0 }).plan(randomLayers(19), { budget: 6 });
  for (const heads of keptOf(plans))
    for (const slots of heads) expect(slots).toEqual(expect.arrayContaining([14, 15, 16, 17, 18]));
});

it("a policy that ranks within heads is refused", () => {
  expect(thrownBy(() => adaptiveHeads(lagKV()))).toBe(
    'ConfigError: adaptiveHeads: a policy whose scores are on one scale for all heads; got policy="lagKV". This one ranks tokens within each head, so heads would win by chance.',
  );
  expect(adaptiveHeads(lagKV({ crossScoring: true })).ragged).toBe(true);
});
