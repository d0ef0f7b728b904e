import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { duoAttention, reachScores } from "./duo-attention.ts";

it("a head that looks at all distances alike has the area of a ramp", () => {
  const blank = layerOf([[[0], [0]]], {
    unrotatedQueries: { rows: rowsFrom([[[0], [0]]]), positions: Int32Array.of(0, 1) },
    unrotatedKeys: rowsFrom([[[0], [0]]]),
  });
  expectClose(reachScores(blank, 4), [(1 / 4 + 2 / 4 + 3 / 4 + 1) / 4], F64_COMPUTED);
});

it("the share of heads with the lowest scores keeps its ends, the others keep all", () => {
  const layers = randomLayers(17);
  const plans = keptOf(duoAttention({ streamingRatio: 0.5, sinks: 2, recent: 3, distances: 9 }).plan(layers));
  const scores = layers.flatMap((layer) => [...reachScores(layer, 9)]);
  const middle = scores.toSorted((a, b) => a - b)[3];
  const all = Array.from({ length: 17 }, (_, slot) => slot);
  expect(plans.flat()).toEqual(scores.map((score) => (score < middle ? [0, 1, 14, 15, 16] : all)));
});

it("no head streams at 0, every head at 1, and short prompts stay whole", () => {
  const options = { sinks: 2, recent: 3, distances: 5 };
  const lengths = (streamingRatio: number, T: number): number[] =>
    keptOf(duoAttention({ ...options, streamingRatio }).plan(randomLayers(T)))
      .flat()
      .map((slots) => slots.length);
  expect(lengths(0, 11)).toEqual([11, 11, 11, 11, 11, 11]);
  expect(lengths(1, 11)).toEqual([5, 5, 5, 5, 5, 5]);
  expect(lengths(1, 4)).toEqual([4, 4, 4, 4, 4, 4]);
});
