/**
 * Loops over consecutive elements: four at a time, then one at a time.
 */

import { type Expression, f32, f32x4, type I32, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";

/** What a loop runs over. */
export type RowLoop = {
  /** Addresses that move on with the loop, each with the bytes of one element. */
  readonly pointers: readonly (readonly [address: Local<"i32">, elementBytes: number])[];
  /** Number of elements: a constant, or known at run time. */
  readonly count: I32;
  /** Vectors of four in one turn of the loop; 1 unless told. */
  readonly wide?: number;
};

/** Emits `four(i)` for vector i of a turn, 4·i elements behind every address, and `one()` for the rest. */
export function emitRowLoop(
  f: FunctionBuilder,
  { pointers, count, wide = 1 }: RowLoop,
  four: (i: number) => void,
  one: () => void,
): void {
  const [first, firstBytes] = pointers[0];
  const start = f.local("start", "i32", first);
  const end = f.local("end", "i32");
  const loop = (elements: number, body: () => void): void => {
    const whole = typeof count === "number" ? count - (count % elements) : i32.and(count, -elements);
    f.set(end, i32.add(start, i32.mul(whole, firstBytes)));
    f.while(
      () => i32.ltU(first, end),
      () => {
        body();
        for (const [address, bytes] of pointers) f.set(address, i32.add(address, elements * bytes));
      },
    );
  };
  const vectors = (number: number) => (): void => {
    for (let i = 0; i < number; i++) four(i);
  };
  const isKnown = typeof count === "number";
  if (!isKnown || count >= 4 * wide) loop(4 * wide, vectors(wide));
  if (wide > 1 && (!isKnown || count % (4 * wide) >= 4)) loop(4, vectors(1));
  if (!isKnown || count % 4 > 0) loop(1, one);
}

/** The first 1 to 3 floats at an address, then zeros; reads nothing behind them. */
export function loadFirst(address: Expression<"i32">, count: number, offset = 0): V128 {
  if (count === 1) return v128.load32Zero(address, offset);
  const two = v128.load64Zero(address, offset);
  return count === 2 ? two : f32x4.replaceLane(two, 2, f32.load(address, offset + 8));
}
