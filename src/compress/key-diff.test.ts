import { it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, ROTARY, randomLayers } from "../../test/support/observation.ts";
import { F32_COMPUTED, F64_COMPUTED } from "../../test/support/tolerances.ts";
import { rotaryTable, rotate } from "../rope/index.ts";
import { keyDiff } from "./key-diff.ts";

it("scores are the negative cosines to the mean of the unit keys", () => {
  // Units (1, 0), (0, 1), (1, 0); their mean points along (2, 1).
  const [scores] = keyDiff().score(
    layerOf([
      [
        [1, 0],
        [0, 2],
        [3, 0],
      ],
    ]),
    { budget: 1 },
  );
  expectClose(scores, [-2 / Math.sqrt(5), -1 / Math.sqrt(5), -2 / Math.sqrt(5)], F64_COMPUTED);
});

it("a key of zeros scores 0, not NaN", () => {
  const [scores] = keyDiff().score(
    layerOf([
      [
        [0, 0],
        [1, 1],
      ],
    ]),
    { budget: 1 },
  );
  expectClose(scores, [0, -1], F64_COMPUTED);
});

it("scores do not change when all keys turn by the same angles", () => {
  const [layer] = randomLayers(13, 1);
  const table = rotaryTable(ROTARY, new Array<number>(26).fill(41));
  const turned = { ...layer.keys, data: rotate(layer.keys.data, table, { heads: 1, headDim: 4 }) };
  const before = keyDiff().score(layer, { budget: 1 });
  const after = keyDiff().score({ ...layer, keys: turned }, { budget: 1 });
  for (const head of [0, 1]) expectClose(after[head], before[head], F32_COMPUTED);
});
