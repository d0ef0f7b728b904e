import fc from "fast-check";
import { expect, it } from "vitest";
import { bf16RowToF32, bf16ToNumber, f16RowToF32, f16ToNumber, numberToBf16, numberToF16 } from "./dtype.ts";

it("every half-precision value survives the round trip through a number", () => {
  for (let bits = 0; bits < 0x10000; bits++) {
    const value = f16ToNumber(bits);
    if (Number.isNaN(value)) expect(Number.isNaN(f16ToNumber(numberToF16(value)))).toBe(true);
    else if (numberToF16(value) !== bits) expect.fail(`bits ${bits.toString(16)} came back otherwise`);
  }
});

it("every bfloat16 value survives the round trip through a number", () => {
  for (let bits = 0; bits < 0x10000; bits++) {
    const value = bf16ToNumber(bits);
    if (Number.isNaN(value)) expect(Number.isNaN(bf16ToNumber(numberToBf16(value)))).toBe(true);
    else if (numberToBf16(value) !== bits) expect.fail(`bits ${bits.toString(16)} came back otherwise`);
  }
});

it.each([
  [1, 0x3c00],
  [-2, 0xc000],
  [65504, 0x7bff],
  [65519.99, 0x7bff],
  [65520, 0x7c00],
  [2 ** -24, 0x0001],
  [2 ** -25, 0x0000],
  [1 / 3, 0x3555],
  [1 + 2 ** -11, 0x3c00], // a tie, to even
  [1 + 3 * 2 ** -11, 0x3c02], // a tie, to even
  [2 ** -14 - 2 ** -26, 0x0400], // rounds up into the normal numbers
  [-0, 0x8000],
])("%f has the half-precision bits %i", (value, bits) => {
  expect(numberToF16(value)).toBe(bits);
});

it("half-precision rounding picks the nearest value", () => {
  fc.assert(
    fc.property(fc.double({ min: -65504, max: 65504, noNaN: true }), (value) => {
      const bits = numberToF16(value);
      const error = Math.abs(f16ToNumber(bits) - value);
      for (const neighbour of [bits - 1, bits + 1]) {
        const other = f16ToNumber(neighbour & 0xffff);
        if (Number.isFinite(other)) expect(Math.abs(other - value)).toBeGreaterThanOrEqual(error);
      }
    }),
  );
});

it("bfloat16 rounds ties to even", () => {
  expect(numberToBf16(1 + 2 ** -8)).toBe(0x3f80);
  expect(numberToBf16(1 + 3 * 2 ** -8)).toBe(0x3f82);
});

it.each([
  ["f16", f16RowToF32, f16ToNumber],
  ["bf16", bf16RowToF32, bf16ToNumber],
] as const)("a row of %s bits holds what they are one by one", (_, convert, one) => {
  const bits = Uint16Array.from({ length: 65536 }, (_, n) => n);
  const out = new Float32Array(65537).fill(7);
  convert(out, bits);
  expect(bits.findIndex((b) => !Object.is(out[b], one(b)))).toBe(-1);
  expect(out[65536]).toBe(7);
});
