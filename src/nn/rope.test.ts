import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { tensor } from "../tensor.ts";
import { RoPE } from "./index.ts";

/** One head rotated by the formula, pairs (i, i + D/2). */
function turned(row: ArrayLike<number>, position: number, theta: number): number[] {
  const D = row.length;
  return Array.from(row, (value, d) => {
    const angle = position / theta ** ((2 * (d % (D / 2))) / D);
    const other = d < D / 2 ? -row[d + D / 2] : row[d - D / 2];
    return value * Math.cos(angle) + other * Math.sin(angle);
  });
}

describe("RoPE", () => {
  it("turns pairs by 0, 1, … in every batch entry and head where no positions are given", () => {
    const x = values([2, 5, 3, 6], 1); // [B, T, H, D]
    const got = new RoPE({ headDim: 6, theta: 500 }).forward(x);
    expect(got.shape).toEqual([2, 5, 3, 6]);
    const rows = Array.from({ length: 30 }, (_, row) => {
      return turned(x.data.subarray(row * 6, row * 6 + 6), Math.floor(row / 3) % 5, 500);
    });
    expectClose(got.data, rows.flat(), F32_STORED);
  });

  it("takes positions for all batch entries or for each", () => {
    const x = values([2, 3, 1, 4], 2);
    const rope = new RoPE({ headDim: 4 });
    const [shared, own] = [
      [7, -1, 100000],
      [7, -1, 100000, 2, 3.5, 4],
    ];
    const want = (positions: number[]) =>
      Array.from({ length: 6 }, (_, row) =>
        turned(x.data.subarray(row * 4, row * 4 + 4), positions[row], 10000),
      ).flat();
    expectClose(rope.forward(x, { positions: shared }).data, want([...shared, ...shared]), F32_STORED);
    expectClose(rope.forward(x, { positions: own }).data, want(own), F32_STORED);
  });

  it("with kept angles gives the same numbers, and refuses positions beyond them", () => {
    const x = values([3, 2, 10], 3);
    const [plain, kept] = [new RoPE({ headDim: 10 }), new RoPE({ headDim: 10, maxPositions: 5000 })];
    fc.assert(
      fc.property(fc.array(fc.nat(4999), { minLength: 3, maxLength: 3 }), (positions) => {
        expectClose(kept.forward(x, { positions }).data, plain.forward(x, { positions }).data, F32_STORED);
      }),
    );
    expect(() => kept.forward(x, { positions: [0, 1, 5000] })).toThrow(
      "RotaryCache.table: positions must be integers from 0 to maxPositions - 1; " +
        "got position=5000, index=2, maxPositions=5000. Create the cache with a larger maxPositions, or use rotaryTable.",
    );
  });

  it("takes any schedule, and rotates its dims only", () => {
    const x = values([4, 1, 7], 4);
    const y = new RoPE({ headDim: 7, schedule: { type: "linear", dim: 4, theta: 100, factor: 2 } }).forward(x).data;
    for (let t = 0; t < 4; t++) {
      const row = x.data.subarray(t * 7, t * 7 + 7);
      expectClose(y.subarray(t * 7, t * 7 + 4), turned(row.subarray(0, 4), t / 2, 100), F32_STORED);
      expect(y.subarray(t * 7 + 4, t * 7 + 7)).toEqual(row.subarray(4));
    }
  });

  it("takes the length of the sequence for schedules that depend on it", () => {
    const schedule = { type: "dynamic", dim: 4, theta: 100, factor: 2, maxLength: 8 } as const;
    const x = values([2, 1, 4], 5);
    const at = (length?: number) =>
      new RoPE({ headDim: 4, schedule, ...(length === undefined ? {} : { length }) }).forward(x, { positions: [3, 31] })
        .data;
    expect(at()).toEqual(at(32));
    expect(at()).not.toEqual(at(8));
    // b' = b·(f·s/M − f + 1)^(R/(R − 2)), s = 32
    expectClose(
      at(32),
      [turned(x.data.subarray(0, 4), 3, 4900), turned(x.data.subarray(4), 31, 4900)].flat(),
      F32_STORED,
    );
  });

  it("has one row of positions per axis where the layer has axes", () => {
    const layer = {
      ...({ headDim: 4, rotaryDim: 4, rotaryOffset: 0, pairing: "half" } as const),
      schedule: { type: "default", dim: 4, theta: 100 },
      pairAxes: [0, 1],
    } as const;
    const x = tensor("f32", [2, 1, 1, 4], Float32Array.of(1, 1, 0, 0, 1, 1, 0, 0));
    const y = new RoPE({ layer }).forward(x, { positions: [[2], [30]] }).data;
    const want = [Math.cos(2), Math.cos(3), Math.sin(2), Math.sin(3)];
    expectClose(y, [...want, ...want], F32_STORED);
  });

  it("refuses contradictions and other sizes", () => {
    expect(() => new RoPE({})).toThrow("RoPE: headDim is needed without a layer.");
    expect(() => new RoPE({ headDim: 5 })).toThrow("RoPE: headDim must be even; got headDim=5.");
    const schedule = { type: "default", dim: 4, theta: 100 } as const;
    expect(() => new RoPE({ headDim: 4, schedule, theta: 3 })).toThrow(
      "RoPE: theta or schedule, not both; got theta=3.",
    );
    expect(() => new RoPE({ headDim: 2, schedule })).toThrow(
      "rotaryTable: rotaryDim must be twice the schedule's pairs and lie inside the head; " +
        "got headDim=2, rotaryDim=4, rotaryOffset=0, pairs=2.",
    );
    const layer = { headDim: 4, rotaryDim: 4, rotaryOffset: 0, pairing: "half", schedule } as const;
    expect(() => new RoPE({ layer, theta: 3 })).toThrow(
      "RoPE: layer, or headDim with theta or schedule, not both; got headDim=undefined, theta=3.",
    );
    const rope = new RoPE({ layer });
    expect(() => rope.forward(values([3, 4], 1))).toThrow("RoPE.forward: x must be [..., T, H, D]; got shape=[3,4].");
    expect(() => rope.forward(values([3, 1, 6], 1))).toThrow(
      "RoPE.forward: the last axes must be [4]; got shape=[3,1,6].",
    );
    expect(() => rope.forward(values([2, 3, 1, 4], 1), { positions: [1, 2] })).toThrow(
      "RoPE.forward: positions must be [T] or [B, T]; got length=2, T=3, B=2.",
    );
  });
});
