import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, listingOf, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { dequantizeKv, quantizeKv } from "../../../attention/quantize.ts";
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from "../../../dtype.ts";
import { tensor } from "../../../tensor.ts";
import { emitConvert } from "./convert.ts";
import { codeBytes, emitDequantize, emitQuantize } from "./quantize.ts";

const WIDTHS = [1, 2, 3, 4, 5, 6, 7, 8, 31, 64, 128];

describe.each([8, 4] as const)("%i bits", (bits) => {
  /** Rows of several magnitudes, one of zeros, and one full of ties and limits. */
  const numbers = (rows: number, width: number): Float32Array => {
    const x = randomNumbers(rows * width, width);
    x.forEach((v, i) => {
      const row = Math.floor(i / width);
      x[i] = row === 1 ? 0 : row === 2 ? (i % 16) - 7.5 : v * 10 ** (7 * row - 20);
    });
    return x;
  };

  test.each(WIDTHS)("codes and scales of width %i are those of quantizeKv", (width) => {
    const rows = 6;
    const x = numbers(rows, width);
    const want = quantizeKv(tensor("f32", [rows, 1, width], x), { bits });
    const kernel = new KernelUnderTest((module) => emitQuantize(module, { bits, width }));
    const bytes = codeBytes({ bits, width });
    const codes = kernel.reserve(rows * bytes);
    const scales = kernel.put(new Float32Array(rows));
    kernel.call("quantize", codes, scales, kernel.putLast(x), 0, rows);
    expect([...kernel.u8(codes, rows * bytes)]).toEqual([...new Uint8Array(want.codes.data.buffer)]);
    expect([...kernel.f32(scales, rows)]).toEqual([...want.scales.data]);
  });

  test.each(WIDTHS)("numbers of width %i come back as dequantizeKv gives them", (width) => {
    const rows = 6;
    const quantized = quantizeKv(tensor("f32", [rows, 1, width], numbers(rows, width)), { bits });
    const kernel = new KernelUnderTest((module) => emitDequantize(module, { bits, width, rowStride: 4 * (width + 1) }));
    const out = kernel.put(new Float32Array(rows * (width + 1)).fill(7));
    const codes = kernel.putLast(new Uint8Array(quantized.codes.data.buffer));
    kernel.call("dequantize", out, codes, kernel.put(quantized.scales.data), 1, 5);
    const got = kernel.f32(out, rows * (width + 1));
    const want = dequantizeKv(quantized).data;
    for (let row = 0; row < rows; row++) {
      const inside = row >= 1 && row < 5;
      const scale = inside ? quantized.scales.data[row] || 1 : 1;
      const line = (a: Float32Array, stride: number): Float32Array =>
        a.subarray(row * stride, row * stride + width).map((v) => v / scale);
      expectClose(line(got, width + 1), inside ? line(want, width) : new Float32Array(width).fill(7), 2e-7);
      expect(got[row * (width + 1) + width]).toBe(7);
    }
  });
});

describe("16-bit floats", () => {
  const types = { f16: [f16ToNumber, numberToF16], bf16: [bf16ToNumber, numberToBf16] } as const;

  test.each(["f16", "bf16"] as const)("every %s becomes the f32 it stands for", (type) => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const kernel = new KernelUnderTest((module) => emitConvert(module, { from: type, to: "f32" }));
    const out = kernel.reserve(4 * 65536);
    kernel.call("convert", out, kernel.put(bits), 0, 65536);
    expect(kernel.f32(out, 65536)).toEqual(Float32Array.from(bits, types[type][0]));
  });

  test.each(["f16", "bf16"] as const)("f32 becomes the nearest %s, of two the even one", (type) => {
    const [toNumber, toBits] = types[type];
    // All numbers of the type, what lies halfway to the next, and a little to either side.
    const x: number[] = [65519.9, 65520, -65520, 1e38, 3.4e38, -3.4e38, 1e-45, -1e-30, NaN];
    for (let i = 0; i < 65536; i += 7) {
      const value = toNumber(i);
      const next = toNumber(Math.min(i + 1, 65535));
      const middle = Math.fround((value + next) / 2);
      x.push(value, middle, middle * (1 + 2 ** -20), middle * (1 - 2 ** -20));
    }
    const source = Float32Array.from(x);
    const kernel = new KernelUnderTest((module) => emitConvert(module, { from: "f32", to: type }));
    const out = kernel.reserve(2 * source.length);
    kernel.call("convert", out, kernel.put(source), 0, source.length);
    const got = new Uint16Array(kernel.u8(out, 2 * source.length).buffer);
    const values = Float64Array.from(got, toNumber);
    expect(values).toEqual(Float64Array.from(source, (v) => toNumber(toBits(v))));
  });

  test("a range converts only its elements", () => {
    const kernel = new KernelUnderTest((module) => emitConvert(module, { from: "f32", to: "bf16" }));
    const out = kernel.put(new Uint16Array(11).fill(7));
    kernel.call("convert", out, kernel.put(new Float32Array(11).fill(1)), 2, 9);
    const got = new Uint16Array(kernel.u8(out, 22).buffer);
    expect([...got]).toEqual([7, 7, ...new Array<number>(7).fill(0x3f80), 7, 7]);
  });
});

describe("the listing", () => {
  test("of dequantize, 8 bits", () => {
    expect(listingOf((module) => emitDequantize(module, { bits: 8, width: 4 }))).toMatchInlineSnapshot(`
      "dequantize(out: i32, codes: i32, scales: i32, from: i32, to: i32)
        row = from
        if i32.lt_s(row, to)
          loop
            outAt = i32.add(out, i32.mul(row, 16))
            codesAt = i32.add(codes, i32.mul(row, 4))
            factor = f32x4.splat(f32.div(f32.load(i32.add(scales, i32.shl(row, 2))), f32.const[127.5]()))
            start = outAt
            end = i32.add(start, 16)
            if i32.lt_u(outAt, end)
              loop
                v128.store(outAt, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(v128.load32_zero(codesAt)))), factor))
                outAt = i32.add(outAt, 16)
                codesAt = i32.add(codesAt, 4)
                branch 0 if i32.lt_u(outAt, end)
            row = i32.add(row, 1)
            branch 0 if i32.lt_s(row, to)
      "
    `);
  });

  test("of a conversion", () => {
    const text = listingOf((module) => emitConvert(module, { from: "bf16", to: "f32" }));
    expect(text.slice(0, text.indexOf("branch"))).toMatchInlineSnapshot(`
      "convert(out: i32, x: i32, from: i32, to: i32)
        out = i32.add(out, i32.mul(from, 4))
        x = i32.add(x, i32.mul(from, 2))
        start = out
        end = i32.add(start, i32.mul(i32.and(i32.sub(to, from), -4), 4))
        if i32.lt_u(out, end)
          loop
            value = v128.load16x4_u(x)
            v128.store(out, i32x4.shl(value, 16))
            out = i32.add(out, 16)
            x = i32.add(x, 8)
            "
    `);
  });
});
