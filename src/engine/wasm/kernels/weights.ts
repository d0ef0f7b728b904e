/**
 * Element types of weights, and how kernels read them as f32.
 *
 * | type | a row of K weights                                                                                   |
 * |------|------------------------------------------------------------------------------------------------------|
 * | f32, f16, bf16 | K numbers; f16 must be finite                                                              |
 * | int8 | K two's complement bytes; weight = code · scale of the row, f32, in a vector of its own               |
 * | q8_0 | K/32 blocks of an f16 scale and 32 two's complement bytes; weight = code · scale                      |
 * | q4_0 | K/32 blocks of an f16 scale and 16 bytes; weight = (code − 8) · scale; codes 0–15 of the block are the |
 * |      | low halves of the bytes, codes 16–31 the high ones                                                    |
 *
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md GGUF, which defines q8_0 and q4_0
 */

import type { WeightType } from "../../weight-matrix.ts";
import {
  type Expression,
  f32,
  f32x4,
  type I32,
  i32,
  i32x4,
  shuffleBytes,
  type V128,
  v128,
} from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";

export type { WeightType };

/** Weights of a block, bytes of a block, and how many weights a kernel reads at a time. */
type Format = { readonly block: number; readonly bytes: number; readonly step: number };

const FORMATS: Readonly<Record<WeightType, Format>> = {
  f32: { block: 1, bytes: 4, step: 16 },
  f16: { block: 1, bytes: 2, step: 16 },
  bf16: { block: 1, bytes: 2, step: 16 },
  int8: { block: 1, bytes: 1, step: 16 },
  q8_0: { block: 32, bytes: 34, step: 32 },
  q4_0: { block: 32, bytes: 18, step: 32 },
};

/**
 * Bytes of `count` weights that lie in a row.
 *
 * @throws Error when a block format does not divide them: a mistake of the caller, who checks shapes
 */
export function weightBytes(type: WeightType, count: number): number {
  const { block, bytes } = FORMATS[type];
  if (count % block !== 0) throw new Error(`weightBytes: ${type} comes in blocks of ${block}; got ${count}`);
  return (count / block) * bytes;
}

/** Weights that `unpack` of a reader reads at a time. */
export function weightStep(type: WeightType): number {
  return FORMATS[type].step;
}

/** Reads weights of one type inside one function. */
export type WeightReader = {
  /**
   * Reads `weightStep` weights at the address `pointer` and hands them over four at a time, in order. They still
   * have to be multiplied by `scale`.
   */
  readonly unpack: (pointer: I32, use: (index: number, four: V128) => void) => void;
  /** What follows from the format: 1, the scale of a row times a constant, or that of the block just read. */
  readonly scale: Local<"v128"> | null;
  /** Sets `scale` where it belongs to a row; `scales` is the address of the row's f32. */
  readonly startRow: (scales: I32) => void;
  /** One weight at `pointer`, scaled; for the end of a row that is no multiple of the step. */
  readonly one: (pointer: I32) => Expression<"f32">;
};

/** Where the exponents of f16 and f32 differ: bits of an f16 moved to an f32's place are 2^−112 times its value. */
export const F16_SCALE = 2 ** 112;
export const F16_MASK = -0x70002000; // 0x8fffe000: sign, five bits of exponent, ten of fraction

/** An f16 as the f32 it stands for; finite values only. */
export function f16ToF32(bits: Expression<"i32">): Expression<"f32"> {
  const moved = i32.and(i32.shl(bits, 13), F16_MASK);
  return f32.mul(f32.reinterpretI32(moved), F16_SCALE);
}

// V8 turns interleaving into one instruction, where the lanes of the zeros are also those of an interleaving.
/** Interleaves zero bytes below each of the first or last 8 bytes: eight i16 with the byte on top. */
const BYTES_UP = [0, 8].map((half) => lanes(16, (i) => (i % 2) * 16 + half + (i >> 1)));
/** Interleaves zeros below each of the first or last 4 i16: four i32 with the i16 on top. */
const WORDS_UP = [0, 8].map((half) => lanes(16, (i) => ((i >> 1) % 2) * 16 + half + (i >> 2) * 2 + (i % 2)));

function lanes(count: number, of: (i: number) => number): number[] {
  return Array.from({ length: count }, (_, i) => of(i));
}

/**
 * Code that reads weights of one type; takes its locals from `f`.
 *
 * @param scaled - whether f16 come as they are, not 2^−112 times
 */
