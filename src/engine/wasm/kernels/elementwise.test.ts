import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { randomWeight } from "../../../../test/support/quantized-weights.ts";
import { F32_STORED } from "../../../../test/support/tolerances.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import type { Activation } from "../../backend.ts";
import { emitAdd, emitCopy, emitGate, emitScaleRows } from "./elementwise.ts";
import { emitEmbed } from "./embed.ts";

/** erf(x) = 2/√π · exp(−x²) · Σ 2^n·x^(2n+1) / (1·3·…·(2n+1)), whose terms have one sign. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let sum = 0;
  let term = x;
  for (let n = 0; n < 300; n++) {
    sum += term;
    term *= (2 * x * x) / (2 * n + 3);
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const ACTIVATIONS: Record<Activation, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

const LENGTHS = [0, 1, 3, 4, 5, 8, 19, 64, 131];

describe("elementwise", () => {
  test.each(LENGTHS)("add of %i elements, from the third on, in place and not", (length) => {
    const [a, b] = [randomNumbers(length + 3, 1), randomNumbers(length + 3, 2)];
    const kernel = new KernelUnderTest((module) => emitAdd(module));
    const out = kernel.put(new Float32Array(length + 3).fill(7));
    const [aAt, bAt] = [kernel.put(a), kernel.put(b)];
    kernel.call("add", out, aAt, bAt, 2, length + 2);
    const sums = Array.from({ length }, (_, i) => Math.fround(a[i + 2] + b[i + 2]));
    expect([...kernel.f32(out, length + 3)]).toEqual([7, 7, ...sums, 7]);
    kernel.call("add", aAt, aAt, bAt, 2, length + 2);
    expect([...kernel.f32(aAt, length + 3)]).toEqual([a[0], a[1], ...sums, a[length + 2]]);
  });

  const cases = MODES.flatMap(({ relaxed }) =>
    (["silu", "gelu", "geluTanh"] as const).map((activation) => ({ relaxed, activation })),
  );
  test.each(cases)("gate follows the formula of $activation, relaxed $relaxed", ({ relaxed, activation }) => {
    const length = 203;
    const gate = Float32Array.from({ length }, (_, i) => ((i - 101) / 101) * 8);
    gate.set([-100, 100, -1e30, 1e30, 0, -1e-20], 0);
    const up = randomNumbers(length, 3);
    const kernel = new KernelUnderTest((module) => emitGate(module, { relaxed, activation }));
    const out = kernel.put(new Float32Array(length));
    kernel.call("gate", out, kernel.put(gate), kernel.put(up), 0, length);
    const want = Array.from(gate, (x, i) => ACTIVATIONS[activation](x) * up[i]);
    expectClose(kernel.f32(out, length), want, 1e-6);
  });

  test.each([1, 3, 4, 7, 64])("scaleRows of width %i", (width) => {
    const x = randomNumbers(5 * width, 1);
    const scales = randomNumbers(5, 2);
    const kernel = new KernelUnderTest((module) => emitScaleRows(module, { width }));
    const at = kernel.put(x);
    kernel.call("scaleRows", at, kernel.put(scales), 1, 4);
    const want = Array.from(x, (v, i) => {
      const row = Math.floor(i / width);
      return row >= 1 && row < 4 ? Math.fround(v * scales[row]) : v;
    });
    expect([...kernel.f32(at, x.length)]).toEqual(want);
  });

  test("copy takes any number of bytes", () => {
    const kernel = new KernelUnderTest((module) => emitCopy(module));
    const source = Uint8Array.from({ length: 37 }, (_, i) => i);
    const out = kernel.put(new Uint8Array(37));
    kernel.call("copy", out, kernel.put(source), 33);
    expect([...kernel.u8(out, 37)]).toEqual([...source.subarray(0, 33), 0, 0, 0, 0]);
  });
});

describe("embed", () => {
  test.each(["f32", "f16", "bf16", "int8", "q8_0", "q4_0"] as const)("takes rows of a %s table", (weightType) => {
    const blocked = weightType === "q8_0" || weightType === "q4_0";
    for (const width of blocked ? [32, 96] : [1, 5, 16, 37, 64]) {
      const table = randomWeight(weightType, 7, width, 5);
      const ids = Int32Array.of(3, 0, 6, 6, 1);
      const outStride = 4 * (width + 1);
      const kernel = new KernelUnderTest((module) => emitEmbed(module, { width, outStride, weightType }));
      const out = kernel.put(new Float32Array(5 * (width + 1)).fill(7));
      const scales = kernel.put(table.scales);
      kernel.call("embed", out, kernel.putLast(table.bytes), scales, kernel.put(ids), 1, 4);
      const seven = new Array<number>(width).fill(7);
      const rows = [...ids].map((id, t) =>
        t >= 1 && t < 4 ? table.numbers.subarray(id * width, (id + 1) * width) : seven,
      );
      expectClose(
        kernel.f32(out, 5 * (width + 1)),
        rows.flatMap((row) => [...row, 7]),
        F32_STORED,
      );
    }
  });
});

test("embed takes rows of an interleaved f32 table", () => {
  const [rows, width] = [8, 24];
  const numbers = randomNumbers(rows * width, 3);
  // Row n, column k lies in group n / 4, piece k / 4.
  const table = new Float32Array(rows * width);
  for (let n = 0; n < rows; n++) {
    for (let k = 0; k < width; k++) {
      const [group, piece] = [Math.floor(n / 4), Math.floor(k / 4)];
      table[group * 4 * width + piece * 16 + (n % 4) * 4 + (k % 4)] = numbers[n * width + k];
    }
  }
  const kernel = new KernelUnderTest((module) => emitEmbed(module, { width, weightType: "f32", interleaved: true }));
  const out = kernel.put(new Float32Array(3 * width));
  kernel.call("embed", out, kernel.putLast(new Uint8Array(table.buffer)), 0, kernel.put(Int32Array.of(7, 0, 2)), 0, 3);
  const want = [7, 0, 2].flatMap((id) => [...numbers.subarray(id * width, (id + 1) * width)]);
  expect([...kernel.f32(out, 3 * width)]).toEqual(want);
});

describe("the listing", () => {
  test("of scaleRows", () => {
    expect(listingOf((module) => emitScaleRows(module, { width: 4 }))).toMatchInlineSnapshot(`
      "scaleRows(x: i32, scales: i32, from: i32, to: i32)
        row = from
        if i32.lt_s(row, to)
          loop
            at = i32.add(x, i32.mul(row, 16))
            scale = v128.load32_splat(i32.add(scales, i32.shl(row, 2)))
            start = at
            end = i32.add(start, 16)
            if i32.lt_u(at, end)
              loop
                v128.store(at, f32x4.mul(v128.load(at), scale))
                at = i32.add(at, 16)
                branch 0 if i32.lt_u(at, end)
            row = i32.add(row, 1)
            branch 0 if i32.lt_s(row, to)
      "
    `);
  });

  test("of a gate", () => {
    const spec = { activation: "silu", relaxed: true } as const;
    const text = listingOf((module) => emitGate(module, spec));
    expect(text.slice(0, text.indexOf("branch"))).toMatchInlineSnapshot(`
      "gate(out: i32, a: i32, b: i32, from: i32, to: i32)
        88 = f32x4.splat(f32.const[88]())
        -88.3 = f32x4.splat(f32.const[-88.3]())
        1.4426950408889634 = f32x4.splat(f32.const[1.4426950408889634]())
        12582912 = f32x4.splat(f32.const[12582912]())
        1 = f32x4.splat(f32.const[1]())
        -87.3 = f32x4.splat(f32.const[-87.3]())
        -0.693359375 = f32x4.splat(f32.const[-0.693359375]())
        0.00021219444005471377 = f32x4.splat(f32.const[0.00021219444005471377]())
        0.001388888888888889 = f32x4.splat(f32.const[0.001388888888888889]())
        0.008333333333333333 = f32x4.splat(f32.const[0.008333333333333333]())
        0.041666666666666664 = f32x4.splat(f32.const[0.041666666666666664]())
        0.16666666666666666 = f32x4.splat(f32.const[0.16666666666666666]())
        0.5 = f32x4.splat(f32.const[0.5]())
        out = i32.add(out, i32.shl(from, 2))
        a = i32.add(a, i32.shl(from, 2))
        b = i32.add(b, i32.shl(from, 2))
        start = out
        end = i32.add(start, i32.mul(i32.and(i32.sub(to, from), -4), 4))
        if i32.lt_u(out, end)
          loop
            x = v128.load(a)
            work1 = f32x4.pmax(f32x4.pmin(f32x4.neg(x), 88), -88.3)
            work2 = f32x4.relaxed_madd(work1, 1.4426950408889634, 12582912)
            work0 = i32x4.add(i32x4.shl(work2, 23), 1)
            work2 = f32x4.sub(work2, 12582912)
            work0 = v128.and(f32x4.ge(work1, -87.3), work0)
            work1 = f32x4.relaxed_madd(work2, -0.693359375, work1)
            work1 = f32x4.relaxed_madd(work2, 0.00021219444005471377, work1)
            work2 = f32x4.relaxed_madd(f32x4.mul(work1, work1), f32x4.relaxed_madd(f32x4.relaxed_madd(f32x4.relaxed_madd(f32x4.relaxed_madd(0.001388888888888889, work1, 0.008333333333333333), work1, 0.041666666666666664), work1, 0.16666666666666666), work1, 0.5), work1)
            work0 = f32x4.relaxed_madd(work2, work0, work0)
            work0 = f32x4.div(1, f32x4.add(work0, 1))
            v128.store(out, f32x4.mul(f32x4.mul(x, work0), v128.load(b)))
            out = i32.add(out, 16)
            a = i32.add(a, 16)
            b = i32.add(b, 16)
            "
    `);
  });

  test("of embed", () => {
    expect(listingOf((module) => emitEmbed(module, { width: 16, weightType: "bf16" }))).toMatchInlineSnapshot(`
      "embed(out: i32, table: i32, scales: i32, ids: i32, from: i32, to: i32)
        row = from
        if i32.lt_s(row, to)
          loop
            id = i32.load(i32.add(ids, i32.shl(row, 2)))
            target = i32.add(out, i32.mul(row, 64))
            source = i32.add(table, i32.mul(id, 32))
            end = i32.add(target, i32.shl(i32.and(16, -16), 2))
            if i32.lt_u(target, end)
              loop
                bits = v128.load(source)
                v128.store(target, i8x16.shuffle[0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23](zero, bits))
                v128.store(target + 16, i8x16.shuffle[8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31](zero, bits))
                bits = v128.load(source + 16)
                v128.store(target + 32, i8x16.shuffle[0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23](zero, bits))
                v128.store(target + 48, i8x16.shuffle[8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31](zero, bits))
                source = i32.add(source, 32)
                target = i32.add(target, 64)
                branch 0 if i32.lt_u(target, end)
            row = i32.add(row, 1)
            branch 0 if i32.lt_s(row, to)
      "
    `);
  });
});
