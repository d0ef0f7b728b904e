import { it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, rowsFrom } from "../../test/support/observation.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { tova } from "./tova.ts";

it("scores are the last query's attention averaged over all heads, the same for every head", () => {
  const layer = layerOf(
    [
      [[0], [Math.log(2)], [0]],
      [[0], [0], [0]],
    ],
    {
      queries: { rows: rowsFrom([[[1]], [[1]]]), positions: Int32Array.of(2) },
    },
  );
  const scores = tova().score(layer, { budget: 1 });
  const first = (1 / 4 + 1 / 3) / 2;
  const second = (2 / 4 + 1 / 3) / 2;
  for (const row of scores) expectClose(row, [first, second, second + 1], F32_STORED);
});
