import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { f32, type Tensor, tensor } from "../tensor.ts";
import { dequantizeKv, type QuantizedBits, quantizeKv, type ScaleAxis, unpackInt4 } from "./quantize.ts";

describe("quantizeKv", () => {
  it("rounds halves to even and saturates at +max in 8 bits", () => {
    // scale 127.5, so that codes are the rounded values themselves.
    const x = f32([1, 6], [127.5, -127.5, 0.5, 1.5, -2.5, 3.4]);
    const { codes, scales } = quantizeKv(x, { bits: 8 });
    expect(Array.from(codes.data)).toEqual([127, -128, 0, 2, -2, 3]);
    expect(Array.from(scales.data)).toEqual([127.5]);
  });

  it("packs 4-bit codes two per byte, the first in the low half, and unpacks them", () => {
    const x = f32([1, 5], [7.5, -7.5, 2.5, -1, 3]);
    const { codes } = quantizeKv(x, { bits: 4 });
    // codes 7, −8, 2, −1, 3
    expect(codes.shape).toEqual([1, 3]);
    expect(Array.from(codes.data)).toEqual([0x87, 0xf2, 0x03]);
    expect(Array.from(unpackInt4(codes as Tensor<"u8">, 5).data)).toEqual([7, -8, 2, -1, 3]);
  });

  it("keeps heads of odd depth on their own bytes", () => {
    const { codes } = quantizeKv(f32([2, 3], [7.5, 1, 2, -7.5, 3, 4]), { bits: 4 });
    expect(codes.shape).toEqual([2, 2]);
    expect(Array.from(codes.data)).toEqual([0x17, 0x02, 0x38, 0x04]);
  });

  it("stores fp8 bytes of x·448/scale", () => {
    const { codes } = quantizeKv(f32([1, 3], [2, -1, 0]), { bits: "fp8" });
    expect(Array.from(codes.data)).toEqual([0x7e, 0xf6, 0x00]); // 448, −224, 0
  });

  it("has a scale per token and head, or per token", () => {
    const x = f32([2, 2, 2], [1, -2, 3, 0, -5, 4, 6, -7]);
    const one = quantizeKv(x, { bits: 8 });
    expect(one.scales.shape).toEqual([2, 2, 1]);
    expect(Array.from(one.scales.data)).toEqual([2, 3, 5, 7]);
    const two = quantizeKv(x, { bits: 8, axis: "heads_and_dkv" });
    expect(two.scales.shape).toEqual([2, 1, 1]);
    expect(Array.from(two.scales.data)).toEqual([3, 7]);
  });

  it("gives zeros for groups of zeros", () => {
    for (const bits of [8, 4, "fp8"] as const) {
      const quantized = quantizeKv(f32([2, 3], [0, 0, 0, 1, 0, -1]), { bits });
      expect(quantized.scales.data[0]).toBe(0);
      expect(Array.from(dequantizeKv(quantized).data.subarray(0, 3))).toEqual([0, 0, 0]);
    }
  });

  it("takes half-precision input", () => {
    const half = tensor("f16", [1, 2], Uint16Array.of(0x3c00, 0xc000)); // 1, −2
    expect(Array.from(dequantizeKv(quantizeKv(half, { bits: "fp8" })).data)).toEqual([1, -2]);
  });

  it("is within the documented error for any finite input", () => {
    const bits = fc.constantFrom<QuantizedBits>(8, 4, "fp8");
    const axis = fc.constantFrom<ScaleAxis>("dkv", "heads_and_dkv");
    const within = (max: number): fc.Arbitrary<number> =>
      fc.float({ min: -Math.fround(max), max: Math.fround(max), noNaN: true });
    const number = fc.oneof(within(2.9e38), within(2), within(1e-38));
    fc.assert(
      fc.property(bits, axis, fc.array(number, { minLength: 30, maxLength: 30 }), (width, shared, numbers) => {
        const quantized = quantizeKv(f32([2, 3, 5], numbers), { bits: width, axis: shared });
        const restored = dequantizeKv(quantized).data;
        const group = shared === "dkv" ? 5 : 15;
        for (let i = 0; i < 30; i++) {
          const members = numbers.slice(i - (i % group), i - (i % group) + group);
          const scale = Math.max(...members.map(Math.abs));
          const bound =
            width === 8
              ? scale / 255
              : width === 4
                ? scale / 15
                : Math.max(Math.abs(numbers[i]) / 16, scale / (448 * 1024));
          // 2^-149: the result is stored in f32.
          expect(Math.abs(restored[i] - numbers[i])).toBeLessThanOrEqual(
            bound * (1 + 1e-9) + F32_STORED * scale + 2 ** -149,
          );
        }
      }),
      { numRuns: 200 },
    );
  });

  it("refuses what it cannot quantise", () => {
    const x = f32([1, 2], [1, 2]);
    expect(thrownBy(() => quantizeKv(x, { bits: 2 as never }))).toBe(
      'ConfigError: quantizeKv: bits must be 8, 4 or "fp8"; got bits=2.',
    );
    expect(thrownBy(() => quantizeKv(x, { bits: 8, axis: "d" as never }))).toBe(
      'ConfigError: quantizeKv: axis must be "dkv" or "heads_and_dkv"; got axis="d".',
    );
    expect(thrownBy(() => quantizeKv(f32([2], [1, 2]), { bits: 8 }))).toBe(
      "ShapeError: quantizeKv: x must be [..., Hk, D]; got shape=[2].",
    );
    expect(thrownBy(() => quantizeKv(f32([1, 2], [1, NaN]), { bits: 8 }))).toBe(
      "ConfigError: quantizeKv: values must be at most 3e+38 in magnitude; got index=1, value=NaN.",
    );
  });
});

describe("dequantizeKv", () => {
  it("refuses parts that do not fit together", () => {
    const good = quantizeKv(f32([3, 2, 5], new Float32Array(30)), { bits: 4 });
    expect(thrownBy(() => dequantizeKv({ ...good, bits: 8 }))).toBe(
      'ShapeError: dequantizeKv: codes must be i8 [3, 2, 5]; got dtype="u8", shape=[3,2,3].',
    );
    expect(thrownBy(() => dequantizeKv({ ...good, axis: "heads_and_dkv" }))).toBe(
      "ShapeError: dequantizeKv: scales must be [3, 1, 1]; got shape=[3,2,1].",
    );
    expect(thrownBy(() => dequantizeKv({ ...good, shape: [6] }))).toBe(
      "ShapeError: dequantizeKv: quantised values must be [..., Hk, D]; got shape=[6].",
    );
    expect(thrownBy(() => unpackInt4(tensor("u8", [2, 3], new Uint8Array(6)), 7))).toBe(
      "ShapeError: unpackInt4: the last axis must be ceil(depth / 2); got shape=[2,3], depth=7.",
    );
  });
});
