import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { kvzip } from "./kvzip.ts";

/** Exponentials of the scores: a prefix of 4; a part of 1, 2; two repeated tokens of 1 each. */
const pass = {
  ...{ start: 1, end: 3 },
  queries: rowsFrom([[[1], [1]]]),
  keys: rowsFrom([[[0], [0]]]),
};
const layer = layerOf([[[Math.log(4)], [0], [Math.log(2)]]], { repeats: [pass] });

describe("scores", () => {
  it("are the largest attention of a repeated token over sinks, part and the tokens up to it", () => {
    // The first repeated token: 4 + 1 + 2 + 1 = 8; the second sees one more.
    expectClose(kvzip({ sinks: 1 }).score(layer, { budget: 1 })[0], [1, 1 / 8, 2 / 8], F32_STORED);
  });

  it("leave out what lies before the part when there are no sinks", () => {
    expectClose(kvzip({ sinks: 0 }).score(layer, { budget: 1 })[0], [0, 1 / 4, 2 / 4], F32_STORED);
  });

  it("of KVzip+ are weighted by the projected value over the norm of the repeating input", () => {
    const plus = {
      ...layer,
      outputProjection: Float32Array.of(3, 4), // C = 2: norm 5 times the value
      values: rowsFrom([[[1], [2], [1]]]),
      repeats: [{ ...pass, inputNorms: Float64Array.of(100, 2) }],
    };
    // The second repeated token weighs more: 1/9 and 2/9 of attention, over 2.
    const [scores] = kvzip({ sinks: 1, normalize: true }).score(plus, { budget: 1 });
    expectClose(scores.slice(1), [(10 / 9) * 0.5, 5 / 9], F32_STORED);
  });
});

describe("plans", () => {
  const layers = randomLayers(13);
  const counts = (options: Parameters<typeof kvzip>[0]): number[][] =>
    keptOf(kvzip(options).plan(layers, { compressionRatio: 0.6 })).map((heads) => heads.map((slots) => slots.length));

  it("keep an exact number over all layers and heads, those with the largest scores", () => {
    const policy = kvzip({ sinks: 0 });
    const all = layers.flatMap((one) => policy.score(one, { budget: 1 }).flatMap((row) => [...row]));
    const kept = counts({ sinks: 0 })
      .flat()
      .reduce((sum, count) => sum + count, 0);
    expect(kept).toBe(78 - Math.floor(78 * 0.6));
    const threshold = all.sort((a, b) => b - a)[kept - 1];
    for (const [n, heads] of keptOf(policy.plan(layers, { compressionRatio: 0.6 })).entries()) {
      const scores = policy.score(layers[n], { budget: 1 });
      for (const [head, slots] of heads.entries()) {
        expect(slots).toEqual([...scores[head].keys()].filter((t) => scores[head][t] >= threshold));
      }
    }
  });

  it("keep the same number in every layer where asked", () => {
    expect(counts({ layerwise: true }).map(([a, b]) => a + b)).toEqual([11, 11, 11]); // 26 − floor(15.6)
  });
});

it("KVzip+ without input norms is refused", () => {
  const plus = { ...layer, outputProjection: Float32Array.of(1) };
  expect(thrownBy(() => kvzip({ normalize: true }).score(plus, { budget: 1 }))).toBe(
    "ConfigError: kvzip: repeats must hold inputNorms; got layer=0. See policy.needs.",
  );
});
