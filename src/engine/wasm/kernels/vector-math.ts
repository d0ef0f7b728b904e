/**
 * Elementary functions of four f32 lanes, as instruction sequences.
 */

import { apply, type Expression, f32, f32x4, i32x4, type V128, v128, wordOf } from "../assembler/expression.ts";
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

/** Added to a number of magnitude below 2^22 it leaves the nearest integer in the lowest bits. */
const ROUNDER = 1.5 * 2 ** 23;

/** Given x in `r`, sets `n` to rint(x / ln 2) and `power` to 2^n, for n from −126 to 127. */
function emitPower(f: FunctionBuilder, mode: FloatingMode, power: Local<"v128">, n: Local<"v128">, r: V128): void {
  f.set(n, fma(mode, r, f.constant(Math.LOG2E), f.constant(ROUNDER)));
  f.set(power, i32x4.add(i32x4.shl(n, 23), f.constant(1))); // n to the exponent of 1
  f.set(n, f32x4.sub(n, f.constant(ROUNDER)));
}

/** Given x in `r` and n = rint(x / ln 2) in `n`, sets `n` to exp(x − n·ln 2) − 1; `r` is overwritten. */
function emitExpRest(f: FunctionBuilder, mode: FloatingMode, n: Local<"v128">, r: Local<"v128">): void {
  f.set(r, fma(mode, n, f.constant(-LN2_HIGH), r));
  f.set(r, fma(mode, n, f.constant(-LN2_LOW), r));
  let polynomial: V128 = f.constant(EXP_SERIES[0]);
  for (const coefficient of EXP_SERIES.slice(1)) polynomial = fma(mode, polynomial, r, f.constant(coefficient));
  f.set(n, fma(mode, f32x4.mul(r, r), polynomial, r));
}

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
  f.set(r, f32x4.pmax(x, f.constant(EXP_MINIMUM - 1)));
  emitPower(f, mode, target, n, r);
  f.set(target, v128.and(f32x4.ge(r, f.constant(EXP_MINIMUM)), target));
  emitExpRest(f, mode, n, r);
  f.set(target, fma(mode, n, target, target));
}

/**
 * Sets `target` to tanh(x) for any x: sign(x) · e/(e + 2) with e = exp(2|x|) − 1, within 6e-7 relative,
 * however small x is.
 *
 * @param target - receives the result; x must not read it
 * @param scratch - three locals to work in; x may read the first
 */
export function emitTanh(
  f: FunctionBuilder,
  mode: FloatingMode,
  target: Local<"v128">,
  x: V128,
  [r, rest, power]: readonly [Local<"v128">, Local<"v128">, Local<"v128">],
): void {
  f.set(target, x);
  f.set(r, f32x4.abs(target));
  f.set(r, f32x4.pmin(f32x4.add(r, r), f.constant(20))); // tanh(10) is 1 in f32
  emitPower(f, mode, power, rest, r);
  emitExpRest(f, mode, rest, r);
  f.set(rest, fma(mode, rest, power, f32x4.sub(power, f.constant(1))));
  f.set(rest, f32x4.div(rest, f32x4.add(rest, f.constant(2))));
  f.set(target, v128.or(rest, v128.and(target, i32x4.const(SIGN))));
}

/** The sign bit of an f32. */
const SIGN = -0x80000000;

/**
 * Sets `target` to 1/(1 + exp(−x)) for any x, within 4e-7 relative.
 *
 * @param target - receives the result; x must not read it
 * @param scratch - two locals to work in; x may read the first
 */
export function emitSigmoid(
  f: FunctionBuilder,
  mode: FloatingMode,
  target: Local<"v128">,
  x: V128,
  [r, n]: readonly [Local<"v128">, Local<"v128">],
): void {
  emitExp(f, mode, target, f32x4.pmin(f32x4.neg(x), f.constant(88)), [r, n]);
  f.set(target, f32x4.div(f.constant(1), f32x4.add(target, f.constant(1))));
}

/** Of the series of artanh: log((1 + s)/(1 − s)) = 2s·(1 + s²/3 + s⁴/5 + …); the rest is below 3e-9 for |s| < 0.172. */
const LOG_SERIES = [9, 7, 5, 3].map((odd) => 2 / odd);

/**
 * Sets `target` to log(x): x = 2^e·m with m from √½ to √2, s = (m − 1)/(m + 1).
 * −Infinity where x is 0 (or subnormal), NaN below 0, Infinity at Infinity.
 *
 * @param target - receives the result; x must not read it
 * @param scratch - three locals to work in; x may read the first
 */
