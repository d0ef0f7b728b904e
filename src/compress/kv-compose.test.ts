import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { kvCompose } from "./kv-compose.ts";

/** A layer of two heads whose repeated token pays attention by the given exponentials. */
function layerWith(layer: number, heads: number[][]) {
  const T = heads[0].length;
  return layerOf(
    heads.map((row) => row.map((x) => [Math.log(x)])),
    {
      ...{ layer, layers: 2 },
      repeats: [
        { start: 0, end: T, queries: rowsFrom(heads.map(() => [[1]])), keys: rowsFrom(heads.map(() => [[0]])) },
      ],
    },
  );
}

// With the repeated token's own 1, rows sum to 10.
const steep = layerWith(0, [
  [6, 1, 1, 1],
  [1, 1, 1, 6],
]);
const flat = layerWith(1, [
  [3, 2, 2, 2],
  [2, 2, 2, 3],
]);

it("scores are the largest attention plus the mean over heads", () => {
  const [first] = kvCompose().score(steep, { budget: 1 });
  expectClose(first, [0.6 + 0.35, 0.1 + 0.1, 0.1 + 0.1, 0.1 + 0.35], F32_STORED);
  const [plain] = kvCompose({ addHeadMean: false }).score(steep, { budget: 1 });
  expectClose(plain, [0.6, 0.1, 0.1, 0.1], F32_STORED);
});

describe("plans", () => {
  it("give layers what their averaged sorted scores win, the first layer competing with the best of all", () => {
    // Sorted means: steep 6, 1, 1, 1, raised to 6, 2, 2, 2 for the first layer; flat 3, 2, 2, 2. Of 8, 4 stay: 6, 3,
    // then the first layer's two 2s before the second's.
    const plans = kvCompose({ addHeadMean: false }).plan([steep, flat], { compressionRatio: 0.5 });
    expect(keptOf(plans)).toEqual([
      [
        [0, 1, 2],
        [0, 1, 3],
      ],
      [[0], [3]],
    ]);
  });

  it("give each head what its own sorted scores win when unstructured", () => {
    const plans = kvCompose({ structured: false, addHeadMean: false }).plan([steep, flat], { compressionRatio: 0.5 });
    // 6, 6, 3, 3 and then the first four of the flat layer's 2s, all of them its first head's and one of the second.
    expect(keptOf(plans)).toEqual([
      [[0], [3]],
      [
        [0, 1, 2, 3],
        [0, 3],
      ],
    ]);
  });

  it("keep the least number of tokens in every head", () => {
    const options = { structured: false, leastTokens: 2, addHeadMean: false };
    for (const heads of keptOf(kvCompose(options).plan(randomLayers(13), { compressionRatio: 0.8 }))) {
      for (const slots of heads) expect(slots.length).toBeGreaterThanOrEqual(2);
    }
  });
});
