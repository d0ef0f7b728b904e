import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitRotate, type RotateSpec } from "./rotate.ts";

/** Two products and a sum, each rounded once. */
const BUDGET = 2e-7;

type Slice = Pick<RotateSpec, "headDim" | "rotaryDim" | "rotaryOffset" | "pairing">;

/** What x [T, H, D] should become, tokens [from, to) only. */
function wanted(
  x: Float32Array,
  [cos, sin]: readonly Float32Array[],
  heads: number,
  { headDim, rotaryDim, rotaryOffset, pairing }: Slice,
  [from, to]: readonly number[],
): Float64Array {
  const out = Float64Array.from(x);
  const pairs = rotaryDim / 2;
  for (let t = from; t < to; t++) {
    for (let h = 0; h < heads; h++) {
      const start = (t * heads + h) * headDim + rotaryOffset;
      for (let i = 0; i < pairs; i++) {
        const first = pairing === "half" ? start + i : start + 2 * i;
        const second = pairing === "half" ? first + pairs : first + 1;
        const [c, s] = [cos[t * pairs + i], sin[t * pairs + i]];
        out[first] = x[first] * c - x[second] * s;
        out[second] = x[second] * c + x[first] * s;
      }
    }
  }
  return out;
}

const slices: Slice[] = (["half", "interleaved"] as const).flatMap((pairing) =>
  [
    [64, 64, 0],
    [10, 10, 0],
    [2, 2, 0],
    [24, 8, 0],
    [23, 14, 5],
    [40, 24, 16],
    [13, 6, 7],
  ].map(([headDim, rotaryDim, rotaryOffset]) => ({ headDim, rotaryDim, rotaryOffset, pairing })),
);

describe.each(MODES)("rotate, %o", ({ relaxed }) => {
  const [tokens, heads] = [5, 3];
  const range = [1, 4];

  test.each(slices)("$rotaryDim of $headDim dims from $rotaryOffset on, $pairing, in place", (slice) => {
    const x = randomNumbers(tokens * heads * slice.headDim, 1);
    const tables = [2, 3].map((seed) => randomNumbers((tokens * slice.rotaryDim) / 2, seed));
    const kernel = new KernelUnderTest((module) => emitRotate(module, { ...slice, heads, relaxed }));
    const at = kernel.put(x);
    kernel.call("rotate", at, at, kernel.put(tables[0]), kernel.put(tables[1]), range[0], range[1]);
    expectClose(kernel.f32(at, x.length), wanted(x, tables, heads, slice, range), BUDGET);
  });

  test.each(slices)("$rotaryDim of $headDim dims from $rotaryOffset on, $pairing, into [H, T, D]", (slice) => {
    const { headDim } = slice;
    const x = randomNumbers(tokens * heads * headDim, 1);
    const tables = [2, 3].map((seed) => randomNumbers((tokens * slice.rotaryDim) / 2, seed));
    const capacity = 7;
    const out = { tokenStride: 4 * headDim, headStride: 4 * headDim * capacity };
    const kernel = new KernelUnderTest((module) => emitRotate(module, { ...slice, heads, relaxed, out }));
    const outAt = kernel.put(new Float32Array(heads * capacity * headDim).fill(7));
    const xAt = kernel.put(x);
    kernel.call("rotate", outAt, xAt, kernel.put(tables[0]), kernel.put(tables[1]), range[0], range[1]);
    expect(kernel.f32(xAt, x.length)).toEqual(x);
    const rotated = wanted(x, tables, heads, slice, range);
    const want = new Float64Array(heads * capacity * headDim).fill(7);
    for (let t = range[0]; t < range[1]; t++) {
      for (let h = 0; h < heads; h++) {
        const from = (t * heads + h) * headDim;
        want.set(rotated.subarray(from, from + headDim), (h * capacity + t) * headDim);
      }
    }
    expectClose(kernel.f32(outAt, want.length), want, BUDGET);
  });

  test.each(slices)("$rotaryDim of $headDim dims from $rotaryOffset on, $pairing, of [H, T, D]", (slice) => {
    const { headDim } = slice;
    const x = randomNumbers(heads * tokens * headDim, 1);
    const tables = [2, 3].map((seed) => randomNumbers((tokens * slice.rotaryDim) / 2, seed));
    const layout = { tokenStride: 4 * headDim, headStride: 4 * headDim * tokens };
    const kernel = new KernelUnderTest((module) => emitRotate(module, { ...slice, heads, relaxed, x: layout }));
    const at = kernel.put(x);
    kernel.call("rotate", at, at, kernel.put(tables[0]), kernel.put(tables[1]), range[0], range[1]);
    const size = tokens * headDim;
    const want = Array.from({ length: heads }, (_, h) => [
      ...wanted(x.subarray(h * size, (h + 1) * size), tables, 1, slice, range),
    ]);
    expectClose(kernel.f32(at, x.length), want.flat(), BUDGET);
  });
});

test("the listing of one head is one loop", () => {
  const dims = { heads: 1, headDim: 8, rotaryDim: 8, rotaryOffset: 0 } as const;
  expect(listingOf((module) => emitRotate(module, { ...dims, pairing: "half", relaxed: true }))).toMatchInlineSnapshot(`
    "rotate(out: i32, x: i32, cos: i32, sin: i32, from: i32, to: i32)
      token = from
      if i32.lt_s(token, to)
        loop
          head = 0
          if i32.lt_s(head, 1)
            loop
              xAt = i32.add(x, i32.add(i32.mul(token, 32), i32.mul(head, 32)))
              outAt = i32.add(out, i32.add(i32.mul(token, 32), i32.mul(head, 32)))
              cosAt = i32.add(cos, i32.mul(token, 16))
              sinAt = i32.add(sin, i32.mul(token, 16))
              start = cosAt
              end = i32.add(start, 16)
              if i32.lt_u(cosAt, end)
                loop
                  c = v128.load(cosAt)
                  s = v128.load(sinAt)
                  a = v128.load(xAt)
                  b = v128.load(xAt + 16)
                  first = a
                  second = b
                  a = f32x4.relaxed_nmadd(second, s, f32x4.mul(first, c))
                  b = f32x4.relaxed_madd(first, s, f32x4.mul(second, c))
                  v128.store(outAt, a)
                  v128.store(outAt + 16, b)
                  cosAt = i32.add(cosAt, 16)
                  sinAt = i32.add(sinAt, 16)
                  xAt = i32.add(xAt, 16)
                  outAt = i32.add(outAt, 16)
                  branch 0 if i32.lt_u(cosAt, end)
              head = i32.add(head, 1)
              branch 0 if i32.lt_s(head, 1)
          token = i32.add(token, 1)
          branch 0 if i32.lt_s(token, to)
    "
  `);
});
