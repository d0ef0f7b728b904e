import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { finch } from "./finch.ts";

/** Exponentials of the scores 1, 2, 3, 1, 1; the last two tokens are the question. */
const layer = layerOf([[[0], [Math.log(2)], [Math.log(3)], [0], [0]]], {
  queries: { rows: rowsFrom([[[1], [1]]]), positions: Int32Array.of(3, 4) },
  questionTokens: 2,
});

describe("scores", () => {
  it("weigh each query of the question by the tokens before it", () => {
    const unit = (3 / 7 + 4 / 8) / 2;
    const [scores] = finch().score(layer, { budget: 1 });
    expectClose(scores, [unit, 2 * unit, 3 * unit, 3 * unit + 1, 3 * unit + 1], F32_STORED);
  });

  it("are the plain mean where asked", () => {
    const unit = (1 / 7 + 1 / 8) / 2;
    const [scores] = finch({ normalize: false }).score(layer, { budget: 1 });
    expectClose(scores.slice(0, 3), [unit, 2 * unit, 3 * unit], F32_STORED);
  });
});

it("chunks choose each for themselves, and the question stays in the last", () => {
  expect(keptOf(finch().plan([layer], { budget: 3 }))).toEqual([[[2, 3, 4]]]);
  expect(keptOf(finch({ chunkTokens: 2 }).plan([layer], { compressionRatio: 0.5 }))).toEqual([[[1, 3, 4]]]);
  for (const { kept } of finch({ chunkTokens: 7 }).plan(randomLayers(21), { compressionRatio: 0.5 })) {
    for (const slots of kept) expect([...slots]).toEqual(expect.arrayContaining([18, 19, 20]));
  }
});

it("an observation that does not say what the question is, is refused", () => {
  expect(thrownBy(() => finch().plan([layerOf([[[0]]])], { budget: 1 }))).toBe(
    "ConfigError: finch: the observation must hold questionTokens; got layer=0. See policy.needs.",
  );
});
