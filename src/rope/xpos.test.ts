import { describe, expect, it } from "vitest";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import type { RotaryLayer } from "./layer.ts";
import { rotate } from "./rotate.ts";
import { rotaryTable } from "./table.ts";
import { xposTables } from "./xpos.ts";

const layer: RotaryLayer = {
  headDim: 8,
  rotaryDim: 8,
  rotaryOffset: 0,
  pairing: "interleaved",
  schedule: { type: "default", dim: 8, theta: 10000 },
};
const query = Float32Array.from({ length: 8 }, (_, i) => Math.cos(3 * i));
const key = Float32Array.from({ length: 8 }, (_, i) => Math.sin(5 * i + 1));

function score(p: number, q: number, center = 0): number {
  const at = (position: number) => xposTables(rotaryTable(layer, [position]), [position], { headDim: 8, center });
  const a = rotate(query, at(p).queries, { heads: 1, headDim: 8 });
  const b = rotate(key, at(q).keys, { heads: 1, headDim: 8 });
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}

describe("xposTables", () => {
  it("scales pair i by ζ_i to the power of its distance in 512 tokens", () => {
    const tables = xposTables(rotaryTable(layer, [1024]), [1024], { headDim: 8 });
    const plain = rotaryTable(layer, [1024]);
    // ((2·2 + 0.4·8)/(1.4·8))^2 for pair 2
    expect(tables.queries.cos[2] / plain.cos[2]).toBeCloseTo(0.413265306122449, 5);
    expect(tables.keys.sin[2] / plain.sin[2]).toBeCloseTo(1 / 0.413265306122449, 5);
  });

  it("scores depend on the difference of positions only", () => {
    expect(Math.abs(score(70, 30) - score(570, 530))).toBeLessThan(F32_COMPUTED);
  });

  it("a common centre cancels", () => {
    expect(Math.abs(score(70, 30) - score(70, 30, 900))).toBeLessThan(F32_COMPUTED);
  });

  it("refuses positions that are not one per row", () => {
    expect(() => xposTables(rotaryTable(layer, [1, 2]), [1], { headDim: 8 })).toThrow(
      "xposTables: one position per row of the table, headDim and scaleBase greater than 0; got positions=1, rows=2, headDim=8, scaleBase=512.",
    );
  });
});
