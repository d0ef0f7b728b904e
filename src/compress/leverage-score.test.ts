import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { leverageScore } from "./leverage-score.ts";

it("scores are the standardised leverage of the centred keys", () => {
  // Centred −1, −1, 2: leverages 1, 1 and 4 over 6.01, whatever divides them falls out.
  const layer = layerOf([[[0], [0], [0]]], { unrotatedKeys: rowsFrom([[[0], [0], [3]]]) });
  const [scores] = leverageScore({ sketchColumns: 1, sketch: () => [1] }).score(layer, { budget: 1 });
  expectClose(
    scores,
    [-1, -1, 2].map((x) => x / Math.sqrt(3)),
    F64_COMPUTED,
  );
});

it("scores are standardised over all heads of the layer", () => {
  const layer = layerOf(
    [
      [[0], [0]],
      [[0], [0]],
    ],
    {
      unrotatedKeys: rowsFrom([
        [[0], [2]],
        [[0], [0]],
      ]),
    },
  );
  const scores = leverageScore({ sketchColumns: 1, sketch: () => [1] }).score(layer, { budget: 1 });
  // Both tokens of the first head have one leverage, those of the second none.
  const unit = Math.sqrt(3) / 2;
  expectClose([...scores[0], ...scores[1]], [unit, unit, -unit, -unit], F64_COMPUTED);
});

it("the same seed gives the same sketch, another one another", () => {
  const layers = randomLayers(29);
  const kept = (seed: number): unknown => keptOf(leverageScore({ seed, sketchColumns: 2 }).plan(layers, { budget: 9 }));
  expect(kept(1)).toEqual(kept(1));
  expect(kept(1)).not.toEqual(kept(2));
});
