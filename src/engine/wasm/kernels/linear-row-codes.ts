/**
 * A linear layer of one token whose weights are codes of 8 or 4 bits: products of integers.
 *
 * The inputs become integers of 16 bits first, with a scale for every block of 32, so that 8 products take one instruction
 * and nothing is converted:
 *
 *     x[k] ≈ i[k] · s[b]      s[b] = max |x| of the block / 32767
 *     out  = Σ_b s[b] · scale[b] · Σ_k i[k] · code[k]
 *
 * An input is off by half a step of its block at most, s[b] / 2, which is far finer than the weights are; sums within a block
 * are exact. Blocks without an input above 1e-30 count as 0: the inverse of their step would leave f32.
 */

import { f32, f32x4, i16x8, i32, i32x4, narrow, shuffleBytes, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { LinearParameters, LinearSpec } from "./linear.ts";
import { emitSum, fma } from "./vector-math.ts";
import { F16_MASK, F16_SCALE, weightBytes } from "./weights.ts";

/** Inputs that share a scale. */
const BLOCK = 32;
const LARGEST = 32767;
/** The largest input of a block that counts is above this. */
const LEAST = 1e-30;

/** A block of inputs: 32 integers of 16 bits, the sums that make codes signed, the scale four times. */
const RECORD = { starts: 64, scale: 80, bytes: 96 } as const;

/** 4-bit codes are stored plus 8. */
const CODE_OFFSET = 8;

/** Whether weights of a type are multiplied as integers, for so many inputs. */
export function hasCodes({ weightType, inputs }: Pick<LinearSpec, "weightType" | "inputs">): boolean {
  return weightType === "q8_0" || weightType === "q4_0" || (weightType === "int8" && inputs % BLOCK === 0);
}

/** Bytes of scratch memory that the inputs take. */
export function codesScratchBytes({ inputs }: Pick<LinearSpec, "inputs">): number {
  return (inputs / BLOCK) * RECORD.bytes;
}

/** out[n] = x · weight[n] + bias[n] for n from `from` to `to`. */
export function emitOneTokenCodes(
  f: FunctionBuilder,
  spec: LinearSpec,
  { out, x, weight, scales, bias, from, to, scratch }: LinearParameters,
): void {
  const { inputs, weightType } = spec;
  emitInputs(f, spec, x, scratch);
  const sum = f.local("blocks", "v128");
  const dots = f.local("dots", "v128");
  const factor = f.local("factor", "v128");
  const codes = f.local("codes", "v128");
  // A constant that is splat from a scalar stays in a register; a vector constant is built anew at every use.
  const mask = f.local("halfMask", "v128", i32x4.splat(F16_MASK));
  const low = f.local("low", "v128", i32x4.splat(0x000f000f));
  const f16Scale = f.local("halfScale", "v128", f32x4.splat(F16_SCALE));
  const total = f.local("codesTotal", "f32");
  const row = f.local("codesRow", "i32");
  const weightAt = f.local("codesAt", "i32", i32.add(weight, i32.mul(from, weightBytes(weightType, inputs))));
  const inputAt = f.local("inputsAt", "i32");
  const inputEnd = f.local("inputsEnd", "i32", i32.add(scratch, codesScratchBytes(spec)));

  const input = (eight: number): V128 => v128.load(inputAt, 16 * eight);
  const emitDots = (): void => {
    if (weightType === "q4_0") {
      // Byte 2i of the codes holds code 2i and code 16 + 2i, byte 2i + 1 the ones behind them.
      f.set(codes, v128.load(weightAt, 2));
      f.set(dots, i32x4.add(v128.load(inputAt, RECORD.starts), i32x4.dotI16(v128.and(codes, low), input(0))));
      f.set(dots, i32x4.add(dots, i32x4.dotI16(v128.and(i16x8.shrU(codes, 4), low), input(1))));
      f.set(dots, i32x4.add(dots, i32x4.dotI16(v128.and(i16x8.shrU(codes, 8), low), input(2))));
      f.set(dots, i32x4.add(dots, i32x4.dotI16(i16x8.shrU(codes, 12), input(3))));
      return;
    }
    const first = weightType === "q8_0" ? 2 : 0;
    const eight = (n: number): V128 => i32x4.dotI16(v128.load8x8S(weightAt, first + 8 * n), input(n));
    f.set(dots, i32x4.add(eight(0), eight(1)));
    f.set(dots, i32x4.add(dots, i32x4.add(eight(2), eight(3))));
  };

  f.for(row, from, to, 1, () => {
    f.set(inputAt, scratch);
    f.set(sum, f32x4.const(0));
    f.doWhile(
      () => {
        emitDots();
        f.set(factor, v128.load(inputAt, RECORD.scale));
        if (weightType !== "int8") {
          const moved = v128.and(i32x4.splat(i32.shl(i32.load16s(weightAt), 13)), mask);
          f.set(factor, f32x4.mul(factor, f32x4.mul(moved, f16Scale)));
        }
        f.set(sum, fma(spec, f32x4.convertI32(dots), factor, sum));
        f.set(weightAt, i32.add(weightAt, weightBytes(weightType, BLOCK)));
        f.set(inputAt, i32.add(inputAt, RECORD.bytes));
      },
      () => i32.ltU(inputAt, inputEnd),
    );
    f.set(total, emitSum(f, sum));
    const column = (base: Local<"i32">) => i32.add(base, i32.shl(row, 2));
    if (weightType === "int8") f.set(total, f32.mul(total, f32.load(column(scales))));
    f.store("f32.store", column(out), spec.bias ? f32.add(total, f32.load(column(bias))) : total);
  });
}

/** Writes the records of all blocks of inputs. */
function emitInputs(f: FunctionBuilder, spec: LinearSpec, x: Local<"i32">, scratch: Local<"i32">): void {
  const largest = f.local("largest", "v128");
  const inverse = f.local("inverse", "v128");
  const eights = f.vectors("eight", 4);
  const at = f.local("recordAt", "i32");
  const from = f.local("blockAt", "i32", x);
  const end = f.local("recordEnd", "i32", i32.add(scratch, codesScratchBytes(spec)));
  f.set(at, scratch);
  f.doWhile(
    () => {
      // max, unlike pmax, keeps what is not a number: it becomes the scale, and every sum.
      f.set(largest, f32x4.abs(v128.load(from)));
      for (let four = 1; four < BLOCK / 4; four++) {
        f.set(largest, f32x4.max(largest, f32x4.abs(v128.load(from, 16 * four))));
      }
      f.set(largest, f32x4.max(largest, f32x4.shuffle(largest, largest, 2, 3, 0, 1)));
      f.set(largest, f32x4.max(largest, f32x4.shuffle(largest, largest, 1, 0, 3, 2)));
      f.storeVector(at, f32x4.mul(largest, f32x4.const(1 / LARGEST)), RECORD.scale);
      f.set(inverse, f32x4.div(f32x4.const(LARGEST), largest));
      f.set(inverse, v128.and(inverse, f32x4.gt(largest, f32x4.const(LEAST))));
      const four = (n: number): V128 => i32x4.truncSatF32(f32x4.nearest(f32x4.mul(v128.load(from, 16 * n), inverse)));
      for (const [n, eight] of eights.entries()) f.set(eight, narrow.i32ToI16(four(2 * n), four(2 * n + 1)));
      if (spec.weightType === "q4_0") emitOrder(f, at, eights, inverse);
      else for (const [n, eight] of eights.entries()) f.storeVector(at, eight, 16 * n);
      f.set(from, i32.add(from, 4 * BLOCK));
      f.set(at, i32.add(at, RECORD.bytes));
    },
    () => i32.ltU(at, end),
  );
}

/** Even or odd i16 of two vectors. */
const EVERY_SECOND = [0, 1].map((odd) =>
  Array.from({ length: 16 }, (_, byte) => 4 * Math.floor(byte / 2) + 2 * odd + (byte % 2)),
);

/** Inputs in the order in which 4-bit codes are taken apart, and −8 times their sums. */
function emitOrder(f: FunctionBuilder, at: Local<"i32">, eights: readonly Local<"v128">[], sum: Local<"v128">): void {
  const [even, odd] = EVERY_SECOND;
  const [a, b, c, d] = eights;
  const ones = f.local("minusEight", "v128", i32x4.splat((-CODE_OFFSET << 16) | (-CODE_OFFSET & 0xffff)));
  f.storeVector(at, shuffleBytes(a, b, even), 0);
  f.storeVector(at, shuffleBytes(c, d, even), 16);
  f.storeVector(at, shuffleBytes(a, b, odd), 32);
  f.storeVector(at, shuffleBytes(c, d, odd), 48);
  f.set(sum, i32x4.add(i32x4.dotI16(a, ones), i32x4.dotI16(b, ones)));
  f.set(sum, i32x4.add(sum, i32x4.add(i32x4.dotI16(c, ones), i32x4.dotI16(d, ones))));
  f.storeVector(at, sum, RECORD.starts);
}
