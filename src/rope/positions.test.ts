import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  centeredGridPositions,
  gridPositions,
  leftPadded,
  llama4GridPositions,
  mropePositions,
  packedPositions,
  positionRange,
} from "./positions.ts";

describe("one-dimensional positions", () => {
  it("count from the start", () => {
    expect(positionRange(3, 5)).toEqual(Int32Array.of(5, 6, 7));
    expect(positionRange(0)).toEqual(new Int32Array(0));
  });

  it("restart in every packed segment and are 0 in padding", () => {
    expect(packedPositions([0, 0, 0, 4, 4, -1, -1, 4])).toEqual(Int32Array.of(0, 1, 2, 0, 1, 0, 0, 0));
  });

  it("of packed segments are those of the segments alone", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 6 }), (lengths) => {
        const segments = lengths.flatMap((length, segment) => new Array<number>(length).fill(segment));
        expect(packedPositions(segments)).toEqual(Int32Array.from(lengths.flatMap((n) => [...positionRange(n)])));
      }),
      { numRuns: 30 },
    );
  });

  it("start at 0 after left padding", () => {
    const { positions, segments } = leftPadded(2, 3);
    expect(positions).toEqual(Int32Array.of(0, 0, 0, 1, 2));
    expect(segments).toEqual(Int32Array.of(-1, -1, 0, 0, 0));
  });

  it("refuse counts that would exhaust memory", () => {
    expect(() => positionRange(1e12)).toThrow(
      "positionRange: count must be a count of at most 134217728; got count=1000000000000.",
    );
  });
});

describe("mropePositions", () => {
  it("text has equal rows", () => {
    const { rows, next } = mropePositions([{ text: 3 }], 4);
    for (const row of rows) expect(row).toEqual(Int32Array.of(4, 5, 6));
    expect(next).toBe(7);
  });

  it("an image counts frames, rows and columns, and text goes on after its largest position", () => {
    const { rows, next } = mropePositions([{ text: 2 }, { grid: { t: 2, h: 1, w: 3 } }, { text: 1 }]);
    expect(rows[0]).toEqual(Int32Array.of(0, 1, 2, 2, 2, 3, 3, 3, 5));
    expect(rows[1]).toEqual(Int32Array.of(0, 1, 2, 2, 2, 2, 2, 2, 5));
    expect(rows[2]).toEqual(Int32Array.of(0, 1, 2, 3, 4, 2, 3, 4, 5));
    expect(next).toBe(6);
  });

  it("refuses a grid of absurd size", () => {
    expect(() => mropePositions([{ grid: { t: 100000, h: 100000, w: 1 } }])).toThrow(
      "mropePositions: total must be a count of at most 134217728; got total=10000000000.",
    );
  });
});

describe("grids", () => {
  it("go row by row", () => {
    expect(gridPositions(2, 3)).toEqual([Int32Array.of(0, 0, 0, 1, 1, 1), Int32Array.of(0, 1, 2, 0, 1, 2)]);
  });

  it("go block by block where patches are merged", () => {
    const [h, w] = gridPositions(2, 4, 2);
    expect(h).toEqual(Int32Array.of(0, 0, 1, 1, 0, 0, 1, 1));
    expect(w).toEqual(Int32Array.of(0, 1, 0, 1, 2, 3, 2, 3));
    expect(() => gridPositions(3, 4, 2)).toThrow(
      "gridPositions: block must divide height and width; got height=3, width=4, block=2.",
    );
  });

  it("lie between −1 and 1 around the centre", () => {
    const [h, w] = centeredGridPositions(2, 4);
    expect(Array.from(h.slice(0, 5))).toEqual([-0.5, -0.5, -0.5, -0.5, 0.5]);
    expect(Array.from(w.slice(0, 4))).toEqual([-0.75, -0.25, 0.25, 0.75]);
  });

  it("Llama 4 counts columns and rows from 1 and ends with a class token at 0", () => {
    const [x, y] = llama4GridPositions(2, 3);
    expect(x).toEqual(Int32Array.of(1, 2, 3, 1, 2, 3, 0));
    expect(y).toEqual(Int32Array.of(1, 1, 1, 2, 2, 2, 0));
  });
});
