import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { type CurOptions, cur } from "./cur.ts";

// Squared norms of keys 1, 4, 9; of values 4, 4, 1.
const layer = layerOf([[[1], [2], [3]]], { valueLists: [[[2], [-2], [1]]] });

it.each<[string, CurOptions, number[]]>([
  ["key shares of windows of 2 tokens", { leverage: "key" }, [1 / 10, 4 / 10, 1 / 2]],
  ["value shares", { leverage: "value" }, [1 / 4, 1 / 4, 1 / 2]],
  ["their average", { leverage: "average" }, [7 / 40, 13 / 40, 1 / 2]],
  ["their product", {}, [0.1 / 1.5, 0.4 / 1.5, 1 / 1.5]],
  ["the product of plain squares", { localWindow: Infinity }, [4 / 29, 16 / 29, 9 / 29]],
])("scores are %s, made to sum to 1", (_, options, expected) => {
  const [scores] = cur({ sinks: 0, localWindow: 2, ...options }).score(layer, { budget: 1 });
  expectClose(scores, expected, F64_COMPUTED);
});

it("sinks score 1, and rows of zeros give no NaN", () => {
  const [scores] = cur({ sinks: 1 }).score(layerOf([[[0], [0]]]), { budget: 1 });
  expectClose(scores, [1, 0], F64_COMPUTED);
});

it("an unknown leverage is refused", () => {
  expect(thrownBy(() => cur({ leverage: "both" as "key" }))).toBe(
    'ConfigError: cur: leverage must be "product", "key", "value" or "average"; got leverage="both".',
  );
});
