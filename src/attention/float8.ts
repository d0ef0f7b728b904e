/**
 * The 8-bit float e4m3fn: sign, 4 exponent bits (bias 7), 3 fraction bits, no infinity. The largest number is 448,
 * the smallest above zero 2^-9; bytes 0x7f and 0xff are NaN.
 *
 * @see https://arxiv.org/abs/2209.05433 FP8 Formats for Deep Learning
 */

import { roundHalfToEven } from "../dtype.ts";

/** Largest e4m3fn number. */
export const FLOAT8_MAX = 448;

/** The value of an e4m3fn byte; exact. */
export function float8ToNumber(byte: number): number {
  const sign = byte & 0x80 ? -1 : 1;
  const exponent = (byte >> 3) & 0xf;
  const fraction = byte & 0x7;
  if (exponent === 15 && fraction === 7) return NaN;
  if (exponent === 0) return sign * fraction * 2 ** -9;
  return sign * (8 + fraction) * 2 ** (exponent - 10);
}

/** The e4m3fn byte nearest to `value` (ties to even); numbers beyond ±448 become ±448. */
export function numberToFloat8(value: number): number {
  if (Number.isNaN(value)) return 0x7f;
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0;
  const magnitude = Math.min(Math.abs(value), FLOAT8_MAX);
  if (magnitude < 2 ** -6) return sign | roundHalfToEven(magnitude * 2 ** 9); // subnormal, or the first normal
  let exponent = 8; // of 448
  while (magnitude < 2 ** exponent) exponent--;
  const fraction = roundHalfToEven(magnitude * 2 ** (3 - exponent)); // 8..16; 16 moves into the exponent
  return sign | (((exponent + 7) << 3) + (fraction - 8));
}
