/**
 * Elementary functions of four f32 lanes, as instruction sequences.
 */

import { apply, f32x4, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";

/** Whether a·b + c is one instruction with one rounding (relaxed SIMD) or two of each. */
export type FloatingMode = { readonly relaxed: boolean };

/** a·b + c. */
export function fma({ relaxed }: FloatingMode, a: V128, b: V128, c: V128): V128 {
  return relaxed ? apply("f32x4.relaxed_madd", [a, b, c]) : f32x4.add(f32x4.mul(a, b), c);
}

/** ln 2 = high + low; high has so few bits that n·high is exact for every n that occurs. */
const LN2_HIGH = 0.693359375;
const LN2_LOW = Math.LN2 - LN2_HIGH;

/** Of the series of exp: 1/6!, 1/5!, … 1/2!; the rest is below 2e-7 of the result for |r| <= ln(2)/2. */
const EXP_SERIES = [720, 120, 24, 6, 2].map((factorial) => 1 / factorial);

/** Below this, exp would leave the normal f32 numbers; it becomes 0. */
const EXP_MINIMUM = -87.3;

/**
 * Sets `target` to exp(x), for x from −Infinity to 88: x = n·ln 2 + r, exp(x) = 2^n·exp(r).
 *
 * @param target - receives the result; x must not read it
 * @param scratch - two locals to work in; x may read the first
 */
export function emitExp(
  f: FunctionBuilder,
  mode: FloatingMode,
  target: Local<"v128">,
  x: V128,
  [r, n]: readonly [Local<"v128">, Local<"v128">],
): void {
  f.set(r, f32x4.pmax(x, f32x4.const(EXP_MINIMUM - 1)));
  f.set(n, f32x4.nearest(f32x4.mul(r, f32x4.const(Math.LOG2E))));
  const power = i32x4.shl(i32x4.add(i32x4.truncSatF32(n), i32x4.const(127)), 23);
  f.set(target, v128.and(f32x4.ge(r, f32x4.const(EXP_MINIMUM)), power));
  f.set(r, fma(mode, n, f32x4.const(-LN2_HIGH), r));
  f.set(r, fma(mode, n, f32x4.const(-LN2_LOW), r));
  let polynomial: V128 = f32x4.const(EXP_SERIES[0]);
  for (const coefficient of EXP_SERIES.slice(1)) polynomial = fma(mode, polynomial, r, f32x4.const(coefficient));
  f.set(n, fma(mode, f32x4.mul(r, r), polynomial, r)); // exp(r) − 1
  f.set(target, fma(mode, n, target, target));
}
