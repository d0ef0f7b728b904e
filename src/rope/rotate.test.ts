import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { F32_COMPUTED, F32_STORED } from "../../test/support/tolerances.ts";
import type { RotaryLayer } from "./layer.ts";
import { type RotateOptions, rotate, rotateInto } from "./rotate.ts";
import { rotaryTable } from "./table.ts";

const values = (length: number): fc.Arbitrary<Float32Array> =>
  fc
    .array(fc.double({ min: -2, max: 2, noNaN: true }), { minLength: length, maxLength: length })
    .map((xs) => Float32Array.from(xs));

const HEAD_DIM = 14;
const HEADS = 3;
const options: RotateOptions = { heads: HEADS, headDim: HEAD_DIM };

const layers: fc.Arbitrary<RotaryLayer> = fc
  .record({ pairs: fc.integer({ min: 1, max: 7 }), half: fc.boolean(), theta: fc.integer({ min: 2, max: 100000 }) })
  .chain(({ pairs, half, theta }) =>
    fc.integer({ min: 0, max: HEAD_DIM - 2 * pairs }).map((rotaryOffset) => ({
      headDim: HEAD_DIM,
      rotaryDim: 2 * pairs,
      rotaryOffset,
      pairing: half ? ("half" as const) : ("interleaved" as const),
      schedule: { type: "default" as const, dim: 2 * pairs, theta },
    })),
  );
const position = fc.integer({ min: 0, max: 3000 });

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}

function expectNear(actual: Float32Array, expected: Float32Array, tolerance = F32_COMPUTED): void {
  for (const [i, value] of expected.entries()) expect(Math.abs(actual[i] - value)).toBeLessThan(tolerance);
}

