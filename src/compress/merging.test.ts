import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { fixedScores, layerOf } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { merging } from "./merging.ts";
import { think } from "./think.ts";

// Kept: (1, 0) and (0, 1). Evicted: (2, 0) at cosine 1 and (3, 4) at cosine 0.8 to the second.
const layer = layerOf(
  [
    [
      [1, 0],
      [0, 1],
      [2, 0],
      [3, 4],
    ],
  ],
  {
    valueLists: [
      [
        [2, 0],
        [0, 3],
        [6, 0],
        [1, 0],
      ],
    ],
  },
);
const policy = fixedScores([[4, 3, 2, 1]]);
const near = (6 * 1) / (6 + 2); // similarity 1, norms 6 and 2
const far = (0.8 * 1) / (1 + 3);

describe("an evicted value", () => {
  it("is folded into the kept token with the most similar key", () => {
    const [{ kept, values = [] }] = merging(policy).plan([layer], { budget: 2 });
    expect([...kept[0]]).toEqual([0, 1]);
    const expected = [(2 + near * 6) / (1 + near), 0, far / (1 + far), 3 / (1 + far)];
    expectClose(values[0], expected, F32_COMPUTED);
  });

  it("is lost below the least similarity", () => {
    const [{ values = [] }] = merging(policy, { similarity: 0.9 }).plan([layer], { budget: 2 });
    expectClose(values[0], [(2 + near * 6) / (1 + near), 0, 0, 3], F32_COMPUTED);
  });

  it("is lost outside the most similar fraction", () => {
    // The median of 0.8 and 1 is 0.9.
    const [{ values = [] }] = merging(policy, { fraction: 0.5 }).plan([layer], { budget: 2 });
    expectClose(values[0], [(2 + near * 6) / (1 + near), 0, 0, 3], F32_COMPUTED);
  });
});

it("values stay what they are when nothing is evicted", () => {
  const [{ values = [] }] = merging(policy).plan([layer], { compressionRatio: 0 });
  expect([...values[0]]).toEqual([2, 0, 0, 3, 6, 0, 1, 0]);
});

it("a policy that evicts nothing or merges already is refused", () => {
  expect(thrownBy(() => merging(think()))).toBe(
    'ConfigError: merging: a policy that evicts tokens and does not merge yet; got policy="think", effects=["drops channels"].',
  );
  expect(thrownBy(() => merging(merging(policy)))).toBe(
    'ConfigError: merging: a policy that evicts tokens and does not merge yet; got policy="merging(fixed)", effects=["evicts","merges values"].',
  );
});
