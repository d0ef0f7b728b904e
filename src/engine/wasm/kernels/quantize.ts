/**
 * Rows of f32 numbers as 8- or 4-bit codes with a scale each, and back:
 *
 *     scale = max |x|        code = saturate(rint(x · limit / scale))        x ≈ code · scale / limit
 *
 * with limit 127.5 or 7.5. Codes are computed in f64, so that they are those of `quantizeKv` of src/attention bit
 * for bit. Of 4-bit codes, element 2n is the low half of byte n and element 2n + 1 the high half.
 */

import {
  apply,
  type Expression,
  f32,
  f32x4,
  f64x2,
  i32,
  i32x4,
  narrow,
  type V128,
  v128,
} from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop, loadFirst } from "./row-loop.ts";

/** What the generated code is specialised for. */
export type QuantizeSpec = {
  /** Export name; that of the operation unless told. */
  readonly name?: string;
  readonly bits: 8 | 4;
  /** C, numbers that share a scale; any. */
  readonly width: number;
  /** Bytes between the rows of numbers; 4·C unless told. */
  readonly rowStride?: number;
  /** Bytes between the rows of codes; `codeBytes` unless told. */
  readonly codeStride?: number;
};

/** Bytes of the codes of a row. */
export function codeBytes({ bits, width }: Pick<QuantizeSpec, "bits" | "width">): number {
  return bits === 8 ? width : Math.ceil(width / 2);
}

function limitOf(bits: 8 | 4): number {
  return bits === 8 ? 127.5 : 7.5;
}

/**
 * Adds `quantize(codes, scales, x, from, to)` to a module: rows [from, to) of x f32 [T, C] as codes
 * [T][codeStride] and scales f32 [T]. Numbers must be finite and at most 3e38.
 */
