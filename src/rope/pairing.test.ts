import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import type { RotaryLayer } from "./layer.ts";
import { convertPairing } from "./pairing.ts";
import { rotate } from "./rotate.ts";
import { rotaryTable } from "./table.ts";

describe("convertPairing", () => {
  it("sorts the interleaved rows of each head: even ones first", () => {
    const layout = { headDim: 6, rotaryDim: 6, columns: 2 };
    const weight = Float32Array.from({ length: 24 }, (_, i) => i); // two heads
    const rows = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11];
    expect(convertPairing(weight, layout, "interleaved", "half")).toEqual(
      Float32Array.from(rows.flatMap((row) => [2 * row, 2 * row + 1])),
    );
  });

  it("leaves the rows outside the rotated slice", () => {
    const layout = { headDim: 7, rotaryDim: 4, rotaryOffset: 2, columns: 1 };
    const weight = Uint16Array.of(0, 1, 2, 3, 4, 5, 6);
    expect(convertPairing(weight, layout, "interleaved", "half")).toEqual(Uint16Array.of(0, 1, 2, 4, 3, 5, 6));
    expect(convertPairing(weight, layout, "half", "half")).toEqual(weight);
  });

  it("undoes itself in the other direction", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.nat(5),
        fc.integer({ min: 1, max: 3 }),
        (pairs, offset, columns) => {
          const layout = { headDim: 2 * pairs + 5, rotaryDim: 2 * pairs, rotaryOffset: offset, columns };
          const weight = Float32Array.from({ length: 3 * layout.headDim * columns }, (_, i) => i);
          const there = convertPairing(weight, layout, "half", "interleaved");
          expect(convertPairing(there, layout, "interleaved", "half")).toEqual(weight);
        },
      ),
      { numRuns: 50 },
    );
  });

  it("converted half-split queries and keys give the scores of interleaved ones", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.nat(3), fc.nat(999), fc.nat(999), (pairs, offset, p, q) => {
        const headDim = 2 * pairs + 3;
        const half: RotaryLayer = {
          headDim,
          rotaryDim: 2 * pairs,
          rotaryOffset: offset,
          pairing: "half",
          schedule: { type: "default", dim: 2 * pairs, theta: 500 },
        };
        const interleaved: RotaryLayer = { ...half, pairing: "interleaved" };
        const layout = { ...half, columns: 1 };
        const query = Float32Array.from({ length: headDim }, (_, i) => Math.cos(i * i + p));
        const key = Float32Array.from({ length: headDim }, (_, i) => Math.sin(i * 7 + q));
        const score = (layer: RotaryLayer, convert: (x: Float32Array) => Float32Array): number => {
          const options = { heads: 1, headDim };
          const a = rotate(convert(query), rotaryTable(layer, [p]), options);
          const b = rotate(convert(key), rotaryTable(layer, [q]), options);
          return a.reduce((sum, value, i) => sum + value * b[i], 0);
        };
        const expected = score(interleaved, (x) => x);
        const converted = score(half, (x) => convertPairing(x, layout, "interleaved", "half"));
        expect(Math.abs(converted - expected)).toBeLessThan(F32_COMPUTED);
      }),
      { numRuns: 60 },
    );
  });

  it("refuses sizes that do not fit", () => {
    expect(() => convertPairing(new Float32Array(9), { headDim: 4, rotaryDim: 4, columns: 1 }, "half", "half")).toThrow(
      "convertPairing: the weight must hold whole heads of headDim * columns elements; got length=9, headDim=4, columns=1.",
    );
    expect(() => convertPairing(new Float32Array(8), { headDim: 4, rotaryDim: 3, columns: 1 }, "half", "half")).toThrow(
      "convertPairing: rotaryDim must be even and lie inside the head; got headDim=4, rotaryDim=3, columns=1.",
    );
  });
});
