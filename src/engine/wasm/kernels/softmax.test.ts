import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitArgmax, emitSoftmax } from "./softmax.ts";

const WIDTHS = [1, 2, 3, 4, 5, 8, 31, 64, 1027];

describe.each(MODES)("softmax, %o", ({ relaxed }) => {
  test.each(WIDTHS)("probabilities of width %i at several temperatures, in place and not", (width) => {
    const stride = width + 2;
    const x = randomNumbers(4 * stride, 1).map((v) => 20 * v);
    if (width > 3) x[stride + 2] = -Infinity;
    const kernel = new KernelUnderTest((module) => {
      emitSoftmax(module, { width, relaxed, xStride: 4 * stride });
      emitSoftmax(module, { width, relaxed, xStride: 4 * stride, outStride: 4 * stride, name: "inPlace" });
    });
    const out = kernel.put(new Float32Array(4 * width).fill(7));
    const xAt = kernel.put(x);
    for (const temperature of [1, 0.25, 3]) {
      const want = [1, 2].flatMap((row) => {
        const logits = Array.from(x.subarray(row * stride, row * stride + width));
        const max = Math.max(...logits);
        const powers = logits.map((v) => Math.exp((v - max) / temperature));
        const sum = powers.reduce((a, b) => a + b, 0);
        return powers.map((v) => v / sum);
      });
      kernel.call("softmax", out, xAt, 1, 3, 1 / temperature);
      const seven = new Array<number>(width).fill(7);
      expectClose(kernel.f32(out, 4 * width), [...seven, ...want, ...seven], 2e-6);
    }
    kernel.call("inPlace", xAt, xAt, 1, 3, 1);
    kernel.call("softmax", out, kernel.put(x), 1, 3, 1);
    const inPlace = kernel.f32(xAt, x.length);
    expect([...inPlace.subarray(stride, stride + width)]).toEqual([...kernel.f32(out, 2 * width).subarray(width)]);
  });
});

describe("argmax", () => {
  const argmax = (rows: readonly (readonly number[])[]): number[] => {
    const width = rows[0].length;
    const kernel = new KernelUnderTest((module) => emitArgmax(module, { width }));
    const out = kernel.put(new Int32Array(rows.length).fill(-1));
    kernel.call("argmax", out, kernel.put(Float32Array.from(rows.flat())), 0, rows.length);
    return [...new Int32Array(kernel.u8(out, 4 * rows.length).buffer)];
  };

  test.each(WIDTHS)("finds the largest of %i wherever it is", (width) => {
    const rows = Array.from({ length: Math.min(width, 40) }, (_, i) => {
      const row = [...randomNumbers(width, i)];
      row[i] = 2;
      return row;
    });
    expect(argmax(rows)).toEqual(rows.map((_, i) => i));
  });

  test("the lowest index wins among equals", () => {
    expect(argmax([[1, 5, 2, 3, 1, 2, 5, 5, 5, 0, 5]])).toEqual([1]);
    expect(argmax([[1, 0, 2, 5, 5, 2, 0, 5, 5, 0, 5]])).toEqual([3]);
    expect(argmax([[1, 0, 2, 0, 1, 2, 0, 0, 3, 9, 9]])).toEqual([9]);
    expect(argmax([[0, 0, 0, 0, 0, 0, 0, 0, 0]])).toEqual([0]);
  });

  test("negative numbers, infinities and NaN", () => {
    expect(argmax([[-9, -8, -7, -3, -5, -6]])).toEqual([3]);
    expect(argmax([[NaN, -8, NaN, -3, NaN, NaN]])).toEqual([3]);
    expect(argmax([[1, 2, 3, Infinity, 4, 5]])).toEqual([3]);
    expect(argmax([[-Infinity, -Infinity, -Infinity, -Infinity, -Infinity]])).toEqual([0]);
    expect(argmax([[NaN, NaN, NaN, NaN, NaN, -1]])).toEqual([5]);
  });
});

test("the listing of argmax of four elements", () => {
  expect(listingOf((module) => emitArgmax(module, { width: 4 }))).toMatchInlineSnapshot(`
    "argmax(out: i32, x: i32, from: i32, to: i32)
      row = from
      if i32.lt_s(row, to)
        loop
          xAt = i32.add(x, i32.mul(row, 16))
          best = v128.const[-8402530 -8402530 -8402530 -8402530]()
          indices = v128.const[0 0 0 0]()
          index = v128.const[0 1 2 3]()
          element = 4
          top = f32.const[-3.4e+38]()
          winner = 0
          start = xAt
          end = i32.add(start, 16)
          if i32.lt_u(xAt, end)
            loop
              here = v128.load(xAt)
              greater = f32x4.gt(here, best)
              best = v128.bitselect(here, best, greater)
              indices = v128.bitselect(index, indices, greater)
              index = i32x4.add(index, v128.const[4 4 4 4]())
              xAt = i32.add(xAt, 16)
              branch 0 if i32.lt_u(xAt, end)
          if i32.or(f32.gt(f32x4.extract_lane[0](best), top), i32.and(f32.eq(f32x4.extract_lane[0](best), top), i32.lt_s(i32x4.extract_lane[0](indices), winner)))
            top = f32x4.extract_lane[0](best)
            winner = i32x4.extract_lane[0](indices)
          if i32.or(f32.gt(f32x4.extract_lane[1](best), top), i32.and(f32.eq(f32x4.extract_lane[1](best), top), i32.lt_s(i32x4.extract_lane[1](indices), winner)))
            top = f32x4.extract_lane[1](best)
            winner = i32x4.extract_lane[1](indices)
          if i32.or(f32.gt(f32x4.extract_lane[2](best), top), i32.and(f32.eq(f32x4.extract_lane[2](best), top), i32.lt_s(i32x4.extract_lane[2](indices), winner)))
            top = f32x4.extract_lane[2](best)
            winner = i32x4.extract_lane[2](indices)
          if i32.or(f32.gt(f32x4.extract_lane[3](best), top), i32.and(f32.eq(f32x4.extract_lane[3](best), top), i32.lt_s(i32x4.extract_lane[3](indices), winner)))
            top = f32x4.extract_lane[3](best)
            winner = i32x4.extract_lane[3](indices)
          i32.store(i32.add(out, i32.shl(row, 2)), winner)
          row = i32.add(row, 1)
          branch 0 if i32.lt_s(row, to)
    "
  `);
});
