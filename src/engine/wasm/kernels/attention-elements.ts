/**
 * Element types of keys and values, and how kernels read four of them as f32.
 *
 * | type         | a row of D elements                                                                     |
 * |--------------|-----------------------------------------------------------------------------------------|
 * | f32          | D numbers                                                                               |
 * | f16, bf16    | D numbers of 16 bits                                                                    |
 * | int8, fp8    | D bytes, two's complement or e4m3fn; number = code · scale / 127.5, or / 448            |
 * | int4         | ceil(D / 2) bytes, the even element in the low half; number = code · scale / 7.5        |
 */

import { apply, type Expression, f32x4, i32, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { fromF16 } from "./convert.ts";
import { loadCodes, loadFirstCodes } from "./quantize.ts";

/** Element type of keys or values. */
export type KvType = "f32" | "f16" | "bf16" | "int8" | "int4" | "fp8";

const BYTES: Readonly<Record<KvType, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1, int4: 0.5, fp8: 1 };

/** Bytes of an element; a half for int4. */
export function elementBytes(type: KvType): number {
  return BYTES[type];
}

/** Bytes of a row of one head. */
export function rowBytes(type: KvType, width: number): number {
  return Math.ceil(width * BYTES[type]);
}

/** What a code times scale is divided by; undefined for types without scales. */
export const KV_LIMITS: Readonly<Partial<Record<KvType, number>>> = { int8: 127.5, int4: 7.5, fp8: 448 };

/**
 * Four elements as f32, before any scale.
 *
 * @param value - overwritten; what is returned may read it
 * @param work - overwritten
 */
export function emitLoadFour(
  f: FunctionBuilder,
  type: KvType,
  address: Local<"i32">,
  value: Local<"v128">,
  work: Local<"v128">,
): V128 {
  switch (type) {
    case "f32":
      return v128.load(address);
    case "f16":
    case "bf16":
      return emitFromBits(f, type, v128.load16x4U(address), value, work);
    case "int8":
      return f32x4.convertI32(loadCodes(8, address));
    case "int4":
      return f32x4.convertI32(loadCodes(4, address));
    case "fp8":
      return emitFromBits(f, type, extendBytes(v128.load32Zero(address)), value, work);
  }
}

/** As `emitLoadFour` for the first 1 to 3 elements at an address; reads nothing behind them. */
export function emitLoadFirst(
  f: FunctionBuilder,
  type: KvType,
  address: Local<"i32">,
  count: number,
  value: Local<"v128">,
  work: Local<"v128">,
): V128 {
  const lanes = (load: (offset: number) => Expression<"i32">, bytes: number): V128 => {
    let four = i32x4.splat(load(0));
    for (let n = 1; n < count; n++) four = i32x4.replaceLane(four, n, load(n * bytes));
    return four;
  };
  switch (type) {
    case "f32":
      return lanes((offset) => i32.load(address, offset), 4);
    case "f16":
    case "bf16":
      return emitFromBits(
        f,
        type,
        lanes((offset) => i32.load16u(address, offset), 2),
        value,
        work,
      );
    case "int8":
      return f32x4.convertI32(loadFirstCodes(8, address, count));
    case "int4":
      return f32x4.convertI32(loadFirstCodes(4, address, count));
    case "fp8":
      return emitFromBits(
        f,
        type,
        lanes((offset) => i32.load8u(address, offset), 1),
        value,
        work,
      );
  }
}

/** Four bytes as i32. */
function extendBytes(bytes: V128): V128 {
  return i32x4.extendLowI16U(apply("i16x8.extend_low_i8x16_u", [bytes]));
}

function emitFromBits(
  f: FunctionBuilder,
  type: "f16" | "bf16" | "fp8",
  bits: V128,
  value: Local<"v128">,
  work: Local<"v128">,
): V128 {
  if (type === "bf16") return i32x4.shl(bits, 16);
  f.set(value, bits);
  return type === "f16" ? fromF16(f, value, work) : fromFloat8(f, value, work);
}

/** The exponent's bias changes from 7 to 127 by a multiplication, which is exact for subnormals too. */
function fromFloat8(f: FunctionBuilder, value: Local<"v128">, work: Local<"v128">): V128 {
  f.set(work, v128.and(value, i32x4.const(0x7f)));
  const notANumber = v128.and(i32x4.eq(work, i32x4.const(0x7f)), i32x4.const(0x7fc00000));
  const sign = i32x4.shl(v128.and(value, i32x4.const(0x80)), 24);
  f.set(value, v128.or(sign, notANumber));
  return v128.or(f32x4.mul(i32x4.shl(work, 20), f32x4.const(2 ** 120)), value);
}
