/**
 * How the decode kernel reads keys and values, and reads ahead.
 *
 * Two tokens at a time save loads of queries and outputs, but are two streams through memory, and hardware prefetchers
 * follow one: 65,536 keys took three times as long. So one load instruction walks ahead of both through memory in small
 * even steps, a step in every turn of the innermost loop; prefetchers follow it, and the two streams find their lines in
 * the cache. (The same loads in bursts between the loops helped nothing.)
 */

import { apply, type Expression, f32, f32x4, i32, i32x4, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { DecodeSide } from "./attention-decode-rows.ts";
import { elementBytes, emitLoadFour, KV_LIMITS } from "./attention-elements.ts";

/** Locals for reading keys or values. */
export type ReadLocals = {
  /** Address of the present token, all heads. */
  readonly row: Local<"i32">;
  readonly ahead: Local<"i32">;
  readonly aheadEnd: Local<"i32">;
  /** Address of elements. */
  readonly element: Local<"i32">;
  /** For `swizzle`: byte n becomes the highest of word n. */
  readonly bytesToTop: Local<"v128">;
  /** Factors: half byte n becomes the highest of word n. */
  readonly halvesToTop: Local<"v128">;
  /** The highest half byte of every word. */
  readonly top: Local<"v128">;
};

/** Bytes of four elements. */
export function stepBytes({ type }: DecodeSide): number {
  return 4 * elementBytes(type);
}

/** A lane of `swizzle` that gives 0. */
const ZERO = 0x80;

/** Sets what reading needs throughout the function. */
export function emitReadStart(
  f: FunctionBuilder,
  { keys, values }: Record<"keys" | "values", DecodeSide>,
  { bytesToTop, halvesToTop, top }: ReadLocals,
): void {
  const types = [keys.type, values.type];
  if (types.includes("int8")) {
    const [a, b, c, d] = [0, 1, 2, 3].map((byte) => (byte << 24) | (ZERO << 16) | (ZERO << 8) | ZERO);
    f.set(bytesToTop, v128.words(a, b, c, d));
  }
  if (types.includes("int4")) {
    f.set(halvesToTop, v128.words(1 << 28, 1 << 24, 1 << 20, 1 << 16));
    f.set(top, i32x4.const(0xf << 28));
  }
}

/**
 * Sets `target` to four elements as f32, to be multiplied by their scale and by `loadedUnit`; exact. A code in the highest
 * bits of a word is a multiple of it, and one instruction less than the code itself.
 *
 * @param spare - overwritten
 */
export function emitLoad(
  f: FunctionBuilder,
  { type }: DecodeSide,
  { element, bytesToTop, halvesToTop, top }: ReadLocals,
  address: Local<"i32">,
  offset: number,
  target: Local<"v128">,
  spare: Local<"v128">,
): void {
  if (type === "f32") {
    f.set(target, v128.load(address, offset));
  } else if (type === "int8") {
    const words = apply<"v128">("i8x16.swizzle", [v128.load32Splat(address, offset), bytesToTop]);
    f.set(target, f32x4.convertI32(words));
  } else if (type === "int4") {
    const words = v128.and(i32x4.mul(v128.load16Splat(address, offset), halvesToTop), top);
    f.set(target, f32x4.convertI32(words));
  } else {
    f.set(element, i32.add(address, offset));
    f.set(target, emitLoadFour(f, type, element, target, spare));
  }
}

/** What elements are to be multiplied by beside their scale. */
export function loadedUnit({ type }: DecodeSide): number {
  return type === "int8" ? 2 ** -24 : type === "int4" ? 2 ** -28 : 1;
}

/** The scale at an address times a constant, over the limit of codes. */
export function loadScale(
  { type }: DecodeSide,
  address: Expression<"i32">,
  offset: number,
  factor: number,
): Expression<"f32"> {
  return f32.mul(f32.load(address, offset), factor / (KV_LIMITS[type] ?? 1));
}

/** How far ahead: at least a token, so that the second is met before it is used; more than 2 KiB did not help. */
function distance({ stride }: DecodeSide): number {
  return Math.max(stride, 2048);
}

/** Starts to read ahead of two tokens. Nothing behind the end of memory is read. */
export function emitAheadStart(f: FunctionBuilder, side: DecodeSide, { row, ahead, aheadEnd }: ReadLocals): void {
  const memoryEnd = i32.shl(apply<"i32">("memory.size", []), 16); // 0 stands for 4 GiB
  f.set(aheadEnd, i32.sub(memoryEnd, 2 * side.stride + 4));
  f.set(ahead, i32.add(row, distance(side)));
  f.if(i32.gtU(ahead, aheadEnd), () => f.set(ahead, aheadEnd));
}

/** Reads a word ahead, and moves on by as much as `steps` times four elements of two tokens take. */
export function emitAhead(f: FunctionBuilder, side: DecodeSide, { ahead }: ReadLocals, steps: number): void {
  f.run(i32.load(ahead));
  f.set(ahead, i32.add(ahead, 2 * steps * stepBytes(side)));
}
