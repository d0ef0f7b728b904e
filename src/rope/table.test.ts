import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { F32_STORED } from "../../test/support/tolerances.ts";
import type { RotaryLayer } from "./layer.ts";
import { createRotaryCache } from "./rotary-cache.ts";
import { rotaryTable } from "./table.ts";

const layer = (dim: number, theta: number): RotaryLayer => ({
  headDim: dim,
  rotaryDim: dim,
  rotaryOffset: 0,
  pairing: "half",
  schedule: { type: "default", dim, theta },
});

// base, R, position, pair, cos, sin; computed with mpmath at 40 digits
const EXACT: [number, number, number, number, number, number][] = [
  [10000, 128, 1048576, 0, 0.943808393901312, 0.3304931400217347],
  [10000, 128, 1048576, 1, -0.6776024202721027, 0.7354284193865428],
  [500000, 128, 1048575, 7, 0.4526391965341855, -0.89169375783443],
  [10000000, 128, 1048575, 13, -0.9983956370215455, 0.056622892687871774],
  [10000, 128, 1048576, 63, -0.13592817677070246, 0.9907186940599196],
  [10000, 64, 999983, 3, 0.9344382175173278, -0.35612528363349766],
];

describe("rotaryTable", () => {
  it.each(EXACT)("base %d, R %d: position %d, pair %d is right to 1e-6", (theta, dim, position, pair, cos, sin) => {
    const table = rotaryTable(layer(dim, theta), [position]);
    expect(Math.abs(table.cos[pair] - cos)).toBeLessThan(F32_STORED);
    expect(Math.abs(table.sin[pair] - sin)).toBeLessThan(F32_STORED);
  });

  it("has one row per token and one column per pair", () => {
    const table = rotaryTable(layer(6, 100), [0, 1, 5]);
    expect(table.cos.length).toBe(9);
    expect(table.cos[3]).toBeCloseTo(Math.cos(1), 6);
    expect(table.sin[7]).toBeCloseTo(Math.sin(5 * 100 ** (-2 / 6)), 6);
  });

  it("takes the length from the largest position, or from the caller", () => {
    const dynamic: RotaryLayer = {
      ...layer(8, 10000),
      schedule: { type: "dynamic", dim: 8, theta: 10000, factor: 2, maxLength: 10 },
    };
    const fresh = rotaryTable(dynamic, [3, 24]);
    expect(fresh.cos[3]).toBeCloseTo(Math.cos(3 * 0.00025), 7); // base 10000·4^(8/6)
    expect(fresh.cos[1]).toBeCloseTo(Math.cos(3 * 0.06299605249474366), 7);
    const pinned = rotaryTable(dynamic, [3, 24], { length: 10 });
    expect(pinned.cos[1]).toBeCloseTo(Math.cos(3 * 0.1), 7);
  });

  it("multiplies by the attention factor unless told otherwise", () => {
    const yarn: RotaryLayer = {
      ...layer(8, 10000),
      schedule: { type: "yarn", dim: 8, theta: 10000, factor: 4, originalLength: 64, attentionFactor: 1.5 },
    };
    expect(rotaryTable(yarn, [0]).cos[0]).toBe(1.5);
    expect(rotaryTable(yarn, [0]).factor).toBe(1.5);
    expect(rotaryTable(yarn, [0], { withAttentionFactor: false }).cos[0]).toBe(1);
  });

  it("equal rows of positions on all axes give the table of one axis", () => {
    const flat = layer(12, 1000);
    const axes: RotaryLayer = { ...flat, pairAxes: [0, 1, 2, 0, 1, 2] };
    const positions = [0, 3, 77];
    expect(rotaryTable(axes, [positions, positions, positions]).cos).toEqual(rotaryTable(flat, positions).cos);
    expect(rotaryTable(axes, positions).sin).toEqual(rotaryTable(flat, positions).sin);
  });

  it("every pair turns by the position on its axis", () => {
    const axes: RotaryLayer = { ...layer(6, 8), pairAxes: [0, 2, 1] };
    const table = rotaryTable(axes, [[1], [10], [100]]);
    expect(table.sin[0]).toBeCloseTo(Math.sin(1), 6);
    expect(table.sin[1]).toBeCloseTo(Math.sin(100 / 2), 6);
    expect(table.sin[2]).toBeCloseTo(Math.sin(10 / 4), 6);
  });

  it("refuses rows that do not fit", () => {
    const axes: RotaryLayer = { ...layer(6, 8), pairAxes: [0, 2, 1] };
    expect(() => rotaryTable(axes, [[1], [10]])).toThrow(
      "rotaryTable: positions must have one row, or one per axis of the layer; got rows=2, axes=3.",
    );
    expect(() => rotaryTable(axes, [[1], [10], [1, 2]])).toThrow(
      "rotaryTable: rows of positions must have the same length; got lengths=[1,1,2].",
    );
    expect(() => rotaryTable(layer(6, 8), [[1], [10]])).toThrow(
      "rotaryTable: a layer without pairAxes takes one row of positions; got rows=2.",
    );
    expect(() => rotaryTable(layer(6, 8), [1, NaN])).toThrow(
      "rotaryTable: positions must be finite numbers; got index=1, position=NaN.",
    );
  });

  it("refuses a layer that contradicts its schedule", () => {
    expect(() => rotaryTable({ ...layer(6, 8), rotaryDim: 4 }, [1])).toThrow(
      "rotaryTable: rotaryDim must be twice the schedule's pairs and lie inside the head; got headDim=6, rotaryDim=4, rotaryOffset=0, pairs=3.",
    );
    expect(() => rotaryTable({ ...layer(6, 8), pairAxes: [0] }, [1])).toThrow(
      "rotaryTable: pairAxes must name an axis for every pair; got pairs=3, pairAxes=[0].",
    );
  });
});

