import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, rowsFrom } from "../../test/support/observation.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { observedAttention } from "./observed-attention.ts";
import { attentionMassOf } from "./query-attention.ts";

// Two query heads of zeros look at everything alike: rows 1, 1/2, 1/3.
const blank = layerOf([[[0], [0], [0]]], { heads: 2 });
const zeros = {
  rows: rowsFrom([
    [[0], [0], [0]],
    [[0], [0], [0]],
  ]),
  positions: Int32Array.of(0, 1, 2),
};
const attentionMass = attentionMassOf(blank, zeros);

it("attention mass is the sum of each column, and counts the queries that could see it", () => {
  expectClose(attentionMass.sums[1], [1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3], F64_COMPUTED);
  expect([...attentionMass.counts[0]]).toEqual([3, 2, 1]);
});

it("scores are the mass per query that could see the token", () => {
  const [scores] = observedAttention().score({ ...blank, attentionMass }, { budget: 1 });
  expectClose(scores, [11 / 18, 5 / 12, 1 / 3], F64_COMPUTED);
});
