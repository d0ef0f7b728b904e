/**
 * Seeded dropout of four rows and one key, bit for bit as in src/attention/dropout.ts.
 */

import { apply, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";

/** What the number of a key is multiplied by before it is added to the hash of a row. */
export const KEY_FACTOR = 0x9e3779b9 | 0;

/**
 * Sets `bits` to all ones in the lanes that are kept.
 *
 * @param x - hash of the rows + key · KEY_FACTOR
 * @param threshold - u32; bits from it on are kept
 */
export function emitKept(f: FunctionBuilder, bits: Local<"v128">, x: V128, threshold: V128): void {
  f.set(bits, x);
  const mix = (shift: number, factor?: number): void => {
    const mixed = v128.xor(bits, i32x4.shrU(bits, shift));
    f.set(bits, factor === undefined ? mixed : i32x4.mul(mixed, i32x4.const(factor)));
  };
  mix(16, 0x85ebca6b);
  mix(13, 0xc2b2ae35);
  mix(16);
  f.set(bits, apply<"v128">("i32x4.ge_u", [bits, threshold]));
}
