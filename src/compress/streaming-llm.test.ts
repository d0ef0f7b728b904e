import { expect, it } from "vitest";
import { blankLayer, keptOf } from "../../test/support/observation.ts";
import { streamingLLM } from "./streaming-llm.ts";

it("sinks and the latest tokens stay", () => {
  const plans = streamingLLM({ sinks: 2 }).plan([blankLayer(10, 10)], { compressionRatio: 0.4 });
  expect(keptOf(plans)).toEqual([
    [
      [0, 1, 6, 7, 8, 9],
      [0, 1, 6, 7, 8, 9],
    ],
  ]);
});

it("scores are 0 between the sinks and the recent tokens, 1 elsewhere", () => {
  const [scores] = streamingLLM({ sinks: 2 }).score(blankLayer(7), { budget: 4 });
  expect([...scores]).toEqual([1, 1, 0, 0, 0, 1, 1]);
});

it("a budget smaller than the sinks keeps the first tokens", () => {
  expect(keptOf(streamingLLM({ sinks: 4 }).plan([blankLayer(9)], { budget: 3 }))).toEqual([[[0, 1, 2]]]);
});
