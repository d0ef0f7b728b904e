import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitRmsNorm } from "./norm.ts";

/** Errors relative to 1 + |wanted|, for outputs of magnitude about 1. */
const BUDGET = 2e-6;
const WIDTHS = [1, 2, 3, 4, 5, 15, 16, 17, 19, 20, 31, 64, 67, 288, 1031];

type Row = { x: Float32Array; weight: Float32Array; eps: number };

function rmsNorm({ x, weight, eps }: Row): number[] {
  let squares = 0;
  for (const value of x) squares += value * value;
  return Array.from(x, (value, i) => (value / Math.sqrt(squares / x.length + eps)) * weight[i]);
}

describe.each(MODES)("RMS norm, %o", ({ relaxed }) => {
  const rows = 5;
  const [from, to] = [1, 4];
  const eps = Math.fround(1e-5);

  test.each(WIDTHS)("rmsNorm of width %i, in place and not, follows its formula", (width) => {
    const spec = { width, relaxed, xStride: 4 * (width + 3) };
    const x = randomNumbers(rows * (width + 3), 1).map((v) => 0.1 + 2 * v);
    const weight = randomNumbers(width, 2);
    const want = [1, 2, 3].flatMap((row) =>
      rmsNorm({ x: x.subarray(row * (width + 3)).subarray(0, width), weight, eps }),
    );
    const kernel = new KernelUnderTest((module) => {
      emitRmsNorm(module, spec);
      emitRmsNorm(module, { ...spec, name: "inPlace", outStride: spec.xStride });
    });
    const out = kernel.put(new Float32Array(rows * width).fill(7));
    const xAt = kernel.put(x);
    const weightAt = kernel.put(weight);
    kernel.call("rmsNorm", out, xAt, weightAt, from, to, eps);
    const seven = new Array<number>(width).fill(7);
    expectClose(kernel.f32(out, rows * width), [...seven, ...want, ...seven], BUDGET);
    kernel.call("inPlace", xAt, xAt, weightAt, from, to, eps);
    const inPlace = kernel.f32(xAt, x.length);
    const got = [1, 2, 3].flatMap((row) => [...inPlace.subarray(row * (width + 3)).subarray(0, width)]);
    expectClose(got, want, BUDGET);
    expectClose(inPlace.subarray(0, width + 3), x.subarray(0, width + 3), 0);
  });
});

test("the listing of rmsNorm of four elements", () => {
  expect(listingOf((module) => emitRmsNorm(module, { width: 4, relaxed: true }))).toMatchInlineSnapshot(`
    "rmsNorm(out: i32, x: i32, weight: i32, from: i32, to: i32, eps: f32)
      row = from
      if i32.lt_s(row, to)
        loop
          xAt = i32.add(x, i32.mul(row, 16))
          total = f32.const[0]()
          sum0 = v128.const[0 0 0 0]()
          sum1 = v128.const[0 0 0 0]()
          sum2 = v128.const[0 0 0 0]()
          sum3 = v128.const[0 0 0 0]()
          start = xAt
          end = i32.add(start, 16)
          if i32.lt_u(xAt, end)
            loop
              value = v128.load(xAt)
              sum0 = f32x4.relaxed_madd(value, value, sum0)
              xAt = i32.add(xAt, 16)
              branch 0 if i32.lt_u(xAt, end)
          sum0 = f32x4.add(f32x4.add(sum0, sum1), f32x4.add(sum2, sum3))
          sum0 = f32x4.add(sum0, i8x16.shuffle[8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7](sum0, sum0))
          total = f32.add(total, f32.add(f32x4.extract_lane[0](sum0), f32x4.extract_lane[1](sum0)))
          factor = f32.div(f32.const[1](), f32.sqrt(f32.add(f32.div(total, f32.const[4]()), eps)))
          xAt = i32.add(x, i32.mul(row, 16))
          outAt = i32.add(out, i32.mul(row, 16))
          weightAt = weight
          start = xAt
          end = i32.add(start, 16)
          if i32.lt_u(xAt, end)
            loop
              v128.store(outAt, f32x4.mul(f32x4.mul(v128.load(xAt), f32x4.splat(factor)), v128.load(weightAt)))
              xAt = i32.add(xAt, 16)
              outAt = i32.add(outAt, 16)
              weightAt = i32.add(weightAt, 16)
              branch 0 if i32.lt_u(xAt, end)
          row = i32.add(row, 1)
          branch 0 if i32.lt_s(row, to)
    "
  `);
});
