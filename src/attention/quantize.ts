/**
 * Keys and values in 8 or 4 bits, with one scale for each group of numbers:
 *
 *     scale = max |x|        code = saturate(rint(x · limit / scale))        x ≈ code · scale / limit
 *
 * | bits  | codes            | limit | largest error                                     |
 * |-------|------------------|-------|---------------------------------------------------|
 * | 8     | −128..127        | 127.5 | scale / 255                                       |
 * | 4     | −8..7            | 7.5   | scale / 15                                        |
 * | "fp8" | e4m3fn bytes     | 448   | \|x\| / 16, or scale / (448 · 1024) where larger  |
 *
 * plus the rounding of the result to f32. A group of zeros has scale 0 and codes 0.
 *
 * @see https://github.com/AI-Hypercomputer/maxtext MaxText's KVQuant
 */

import { allocate, roundHalfToEven } from "../dtype.ts";
import { ConfigError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor, toF32 } from "../tensor.ts";
import { FLOAT8_MAX, float8ToNumber, numberToFloat8 } from "./float8.ts";

/** Element type of quantised numbers: integers of 8 or 4 bits, or the 8-bit float e4m3fn. */
export type QuantizedBits = 8 | 4 | "fp8";

/** What shares a scale: the numbers of one head of one token (`dkv`), or of all heads of one token. */
export type ScaleAxis = "dkv" | "heads_and_dkv";

/** Keys or values in few bits. */
export type QuantizedKv = {
  readonly bits: QuantizedBits;
  readonly axis: ScaleAxis;
  /** [..., Hk, D], the shape of the numbers. */
  readonly shape: readonly number[];
  /**
   * i8 [..., Hk, D] for 8 bits; u8 [..., Hk, D] for fp8; u8 [..., Hk, ceil(D / 2)] for 4 bits: element 2n of a head
   * in the low half of byte n, element 2n + 1 in the high half, both in two's complement.
   */
  readonly codes: Tensor<"i8" | "u8">;
  /** f32 [..., Hk, 1] for `dkv`, [..., 1, 1] for `heads_and_dkv`: largest magnitude of the group. */
  readonly scales: Tensor<"f32">;
};

/** Code −8 of 4 bits stands for −8/7.5 · scale, which must stay within f32. */
const LARGEST = 3e38;

/** The number of a code times scale / limit is the value. */
export function quantizationLimit(bits: QuantizedBits): number {
  return bits === "fp8" ? FLOAT8_MAX : bits === 8 ? 127.5 : 7.5;
}

/**
 * Quantises keys or values.
 *
 * @param x - [..., Hk, D]; f32, f64, f16 or bf16, taken as f32; at most 3e38 in magnitude
 * @param options - `bits`: 8, 4 or "fp8"; `axis`: what shares a scale, default `dkv`
 * @throws ShapeError when x has fewer than two axes or is not of a float type
 * @throws ConfigError when an option is unknown or a value is too large or not a number
 */
export function quantizeKv(x: Tensor, options: { bits: QuantizedBits; axis?: ScaleAxis }): QuantizedKv {
  const { bits, axis = "dkv" } = options;
  if (bits !== 8 && bits !== 4 && bits !== "fp8") {
    throw new ConfigError("quantizeKv", 'bits must be 8, 4 or "fp8"', { bits });
  }
  if (axis !== "dkv" && axis !== "heads_and_dkv") {
    throw new ConfigError("quantizeKv", 'axis must be "dkv" or "heads_and_dkv"', { axis });
  }
  if (x.shape.length < 2) throw new ShapeError("quantizeKv", "x must be [..., Hk, D]", { shape: x.shape });
  const values = toF32(x);
  const { codes: codesShape, scales: scalesShape, group } = quantizedShapes(x.shape, bits, axis);
  const scales = new Float32Array(sizeOf(scalesShape));
  const codes = allocate(bits === 8 ? "i8" : "u8", sizeOf(codesShape));
  const limit = quantizationLimit(bits);
  const depth = x.shape.at(-1) as number;

  for (let g = 0; g < scales.length; g++) {
    let scale = 0;
    for (let at = g * group; at < (g + 1) * group; at++) {
      if (!(Math.abs(values[at]) <= LARGEST)) {
        throw new ConfigError("quantizeKv", `values must be at most ${LARGEST} in magnitude`, {
          index: at,
          value: values[at],
        });
      }
      scale = Math.max(scale, Math.abs(values[at]));
    }
    scales[g] = scale;
    if (scale === 0) continue;
    for (let at = g * group; at < (g + 1) * group; at++) {
      const scaled = (values[at] * limit) / scale;
      if (bits === "fp8") codes[at] = numberToFloat8(scaled);
      else if (bits === 8) codes[at] = Math.min(127, Math.max(-128, roundHalfToEven(scaled)));
      else {
        const code = Math.min(7, Math.max(-8, roundHalfToEven(scaled)));
        const element = at % depth;
        const byte = Math.floor(at / depth) * Math.ceil(depth / 2) + (element >> 1);
        codes[byte] |= (code & 0xf) << (element % 2 === 0 ? 0 : 4);
      }
    }
  }
  return {
    bits,
    axis,
    shape: [...x.shape],
    codes: (bits === 8
      ? tensor("i8", codesShape, codes as Int8Array)
      : tensor("u8", codesShape, codes as Uint8Array)) as Tensor<"i8" | "u8">,
    scales: tensor("f32", scalesShape, scales),
  };
}