export function createWeightReader(f: FunctionBuilder, type: WeightType, scaled = true): WeightReader {
  const none = { scale: null, startRow: () => {} };
  const zero = f.local("zero", "v128"); // stays 0
  const fours = [0, 1, 2, 3];
  // A constant that is splat from a scalar stays in a register; a vector constant is built anew at every use.
  const constant = (name: string, word: number): Local<"v128"> => f.local(name, "v128", i32x4.splat(word));

  /** 16 signed bytes, each as an f32 of 2^24 times its value. */
  const halves = type === "int8" || FORMATS[type].block > 1 ? f.vectors("half", 2) : [];
  const unpackBytes = (bytes: Local<"v128">, use: (index: number, four: V128) => void): void => {
    for (const i of [0, 1]) {
      f.set(halves[i], shuffleBytes(zero, bytes, BYTES_UP[i]));
      for (const j of [0, 1]) use(2 * i + j, f32x4.convertI32(shuffleBytes(zero, halves[i], WORDS_UP[j])));
    }
  };

  switch (type) {
    case "f32":
      return {
        ...none,
        unpack: (pointer, use) => {
          for (const i of fours) use(i, v128.load(pointer, 16 * i));
        },
        one: (pointer) => f32.load(pointer),
      };
    case "bf16": {
      const bits = f.local("bits", "v128");
      return {
        ...none,
        unpack: (pointer, use) => {
          for (const i of [0, 1]) {
            f.set(bits, v128.load(pointer, 16 * i));
            for (const j of [0, 1]) use(2 * i + j, shuffleBytes(zero, bits, WORDS_UP[j]));
          }
        },
        one: (pointer) => f32.reinterpretI32(i32.shl(i32.load16u(pointer), 16)),
      };
    }
    case "f16": {
      const mask = constant("mask", F16_MASK);
      const scale = f.local("f16Scale", "v128", f32x4.splat(F16_SCALE));
      return {
        ...none,
        unpack: (pointer, use) => {
          for (const i of fours) {
            const moved = v128.and(i32x4.shl(v128.load16x4S(pointer, 8 * i), 13), mask);
            use(i, scaled ? f32x4.mul(moved, scale) : moved);
          }
        },
        one: (pointer) => f16ToF32(i32.load16s(pointer)),
      };
    }
    case "int8": {
      const bytes = f.local("bytes", "v128");
      const scale = f.local("scale", "v128");
      const rowScale = f.local("rowScale", "f32");
      return {
        scale,
        startRow: (scales) => {
          f.set(rowScale, f32.load(scales));
          f.set(scale, f32x4.splat(f32.mul(rowScale, 2 ** -24)));
        },
        unpack: (pointer, use) => {
          f.set(bytes, v128.load(pointer));
          unpackBytes(bytes, use);
        },
        one: (pointer) => f32.mul(f32.convertI32(i32.load8s(pointer)), rowScale),
      };
    }
    case "q8_0":
    case "q4_0": {
      const mask = constant("mask", F16_MASK);
      const first = f.local("first", "v128");
      const second = f.local("second", "v128");
      const scale = f.local("scale", "v128");
      const isQ4 = type === "q4_0";
      const high = constant("high", -0x0f0f0f10); // 0xf0f0f0f0
      const flip = constant("flip", -0x7f7f7f80); // 0x80808080
      const blockScale = f.local("blockScale", "v128", f32x4.splat(F16_SCALE * (isQ4 ? 2 ** -28 : 2 ** -24)));
      return {
        scale,
        startRow: () => {},
        unpack: (pointer, use) => {
          const moved = v128.and(i32x4.splat(i32.shl(i32.load16s(pointer), 13)), mask);
          f.set(scale, f32x4.mul(moved, blockScale));
          if (isQ4) {
            // (code − 8) · 16 is the code in the upper half of a byte with its highest bit flipped.
            f.set(second, v128.load(pointer, 2));
            f.set(first, v128.xor(v128.and(i32x4.shl(second, 4), high), flip));
            f.set(second, v128.xor(v128.and(second, high), flip));
          } else {
            f.set(first, v128.load(pointer, 2));
            f.set(second, v128.load(pointer, 18));
          }
          unpackBytes(first, use);
          unpackBytes(second, (i, four) => use(4 + i, four));
        },
        one: () => {
          throw new Error("weights: a row of blocks has no rest");
        },
      };
    }
  }
}

/** Writes a row of weights as f32. */
export function emitUnpackRow(
  f: FunctionBuilder,
  type: WeightType,
  reader: WeightReader,
  row: {
    /** Addresses of the weights and of the f32 numbers; both are moved on. */
    source: Local<"i32">;
    target: Local<"i32">;
    /** To work in. */
    end: Local<"i32">;
    /** How many: a number, or known only at run time. */
    count: I32;
    /** Whether the count may not be a multiple of the step. */
    hasRest: boolean;
  },
): void {
  const { source, target, end, count, hasRest } = row;
  const step = weightStep(type);
  f.set(end, i32.add(target, i32.shl(i32.and(count, -step), 2)));
  f.while(
    () => i32.ltU(target, end),
    () => {
      reader.unpack(source, (i, four) => {
        f.storeVector(target, reader.scale ? f32x4.mul(four, reader.scale) : four, 16 * i);
      });
      f.set(source, i32.add(source, weightBytes(type, step)));
      f.set(target, i32.add(target, 4 * step));
    },
  );
  if (!hasRest) return;
  f.set(end, i32.add(end, i32.shl(i32.and(count, step - 1), 2)));
  f.while(
    () => i32.ltU(target, end),
    () => {
      f.store("f32.store", target, reader.one(source));
      f.set(source, i32.add(source, weightBytes(type, 1)));
      f.set(target, i32.add(target, 4));
    },
  );
}
