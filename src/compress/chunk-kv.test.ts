import { describe, expect, it } from "vitest";
import { blankLayer, fixedScores, keptOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { chunkKV } from "./chunk-kv.ts";
import { pyramidKV } from "./pyramid-kv.ts";
import { streamingLLM } from "./streaming-llm.ts";

// Means over both heads: chunks of 2 score 3, 5, 2, and the last token alone 6.
const policy = fixedScores([
  [1, 2, 5, 5, 2, 0, 6],
  [3, 0, 0, 0, 1, 1, 0],
]);
const layer = blankLayer(7, 7);
const wrapped = chunkKV(policy, { chunkTokens: 2 });

describe("whole chunks stay, the same in every head", () => {
  it("counted by the ratio", () => {
    expect(keptOf(wrapped.plan([layer], { compressionRatio: 0.5 }))).toEqual([
      [
        [2, 3, 6],
        [2, 3, 6],
      ],
    ]);
  });

  it("as far as the budget holds them", () => {
    expect(keptOf(wrapped.plan([layer], { budget: 4 }))).toEqual([
      [
        [2, 3, 6],
        [2, 3, 6],
      ],
    ]);
    expect(keptOf(wrapped.plan([layer], { budget: 2 }))).toEqual([[[6], [6]]]);
  });
});

it("a prompt shorter than a chunk is left to the policy", () => {
  expect(keptOf(chunkKV(policy, { chunkTokens: 8 }).plan([layer], { budget: 2 }))).toEqual([
    [
      [2, 6],
      [0, 4],
    ],
  ]);
});

it("chunks with protected tokens stay whatever they score", () => {
  const streaming = chunkKV(streamingLLM({ sinks: 1 }), { chunkTokens: 4 });
  const kept = keptOf(streaming.plan([blankLayer(17)], { compressionRatio: 0.6 }));
  expect(kept).toEqual([[[0, 1, 2, 3, 12, 13, 14, 15]]]);
});

it("layers keep the budgets that the policy gives them", () => {
  const pyramid = pyramidKV({ window: 2, beta: 4 });
  const layers = randomLayers(40);
  const counts = keptOf(chunkKV(pyramid, { chunkTokens: 2 }).plan(layers, { compressionRatio: 0.6 }));
  // 28, 16 and 4 tokens: an average of 16, a quarter of it in the last layer.
  expect(counts.map(([slots]) => slots.length)).toEqual([28, 16, 4]);
});

it("a budget that holds no chunk is refused", () => {
  const even = fixedScores([[1, 2, 3, 4]]);
  expect(thrownBy(() => chunkKV(even, { chunkTokens: 2 }).plan([blankLayer(4)], { budget: 1 }))).toBe(
    "BudgetError: chunkKV: a budget that holds a chunk; got budget=1, chunkTokens=2.",
  );
});