/**
 * The numbers that codes stand for.
 *
 * @returns f32 [..., Hk, D]
 * @throws ShapeError when the parts of `x` do not fit together
 */
export function dequantizeKv(x: QuantizedKv): Tensor<"f32"> {
  checkQuantizedKv("dequantizeKv", x);
  const { group } = quantizedShapes(x.shape, x.bits, x.axis);
  const limit = quantizationLimit(x.bits);
  const numbers = codeNumbers(x);
  const values = new Float32Array(numbers.length);
  for (let at = 0; at < values.length; at++) {
    values[at] = (numbers[at] * x.scales.data[Math.floor(at / group)]) / limit;
  }
  return tensor("f32", x.shape, values);
}

/**
 * Integer codes, one per byte, of numbers packed two per byte.
 *
 * @param packed - u8 [..., ceil(D / 2)]
 * @param depth - D
 * @returns i8 [..., D]
 * @throws ShapeError when the last axis does not fit D
 */
export function unpackInt4(packed: Tensor<"u8">, depth: number): Tensor<"i8"> {
  const width = packed.shape.at(-1);
  if (width === undefined || width !== Math.ceil(depth / 2)) {
    throw new ShapeError("unpackInt4", "the last axis must be ceil(depth / 2)", { shape: packed.shape, depth });
  }
  const codes = new Int8Array(sizeOf(packed.shape.slice(0, -1)) * depth);
  for (let at = 0; at < codes.length; at++) {
    const element = at % depth;
    const byte = packed.data[Math.floor(at / depth) * width + (element >> 1)];
    codes[at] = (element % 2 === 0 ? byte << 28 : byte << 24) >> 28; // the half byte with its sign
  }
  return tensor("i8", [...packed.shape.slice(0, -1), depth], codes);
}

/** Refuses quantised values whose parts do not fit together. */
export function checkQuantizedKv(where: string, x: QuantizedKv): void {
  const { bits, axis, shape, codes, scales } = x;
  if (bits !== 8 && bits !== 4 && bits !== "fp8") {
    throw new ConfigError(where, 'bits must be 8, 4 or "fp8"', { bits });
  }
  if (axis !== "dkv" && axis !== "heads_and_dkv") {
    throw new ConfigError(where, 'axis must be "dkv" or "heads_and_dkv"', { axis });
  }
  if (shape.length < 2) throw new ShapeError(where, "quantised values must be [..., Hk, D]", { shape });
  const wanted = quantizedShapes(shape, bits, axis);
  const dtype = bits === 8 ? "i8" : "u8";
  const fits = (t: Tensor, want: readonly number[]): boolean =>
    t.shape.join() === want.join() && t.data.length === sizeOf(want);
  if (codes.dtype !== dtype || !fits(codes, wanted.codes)) {
    throw new ShapeError(where, `codes must be ${dtype} [${wanted.codes.join(", ")}]`, {
      dtype: codes.dtype,
      shape: codes.shape,
    });
  }
  if (!fits(scales, wanted.scales)) {
    throw new ShapeError(where, `scales must be [${wanted.scales.join(", ")}]`, { shape: scales.shape });
  }
}

/** Shapes of codes and scales, and how many numbers share a scale. */
function quantizedShapes(
  shape: readonly number[],
  bits: QuantizedBits,
  axis: ScaleAxis,
): { codes: number[]; scales: number[]; group: number } {
  const [heads, depth] = shape.slice(-2);
  const tokens = shape.slice(0, -2);
  return {
    codes: [...tokens, heads, bits === 4 ? Math.ceil(depth / 2) : depth],
    scales: axis === "dkv" ? [...tokens, heads, 1] : [...tokens, 1, 1],
    group: axis === "dkv" ? depth : heads * depth,
  };
}

/** The number of every code, one per element. */
function codeNumbers({ bits, shape, codes }: QuantizedKv): ArrayLike<number> {
  if (bits === 8) return codes.data;
  if (bits === "fp8") return Float64Array.from(codes.data, float8ToNumber);
  return unpackInt4(codes as Tensor<"u8">, shape.at(-1) as number).data;
}
