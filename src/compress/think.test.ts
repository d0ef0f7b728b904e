import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, rowsFrom } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { channelScores, think } from "./think.ts";

// Mean k²: 5, 1, 2. Mean q² of the last query: 1, 4, 9 and 3, 0, 1, averaged 2, 2, 5.
const layer = layerOf(
  [
    [
      [1, 1, 0],
      [3, 1, 2],
    ],
  ],
  {
    heads: 2,
    queries: {
      rows: rowsFrom([
        [
          [9, 9, 9],
          [1, 2, 3],
        ],
        [
          [9, 9, 9],
          [Math.sqrt(3), 0, 1],
        ],
      ]),
      positions: Int32Array.of(0, 1),
    },
  },
);

it("scores are mean q² times mean k²", () => {
  expectClose(channelScores(layer, 1)[0], [10, 2, 10], F32_STORED);
});

it("the lowest channels go and every token stays", () => {
  const [plan] = think({ channelRatio: 0.5, window: 1 }).plan([layer]);
  expect(plan.kept.map((slots) => [...slots])).toEqual([[0, 1]]);
  expect(plan.droppedChannels?.map((row) => [...row])).toEqual([[0, 1, 0]]); // floor(1.5) of them
});

it("a ratio of all channels is refused", () => {
  expect(thrownBy(() => think({ channelRatio: 1 }))).toBe(
    "ConfigError: think: channelRatio must lie between 0 and 0.9999999999999998; got channelRatio=1.",
  );
});
