import { describe, expect, it } from "vitest";
import { float8ToNumber, numberToFloat8 } from "./float8.ts";

describe("float8 e4m3fn", () => {
  // Table 1 of arXiv:2209.05433.
  it.each([
    [0x00, 0],
    [0x01, 2 ** -9],
    [0x07, 7 * 2 ** -9],
    [0x08, 2 ** -6],
    [0x38, 1],
    [0x3c, 1.5],
    [0x7e, 448],
    [0xfe, -448],
  ])("byte %i is %f and back", (byte, value) => {
    expect(float8ToNumber(byte)).toBe(value);
    expect(numberToFloat8(value)).toBe(byte);
  });

  it("gives every byte back that is a number", () => {
    for (let byte = 0; byte < 256; byte++) {
      const value = float8ToNumber(byte);
      if (Number.isNaN(value)) expect(byte & 0x7f).toBe(0x7f);
      else expect(numberToFloat8(value)).toBe(byte);
    }
  });

  it("rounds halves to the even fraction", () => {
    expect(numberToFloat8(1 + 1 / 16)).toBe(0x38); // between 8/8 and 9/8
    expect(numberToFloat8(1 + 3 / 16)).toBe(0x3a); // between 9/8 and 10/8
    expect(numberToFloat8(0.5 * 2 ** -9)).toBe(0x00);
    expect(numberToFloat8(1.5 * 2 ** -9)).toBe(0x02);
  });

  it("carries into the exponent when the fraction rounds up to 2", () => {
    expect(numberToFloat8(1.99)).toBe(0x40);
    expect(numberToFloat8(7.9 * 2 ** -9)).toBe(0x08);
  });

  it("saturates beyond 448 and keeps NaN and the sign of zero", () => {
    expect(numberToFloat8(1e9)).toBe(0x7e);
    expect(numberToFloat8(-Infinity)).toBe(0xfe);
    expect(numberToFloat8(NaN)).toBe(0x7f);
    expect(numberToFloat8(-0)).toBe(0x80);
  });
});
