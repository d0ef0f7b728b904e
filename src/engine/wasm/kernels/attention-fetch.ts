/**
 * Keys and values of a tile on their way to the loops that use them.
 */

import { f32, f32x4, i32 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { elementBytes, emitLoadFirst, emitLoadFour, KV_LIMITS } from "./attention-elements.ts";
import type { KvStorage } from "./attention-scratch.ts";

/** Locals that are free to use. */
export type FetchWork = Record<"key" | "at" | "end" | "pointer", Local<"i32">> &
  Record<"a" | "b" | "x", Local<"v128">> & { readonly scale: Local<"f32"> };

/**
 * Copies `count` rows of `width` elements to scratch, as f32, one after the other.
 *
 * @param from - address of the first row
 * @param scales - address of the scale of the first row, where the type has scales
 * @param into - address in scratch
 */
export function emitPack(
  f: FunctionBuilder,
  { key, at, end, pointer, a, b, x, scale }: FetchWork,
  storage: KvStorage,
  { count, from, scales, into, width }: Record<"count" | "from" | "scales" | "into", Local<"i32">> & { width: number },
): void {
  const { type, stride, scaleStride } = storage;
  const limit = KV_LIMITS[type];
  const wholeBytes = Math.floor(width / 4) * 16;
  const rest = width % 4;
  f.set(at, into);
  f.for(key, 0, count, 1, () => {
    f.set(pointer, i32.add(from, i32.mul(key, stride)));
    if (limit !== undefined) {
      f.set(scale, f32.div(f32.load(i32.add(scales, i32.mul(key, scaleStride))), limit));
      f.set(x, f32x4.splat(scale));
    }
    const scaled = (four: ReturnType<typeof emitLoadFour>) => (limit === undefined ? four : f32x4.mul(four, x));
    if (wholeBytes > 0) {
      f.set(end, i32.add(at, wholeBytes));
      f.doWhile(
        () => {
          f.storeVector(at, scaled(emitLoadFour(f, type, pointer, a, b)));
          f.set(pointer, i32.add(pointer, 4 * elementBytes(type)));
          f.set(at, i32.add(at, 16));
        },
        () => i32.ltU(at, end),
      );
    }
    if (rest > 0) {
      f.set(a, scaled(emitLoadFirst(f, type, pointer, rest, a, b)));
      for (let n = 0; n < rest; n++) f.store("f32.store", at, f32x4.lane(a, n), 4 * n);
      f.set(at, i32.add(at, 4 * rest));
    }
  });
}

/**
 * Reads one word of every cache line of `count` rows. With few rows to a key the pace is that of memory, and the loops
 * that follow read keys and values in orders that no prefetcher follows; this one it does.
 */
export function emitTouch(
  f: FunctionBuilder,
  { key, pointer }: Pick<FetchWork, "key" | "pointer">,
  { count, from, stride, width }: { count: Local<"i32">; from: Local<"i32">; stride: number; width: number },
): void {
  f.for(key, 0, count, 1, () => {
    f.set(pointer, i32.add(from, i32.mul(key, stride)));
    for (let line = 0; line < width * 4; line += 64) f.run(i32.load(pointer, line));
  });
}

/** The keys of a tile that a block looks at. */
export type BlockKeys = {
  /** First key and value. */
  readonly keys: Local<"i32">;
  readonly values: Local<"i32">;
  /** Number of the first key among all keys. */
  readonly slot: Local<"i32">;
  readonly count: Local<"i32">;
  /** u8 [key], one bit a row; 0 where every row sees every key. */
  readonly bits: Local<"i32">;
  /** Bytes between keys and between values. */
  readonly keyStride: number;
  readonly valueStride: number;
};

/** Leaves out the keys at both ends that no row of the block sees, four at a time. */
export function emitTrim(
  f: FunctionBuilder,
  { key, end }: Pick<FetchWork, "key" | "end">,
  { keys, values, slot, count, bits, keyStride, valueStride }: BlockKeys,
): void {
  const unseen = (at: ReturnType<typeof i32.add>) => i32.eqz(i32.load(at));
  f.set(key, 0);
  f.while(
    () => i32.and(i32.ltS(key, count), unseen(i32.add(bits, key))),
    () => f.set(key, i32.add(key, 4)),
  );
  // Whole words are read; bits behind the last key are 0 or those of other keys, which trims less.
  f.set(end, i32.and(i32.add(count, 3), -4));
  f.while(
    () => i32.and(i32.gtS(end, key), unseen(i32.sub(i32.add(bits, end), 4))),
    () => f.set(end, i32.sub(end, 4)),
  );
  f.if(i32.ltS(end, count), () => f.set(count, end));
  f.set(count, i32.sub(count, key));
  f.set(keys, i32.add(keys, i32.mul(key, keyStride)));
  f.set(values, i32.add(values, i32.mul(key, valueStride)));
  f.set(slot, i32.add(slot, key));
  f.set(bits, i32.add(bits, key));
}