export function emitLog(
  f: FunctionBuilder,
  mode: FloatingMode,
  target: Local<"v128">,
  x: V128,
  [value, e, s]: readonly [Local<"v128">, Local<"v128">, Local<"v128">],
): void {
  f.set(value, x);
  // The exponent of x/√½, rounded down, so that m = x / 2^e lies in [√½, √2).
  f.set(e, i32x4.shrS(i32x4.sub(value, i32x4.const(wordOf(Math.SQRT1_2))), 23));
  f.set(target, f32x4.sub(i32x4.sub(value, i32x4.shl(e, 23)), f.constant(1))); // m − 1, exact
  f.set(e, f32x4.convertI32(e));
  f.set(s, f32x4.div(target, f32x4.add(target, f.constant(2))));
  f.set(target, f32x4.mul(s, s));
  let polynomial: V128 = f.constant(LOG_SERIES[0]);
  for (const coefficient of LOG_SERIES.slice(1)) polynomial = fma(mode, polynomial, target, f.constant(coefficient));
  f.set(target, f32x4.mul(polynomial, target));
  f.set(target, fma(mode, target, s, f32x4.add(s, s)));
  f.set(target, f32x4.add(target, f32x4.mul(e, f.constant(LN2_LOW))));
  f.set(target, fma(mode, e, f.constant(LN2_HIGH), target));
  const tiny = f32x4.lt(value, f.constant(2 ** -126));
  f.set(target, v128.select(f.constant(-Infinity), target, tiny));
  f.set(target, v128.select(f.constant(NaN), target, f32x4.lt(value, f.constant(0))));
  // Infinity and NaN are their own logarithm.
  f.set(target, v128.select(target, value, f32x4.lt(value, f.constant(Infinity))));
}

/** Abramowitz and Stegun 7.1.26: erfc(z) = t·(…)·exp(−z²), t = 1/(1 + p·z), z >= 0, within 1.5e-7. */
const ERFC_P = 0.3275911;
const ERFC_SERIES = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];

/**
 * Sets `target` to the normal distribution function Φ(x) = (1 + erf(x/√2))/2, within 3e-7 absolute.
 *
 * @param target - receives the result; x must not read it
 * @param scratch - four locals to work in; x may read the first
 */
export function emitNormalCdf(
  f: FunctionBuilder,
  mode: FloatingMode,
  target: Local<"v128">,
  x: V128,
  [value, t, r, n]: readonly [Local<"v128">, Local<"v128">, Local<"v128">, Local<"v128">],
): void {
  f.set(value, x);
  f.set(t, f32x4.mul(f32x4.abs(value), f.constant(Math.SQRT1_2)));
  f.set(t, f32x4.div(f.constant(1), fma(mode, t, f.constant(ERFC_P), f.constant(1))));
  emitExp(f, mode, target, f32x4.mul(f32x4.mul(value, value), f.constant(-0.5)), [r, n]);
  let polynomial: V128 = f.constant(ERFC_SERIES[0]);
  for (const coefficient of ERFC_SERIES.slice(1)) polynomial = fma(mode, polynomial, t, f.constant(coefficient));
  f.set(target, f32x4.mul(f32x4.mul(target, f.constant(0.5)), f32x4.mul(polynomial, t))); // Φ(−|x|)
  const negative = f32x4.lt(value, f.constant(0));
  f.set(target, v128.select(target, f32x4.sub(f.constant(1), target), negative));
}

/** The sums of the lanes of a, b, c and d, as one vector; a and c are overwritten. */
export function emitSumFour(
  f: FunctionBuilder,
  [a, b, c, d]: readonly [Local<"v128">, Local<"v128">, Local<"v128">, Local<"v128">],
): V128 {
  for (const [first, second] of [
    [a, b],
    [c, d],
  ]) {
    f.set(first, f32x4.add(f32x4.shuffle(first, second, 0, 4, 1, 5), f32x4.shuffle(first, second, 2, 6, 3, 7)));
  }
  return f32x4.add(f32x4.shuffle(a, c, 0, 1, 4, 5), f32x4.shuffle(a, c, 2, 3, 6, 7));
}

/** The sum of the lanes of a, which is overwritten. */
export function emitSum(f: FunctionBuilder, a: Local<"v128">): Expression<"f32"> {
  f.set(a, f32x4.add(a, f32x4.shuffle(a, a, 2, 3, 0, 1)));
  return f32.add(f32x4.lane(a, 0), f32x4.lane(a, 1));
}