export function emitQuantize(module: ModuleBuilder, spec: QuantizeSpec): FunctionHandle {
  const { bits, width, rowStride = 4 * width, codeStride = codeBytes(spec) } = spec;
  return module.function(spec.name ?? "quantize", (f) => {
    const codes = f.parameter("codes", "i32");
    const scales = f.parameter("scales", "i32");
    const x = f.parameter("x", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const row = f.local("row", "i32");
    const xAt = f.local("xAt", "i32");
    const codesAt = f.local("codesAt", "i32");
    const four = f.local("four", "v128");
    const high = f.local("high", "v128");
    const max = f.local("max", "v128");
    const divisor = f.local("divisor", "v128");
    const scale = f.local("scale", "f32");
    const rest = width % 4;

    /** Two codes as i32 from the two lower numbers. */
    const half = (pair: V128): V128 => {
      const scaled = f64x2.div(f64x2.mul(f64x2.promoteLowF32(pair), f64x2.splat(limitOf(bits))), divisor);
      return f64x2.truncSatI32(f64x2.nearest(scaled));
    };
    /** four = the codes of the four numbers in it. */
    const encode = (): void => {
      f.set(high, half(f32x4.shuffle(four, four, 2, 3, 2, 3)));
      f.set(four, f32x4.shuffle(half(four), high, 0, 1, 4, 5));
    };
    f.for(row, from, to, 1, () => {
      f.set(xAt, i32.add(x, i32.mul(row, rowStride)));
      f.set(codesAt, i32.add(codes, i32.mul(row, codeStride)));
      f.set(max, f32x4.const(0));
      emitRowLoop(
        f,
        { pointers: [[xAt, 4]], count: width - rest },
        () => f.set(max, f32x4.pmax(max, f32x4.abs(v128.load(xAt)))),
        () => {},
      );
      if (rest > 0) f.set(max, f32x4.pmax(max, f32x4.abs(loadFirst(xAt, rest))));
      f.set(max, f32x4.pmax(max, f32x4.shuffle(max, max, 2, 3, 0, 1)));
      f.set(scale, f32.max(f32x4.lane(max, 0), f32x4.lane(max, 1)));
      f.store("f32.store", i32.add(scales, i32.shl(row, 2)), scale);
      // Where all are 0, any divisor gives codes of 0.
      f.if(f32.eq(scale, 0), () => f.set(scale, 1));
      f.set(divisor, f64x2.splat(apply<"f64">("f64.promote_f32", [scale])));
      f.set(xAt, i32.add(x, i32.mul(row, rowStride)));
      emitRowLoop(
        f,
        {
          pointers: [
            [xAt, 4],
            [codesAt, bits / 8],
          ],
          count: width - rest,
        },
        () => {
          f.set(four, v128.load(xAt));
          encode();
          storeCodes(f, bits, codesAt, four);
        },
        () => {},
      );
      if (rest > 0) {
        f.set(four, loadFirst(xAt, rest));
        encode();
        storeFirstCodes(f, bits, codesAt, four, rest);
      }
    });
  });
}

/** Four codes in four i32 lanes to four bytes, saturated. */
function asBytes(four: V128): V128 {
  const words = narrow.i32ToI16(four, four);
  return narrow.i16ToI8(words, words);
}

/** Four codes as the lower 16 bits of a number. */
function asHalfBytes(four: Local<"v128">): Expression<"i32"> {
  const halves = [0, 1, 2, 3].map((lane) => i32.shl(i32.and(i32x4.lane(four, lane), 15), 4 * lane));
  return i32.or(i32.or(halves[0], halves[1]), i32.or(halves[2], halves[3]));
}

function storeCodes(f: FunctionBuilder, bits: 8 | 4, address: Local<"i32">, four: Local<"v128">): void {
  if (bits === 8) {
    f.store("i32.store", address, i32x4.lane(asBytes(four), 0));
  } else {
    f.set(four, i32x4.minS(four, i32x4.const(7))); // −7.5 rounds to −8, which fits
    f.store("i32.store16", address, asHalfBytes(four));
  }
}

function storeFirstCodes(
  f: FunctionBuilder,
  bits: 8 | 4,
  address: Local<"i32">,
  four: Local<"v128">,
  count: number,
): void {
  if (bits === 8) {
    f.set(four, asBytes(four));
    for (let i = 0; i < count; i++) f.store("i32.store8", address, i32.shrU(i32x4.lane(four, 0), 8 * i), i);
  } else {
    f.set(four, i32x4.minS(four, i32x4.const(7)));
    f.store(count === 3 ? "i32.store16" : "i32.store8", address, asHalfBytes(four));
  }
}

/**
 * Adds `dequantize(out, codes, scales, from, to)` to a module: rows [from, to) of out f32 [T, C]. The quotient
 * scale / limit and the product with the code are each rounded to f32.
 */
export function emitDequantize(module: ModuleBuilder, spec: QuantizeSpec): FunctionHandle {
  const { bits, width, rowStride = 4 * width, codeStride = codeBytes(spec) } = spec;
  return module.function(spec.name ?? "dequantize", (f) => {
    const out = f.parameter("out", "i32");
    const codes = f.parameter("codes", "i32");
    const scales = f.parameter("scales", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const row = f.local("row", "i32");
    const outAt = f.local("outAt", "i32");
    const codesAt = f.local("codesAt", "i32");
    const factor = f.local("factor", "v128");
    const four = f.local("four", "v128");
    const rest = width % 4;
    f.for(row, from, to, 1, () => {
      f.set(outAt, i32.add(out, i32.mul(row, rowStride)));
      f.set(codesAt, i32.add(codes, i32.mul(row, codeStride)));
      f.set(factor, f32x4.splat(f32.div(f32.load(i32.add(scales, i32.shl(row, 2))), limitOf(bits))));
      emitRowLoop(
        f,
        {
          pointers: [
            [outAt, 4],
            [codesAt, bits / 8],
          ],
          count: width - rest,
        },
        () => f.storeVector(outAt, f32x4.mul(f32x4.convertI32(loadCodes(bits, codesAt)), factor)),
        () => {},
      );
      if (rest === 0) return;
      f.set(four, f32x4.mul(f32x4.convertI32(loadFirstCodes(bits, codesAt, rest)), factor));
      for (let i = 0; i < rest; i++) f.store("f32.store", outAt, f32x4.lane(four, i), 4 * i);
    });
  });
}

/** Multiplied by these, half byte n of a number moves to its top. */
const TO_TOP = v128.words(1 << 28, 1 << 24, 1 << 20, 1 << 16);

/** Four codes, as i32. */
export function loadCodes(bits: 8 | 4, address: Local<"i32">): V128 {
  if (bits === 4) return i32x4.shrS(i32x4.mul(i32x4.splat(i32.load16u(address)), TO_TOP), 28);
  return i32x4.extendLowI16S(apply("i16x8.extend_low_i8x16_s", [v128.load32Zero(address)]));
}

/** The first 1 to 3 codes at an address, as i32; other lanes are undefined. Reads nothing behind them. */
export function loadFirstCodes(bits: 8 | 4, address: Local<"i32">, count: number): V128 {
  if (bits === 4) {
    const bytes = count === 3 ? i32.load16u(address) : i32.load8u(address);
    return i32x4.shrS(i32x4.mul(i32x4.splat(bytes), TO_TOP), 28);
  }
  let four = i32x4.splat(i32.load8s(address));
  for (let i = 1; i < count; i++) four = i32x4.replaceLane(four, i, i32.load8s(address, i));
  return four;
}
