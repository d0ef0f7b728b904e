import { expect, it } from "vitest";
import { keptOf, layerOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { blockwise, keyDiff, knorm, streamingLLM, tova } from "./index.ts";

it("a score of the token alone chooses the same in blocks as at once", () => {
  const layers = randomLayers(29);
  for (const blockTokens of [1, 5, 50]) {
    const plans = blockwise(knorm(), { blockTokens }).plan(layers, { budget: 7 });
    expect(keptOf(plans)).toEqual(keptOf(knorm().plan(layers, { budget: 7 })));
  }
});

it("a score that depends on the others sees only what was there at the time", () => {
  // With (1, 0), (0, 1) kept, the block (0, 1), (1, 0.1) arrives: the anchor leans to neither. Token by token, the
  // second (0, 1) makes the first two less unlike the rest one after the other.
  const layer = layerOf([
    [
      [1, 0],
      [0, 1],
      [0, 1],
      [1, 0.1],
    ],
  ]);
  const inOne = keptOf(blockwise(keyDiff(), { blockTokens: 2 }).plan([layer], { budget: 2 }));
  expect(inOne).toEqual(keptOf(keyDiff().plan([layer], { budget: 2 })));
  const one = keptOf(blockwise(keyDiff(), { blockTokens: 1 }).plan([layer], { budget: 1 }));
  expect(one).toEqual([[[0]]]); // two unit keys are equally like their mean: the earlier stays, three times
});

it("sinks and recent tokens stay through all blocks", () => {
  const plans = blockwise(streamingLLM({ sinks: 2 }), { blockTokens: 3 }).plan(randomLayers(20, 1), { budget: 6 });
  expect(keptOf(plans)[0][0]).toEqual([0, 1, 16, 17, 18, 19]);
});

it("a policy that looks at queries is refused", () => {
  expect(thrownBy(() => blockwise(tova()))).toBe(
    'ConfigError: blockwise: a policy that looks at keys and values only; got policy="tova", needs={"queries":1}. What queries there were when a block arrived is not known afterwards.',
  );
});