describe("rotate", () => {
  it("turns half-split pairs (i, i + R/2) within the slice and leaves the rest", () => {
    const layer: RotaryLayer = {
      headDim: 6,
      rotaryDim: 4,
      rotaryOffset: 1,
      pairing: "half",
      schedule: { type: "explicit", dim: 4, inverseFrequencies: [Math.PI / 2, Math.PI] },
    };
    const out = rotate(Float32Array.of(9, 1, 2, 3, 4, 8), rotaryTable(layer, [1]), { heads: 1, headDim: 6 });
    expectNear(out, Float32Array.of(9, -3, -2, 1, -4, 8), F32_STORED);
  });

  it("turns interleaved pairs (2i, 2i + 1) within the slice and leaves the rest", () => {
    const layer: RotaryLayer = {
      headDim: 6,
      rotaryDim: 4,
      rotaryOffset: 2,
      pairing: "interleaved",
      schedule: { type: "explicit", dim: 4, inverseFrequencies: [Math.PI / 2, Math.PI] },
    };
    const out = rotate(Float32Array.of(9, 8, 1, 2, 3, 4), rotaryTable(layer, [1]), { heads: 1, headDim: 6 });
    expectNear(out, Float32Array.of(9, 8, -2, 1, -3, -4), F32_STORED);
  });

  it("each token turns by its own row, in every head", () => {
    const layer: RotaryLayer = {
      headDim: 2,
      rotaryDim: 2,
      rotaryOffset: 0,
      pairing: "half",
      schedule: { type: "explicit", dim: 2, inverseFrequencies: [Math.PI / 2] },
    };
    const x = Float32Array.of(1, 0, 2, 0, 3, 0, 4, 0); // [T 2, H 2, D 2]
    const out = rotate(x, rotaryTable(layer, [1, 2]), { heads: 2, headDim: 2 });
    expectNear(out, Float32Array.of(0, 1, 0, 2, -3, 0, -4, 0), F32_STORED);
  });

  it("position 0 leaves every value as it is", () => {
    fc.assert(
      fc.property(layers, values(HEADS * HEAD_DIM), (layer, x) => {
        const out = rotate(x, rotaryTable(layer, [0]), options);
        expect(out.every((value, i) => value === x[i])).toBe(true); // −0 may become 0
      }),
      { numRuns: 50 },
    );
  });

  it("two rotations are one by the sum of positions, and the inverse undoes it", () => {
    fc.assert(
      fc.property(layers, position, position, values(HEADS * HEAD_DIM), (layer, p, q, x) => {
        const once = rotate(x, rotaryTable(layer, [p + q]), options);
        const twice = rotate(rotate(x, rotaryTable(layer, [p]), options), rotaryTable(layer, [q]), options);
        expectNear(twice, once);
        expectNear(rotate(once, rotaryTable(layer, [p + q]), { ...options, direction: "inverse" }), x);
        expectNear(rotate(once, rotaryTable(layer, [-p - q]), options), x);
      }),
      { numRuns: 100 },
    );
  });

  it("keeps the norm", () => {
    fc.assert(
      fc.property(layers, position, values(HEADS * HEAD_DIM), (layer, p, x) => {
        const out = rotate(x, rotaryTable(layer, [p]), options);
        expect(Math.abs(Math.sqrt(dot(out, out)) - Math.sqrt(dot(x, x)))).toBeLessThan(F32_COMPUTED);
      }),
      { numRuns: 50 },
    );
  });

  it("scores depend on the difference of positions only", () => {
    const oneHead = { heads: 1, headDim: HEAD_DIM };
    fc.assert(
      fc.property(
        layers,
        position,
        position,
        position,
        values(HEAD_DIM),
        values(HEAD_DIM),
        (layer, p, q, shift, a, b) => {
          const score = (m: number, n: number): number =>
            dot(rotate(a, rotaryTable(layer, [m]), oneHead), rotate(b, rotaryTable(layer, [n]), oneHead));
          expect(Math.abs(score(p, q) - score(p + shift, q + shift))).toBeLessThan(1e-4); // 14 products of up to 4
        },
      ),
      { numRuns: 100 },
    );
  });

  it("passes the other dims through bit for bit, NaN payloads included", () => {
    fc.assert(
      fc.property(
        layers,
        position,
        fc.array(fc.nat(), { minLength: HEAD_DIM, maxLength: HEAD_DIM }),
        (layer, p, bits) => {
          const words = Uint32Array.from(bits, (b) => b * 3);
          const x = new Float32Array(words.buffer);
          const before = words.slice();
          const out = new Uint32Array(rotate(x, rotaryTable(layer, [p]), { heads: 1, headDim: HEAD_DIM }).buffer);
          for (let i = 0; i < HEAD_DIM; i++) {
            const rotated = i >= layer.rotaryOffset && i < layer.rotaryOffset + layer.rotaryDim;
            if (!rotated) expect(out[i]).toBe(before[i]);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  it("gives the same in place", () => {
    fc.assert(
      fc.property(layers, position, values(HEADS * HEAD_DIM), (layer, p, x) => {
        const table = rotaryTable(layer, [p]);
        const expected = rotate(x, table, options);
        rotateInto(x, x, table, options);
        expect(x).toEqual(expected);
      }),
      { numRuns: 30 },
    );
  });

  it("`transpose` is the gradient: <g, R x> = <Rᵀ g, x>, attention factor included", () => {
    fc.assert(
      fc.property(layers, position, values(HEAD_DIM), values(HEAD_DIM), (layer, p, x, g) => {
        const oneHead = { heads: 1, headDim: HEAD_DIM };
        const table = rotaryTable(layer, [p]);
        const scaled = {
          ...table,
          factor: 1.5,
          cos: table.cos.map((c) => 1.5 * c),
          sin: table.sin.map((s) => 1.5 * s),
        };
        const forward = dot(g, rotate(x, scaled, oneHead));
        const backward = dot(rotate(g, scaled, { ...oneHead, direction: "transpose" }), x);
        expect(Math.abs(forward - backward)).toBeLessThan(1e-4);
        expectNear(rotate(rotate(x, scaled, oneHead), scaled, { ...oneHead, direction: "inverse" }), x);
      }),
      { numRuns: 50 },
    );
  });

  it("de-rotating an output at the query position leaves the difference only (keys as values, DeepSeek-V4)", () => {
    const oneHead = { heads: 1, headDim: HEAD_DIM };
    fc.assert(
      fc.property(layers, position, position, values(HEAD_DIM), (layer, p, delta, kv) => {
        const output = (query: number): Float32Array => {
          const value = rotate(kv, rotaryTable(layer, [query + delta]), oneHead);
          return rotate(value, rotaryTable(layer, [query]), { ...oneHead, direction: "inverse" });
        };
        expectNear(output(p), rotate(kv, rotaryTable(layer, [delta]), oneHead));
      }),
      { numRuns: 50 },
    );
  });

  it("refuses sizes that do not fit", () => {
    const layer: RotaryLayer = {
      headDim: 6,
      rotaryDim: 4,
      rotaryOffset: 1,
      pairing: "half",
      schedule: { type: "default", dim: 4, theta: 100 },
    };
    const table = rotaryTable(layer, [1, 2]);
    expect(() => rotate(new Float32Array(13), table, { heads: 1, headDim: 6 })).toThrow(
      "rotateInto: x and out must hold rows * heads * headDim numbers; got x=13, out=13, rows=2, heads=1, headDim=6.",
    );
    expect(() => rotate(new Float32Array(8), table, { heads: 1, headDim: 4 })).toThrow(
      "rotateInto: the rotated dims must lie inside the head; got headDim=4, rotaryDim=4, rotaryOffset=1.",
    );
    const buffer = new Float32Array(20);
    expect(() => rotateInto(buffer.subarray(1, 13), buffer.subarray(0, 12), table, { heads: 1, headDim: 6 })).toThrow(
      "rotateInto: out must be x itself or not overlap it; got outOffset=4, xOffset=0.",
    );
  });
});
