import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, ROTARY, randomLayers } from "../../test/support/observation.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { rotaryTable, rotate } from "../rope/index.ts";
import { knorm } from "./knorm.ts";

it("scores are the negative norms of keys; the smallest key stays", () => {
  const layer = layerOf([
    [
      [3, 4],
      [0, 1],
      [5, 12],
    ],
  ]);
  expect([...knorm().score(layer, { budget: 1 })[0]]).toEqual([-5, -1, -13]);
  expect(keptOf(knorm().plan([layer], { compressionRatio: 0.5 }))).toEqual([[[1]]]);
});

it("repeated tokens tie, and the earlier one stays", () => {
  const layer = layerOf([
    [
      [3, 4],
      [1, 0],
      [0, 1],
      [1, 0],
    ],
  ]);
  expect(keptOf(knorm().plan([layer], { budget: 2 }))).toEqual([[[1, 2]]]);
});

it("scores do not depend on where keys are rotated to", () => {
  const [layer] = randomLayers(13, 1);
  const table = rotaryTable(
    ROTARY,
    Array.from({ length: 26 }, (_, i) => 7 * i + 3),
  );
  const turned = { ...layer.keys, data: rotate(layer.keys.data, table, { heads: 1, headDim: 4 }) };
  const before = knorm().score(layer, { budget: 1 });
  const after = knorm().score({ ...layer, keys: turned }, { budget: 1 });
  for (const head of [0, 1]) expectClose(after[head], before[head], F32_COMPUTED);
});
