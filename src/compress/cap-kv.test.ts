import { it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, rowsFrom } from "../../test/support/observation.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { capKV } from "./cap-kv.ts";

const layer = layerOf([[[9], [2], [-3]]], {
  valueLists: [[[5], [1], [2]]],
  unrotatedQueries: { rows: rowsFrom([[[8], [1], [3]]]), positions: Int32Array.of(0, 1, 2) },
});

it("scores are weighted leverages of the values; sinks score the largest + 1", () => {
  // Keys 2 and −3 have cosines 1 and −1 to the mean query: weights 1 and exp(−2·0.5).
  const [w1, w2] = [1, Math.exp(-1)];
  const capacity = 1 + (w1 + 0.25) * 1 + (w2 + 0.25) * 4;
  const [scores] = capKV({ tau: 0.5, sinks: 1, epsilon: 0.25 }).score(layer, { budget: 1 });
  const expected = [w1 / capacity, (4 * w2) / capacity];
  expectClose(scores, [Math.max(...expected) + 1, ...expected], F64_COMPUTED);
});
