import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, ROTARY, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F32_STORED, F64_COMPUTED } from "../../test/support/tolerances.ts";
import { rotaryTable, rotate } from "../rope/index.ts";
import { expectedAttention } from "./expected-attention.ts";
import { futureQueries } from "./future-queries.ts";

/** Queries 0 and 2 (mean 1, variance 1) at positions 1 and 2; a query of 50 at position 0. */
const layer = layerOf([[[0], [0], [1]]], {
  valueLists: [[[7], [3], [-2]]],
  unrotatedQueries: { rows: rowsFrom([[[50], [0], [2]]]), positions: Int32Array.of(0, 1, 2) },
});
const e = Math.exp(1);
const options = { sinks: 1, valueNorm: false };

describe("scores without rotation", () => {
  it("are the softmax of k·μ + kΣk/2 behind the sinks, which score the largest + 1", () => {
    const [scores] = expectedAttention(options).score(layer, { budget: 1 });
    const odds = e ** 1.5;
    expectClose(scores, [odds / (1 + odds) + 1, 1 / (1 + odds), odds / (1 + odds)], F64_COMPUTED);
  });

  it("leave the covariance out where asked", () => {
    const [scores] = expectedAttention({ ...options, covariance: false }).score(layer, { budget: 1 });
    expectClose(scores.slice(1), [1 / (1 + e), e / (1 + e)], F64_COMPUTED);
  });

  it("are multiplied by the norm of the value, after epsilon was added", () => {
    const policy = expectedAttention({ sinks: 1, covariance: false, epsilon: 0.5 });
    const [scores] = policy.score(layer, { budget: 1 });
    expectClose(scores.slice(1), [3 * (1 / (1 + e) + 0.5), 2 * (e / (1 + e) + 0.5)], F64_COMPUTED);
  });
});

describe("future queries", () => {
  const [seen] = randomLayers(17, 1);
  const at = Array.from({ length: 9 }, (_, i) => 17 + i);

  it("have the mean of all queries at all positions ahead", () => {
    const [, { mean }] = futureQueries("test", seen, { ahead: 9, sinks: 3, covariance: false });
    const { rows } = seen.unrotatedQueries as NonNullable<typeof seen.unrotatedQueries>;
    const turned = Array.from({ length: 14 }, (_, i) => {
      const from = rows.starts[1] + (3 + i) * rows.stride;
      const repeated = Float32Array.from(at.flatMap(() => [...rows.data.subarray(from, from + 4)]));
      return [...rotate(repeated, rotaryTable(ROTARY, at), { heads: 1, headDim: 4 })];
    });
    const expected = [0, 1, 2, 3].map(
      (d) => turned.flatMap((row) => row.filter((_, n) => n % 4 === d)).reduce((sum, x) => sum + x, 0) / (14 * 9),
    );
    expectClose(mean, expected, F32_STORED);
  });

  it("have a covariance that gives the variance of the averaged queries in every direction", () => {
    const [{ covariance = new Float64Array() }] = futureQueries("test", seen, { ahead: 9, sinks: 0, covariance: true });
    // One query turned by the average rotation, from the mean of a layer that has seen only it.
    const { rows } = seen.unrotatedQueries as NonNullable<typeof seen.unrotatedQueries>;
    const turned = Array.from({ length: 17 }, (_, i) => {
      const only = rowsFrom([[[...rows.data.subarray(rows.starts[0] + i * 4, rows.starts[0] + i * 4 + 4)]]]);
      const one = { ...seen, unrotatedQueries: { rows: only, positions: Int32Array.of(5) } };
      return futureQueries("test", one, { ahead: 9, sinks: 0, covariance: false })[0].mean;
    });
    const direction = [0.3, -1, 0.7, 2];
    const along = turned.map((q) => q.reduce((sum, x, d) => sum + x * direction[d], 0));
    const mean = along.reduce((sum, x) => sum + x, 0) / 17;
    const variance = along.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 17;
    const form = direction.reduce(
      (sum, a, i) => sum + direction.reduce((s, b, j) => s + a * b * covariance[4 * i + j], 0),
      0,
    );
    expectClose([form], [variance], F64_COMPUTED);
  });
});

it("sinks always stay", () => {
  for (const { kept } of expectedAttention({ futurePositions: 5 }).plan(randomLayers(19), { compressionRatio: 0.7 })) {
    for (const slots of kept) expect([...slots.slice(0, 4)]).toEqual([0, 1, 2, 3]);
  }
});