describe("createRotaryCache", () => {
  it.each(EXACT)("base %d, R %d: position %d, pair %d is right to 1e-6", (theta, dim, position, pair, cos, sin) => {
    const table = createRotaryCache(layer(dim, theta), { maxPositions: 2 ** 20 + 1 }).table([position]);
    expect(Math.abs(table.cos[pair] - cos)).toBeLessThan(F32_STORED);
    expect(Math.abs(table.sin[pair] - sin)).toBeLessThan(F32_STORED);
  });

  it("gives the same as rotaryTable at any position", () => {
    const schedule = { type: "yarn", dim: 14, theta: 5000, factor: 8, originalLength: 512 } as const;
    const yarn: RotaryLayer = { ...layer(14, 5000), schedule, pairAxes: [0, 1, 0, 1, 1, 0, 0] };
    const cache = createRotaryCache(yarn, { maxPositions: 100003 });
    fc.assert(
      fc.property(fc.array(fc.nat(100002), { minLength: 1, maxLength: 5 }), (positions) => {
        const rows = [positions, positions.map((p) => 100002 - p)];
        const expected = rotaryTable(yarn, rows);
        const actual = cache.table(rows);
        for (const [i, c] of expected.cos.entries()) {
          expect(Math.abs(actual.cos[i] - c)).toBeLessThan(F32_STORED);
          expect(Math.abs(actual.sin[i] - expected.sin[i])).toBeLessThan(F32_STORED);
        }
      }),
      { numRuns: 50 },
    );
  });

  it("is small: a million positions of 64 pairs take about 2 MB", () => {
    expect(createRotaryCache(layer(128, 1e4), { maxPositions: 2 ** 20 }).bytes).toBe(2 * 2 * 1024 * 64 * 8);
  });

  it("checks positions, not their number", () => {
    const cache = createRotaryCache(layer(4, 10), { maxPositions: 8 });
    expect(cache.table([7, 7, 7, 7, 7, 7, 7, 7, 7, 7]).cos.length).toBe(20);
    expect(() => cache.table([8])).toThrow(
      "RotaryCache.table: positions must be integers from 0 to maxPositions - 1; got position=8, index=0, maxPositions=8. Create the cache with a larger maxPositions, or use rotaryTable.",
    );
    expect(() => cache.table([0, -1])).toThrow("got position=-1, index=1");
    expect(() => cache.table([0.5])).toThrow("got position=0.5, index=0");
  });

  it("refuses sizes that are no number of positions", () => {
    expect(() => createRotaryCache(layer(4, 10), { maxPositions: 2 ** 40 })).toThrow(
      "createRotaryCache: maxPositions must be an integer from 1 to 2^31; got maxPositions=1099511627776.",
    );
  });
});
