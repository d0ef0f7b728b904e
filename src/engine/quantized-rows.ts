/**
 * Rows of weights in fewer bits, and back, rounded as the reference code of ggml rounds (in f32, products and sums each
 * by themselves):
 *
 * | type | shared scale | code of x                                    | weight             |
 * |------|--------------|----------------------------------------------|--------------------|
 * | int8 | f32 of a row: max \|x\| / 127                  | x / scale, halves away from 0 | code · scale       |
 * | q8_0 | f16 of 32 weights: max \|x\| / 127             | the same                      | code · scale       |
 * | q4_0 | f16 of 32 weights: the x of largest \|x\| / −8 | ⌊x / scale + 8.5⌋, at most 15 | (code − 8) · scale |
 *
 * How the bytes lie is told in `wasm/kernels/weights.ts`. int8 is of Phasor's own making; it takes rows of any width.
 *
 * @see https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c quantize_row_q8_0_ref, quantize_row_q4_0_ref
 */

import { f16ToNumber, numberToF16 } from "../dtype.ts";

/** Weights of a block of q8_0 and q4_0. */
export const BLOCK = 32;
/** Bytes of the scale of a block, which come first. */
const SCALE_BYTES = 2;
const Q8_BYTES = SCALE_BYTES + BLOCK;
const Q4_BYTES = SCALE_BYTES + BLOCK / 2;

/** Bits of the f16 that stands for anything too large. */
const F16_INFINITY = 0x7c00;

/**
 * Writes a row of finite f32 as int8.
 *
 * @param bytes - [K] codes
 * @returns the scale of the row
 */
export function encodeInt8(bytes: Uint8Array, row: Float32Array): number {
  const scale = Math.fround(largest(row, 0, row.length) / 127);
  writeCodes(bytes, 0, row, 0, row.length, scale);
  return scale;
}

/** Writes codes [K] of a row and its scale as f32. */
export function decodeInt8(row: Float32Array, bytes: Uint8Array, scale: number): void {
  for (let k = 0; k < row.length; k++) row[k] = ((bytes[k] << 24) >> 24) * scale;
}

/**
 * Writes a row of finite f32 as blocks of q8_0.
 *
 * @param bytes - K/32 blocks of 34 bytes
 * @returns whether it could: false where f16 cannot hold the scale of a block
 */
export function encodeQ8(bytes: Uint8Array, row: Float32Array): boolean {
  for (let start = 0, at = 0; start < row.length; start += BLOCK, at += Q8_BYTES) {
    const scale = Math.fround(largest(row, start, start + BLOCK) / 127);
    if (!writeScale(bytes, at, scale)) return false;
    writeCodes(bytes, at + SCALE_BYTES, row, start, start + BLOCK, scale);
  }
  return true;
}

/** Writes blocks of q8_0 as f32. */
export function decodeQ8(row: Float32Array, bytes: Uint8Array): void {
  for (let start = 0, at = 0; start < row.length; start += BLOCK, at += Q8_BYTES) {
    const scale = readScale(bytes, at);
    for (let i = 0; i < BLOCK; i++) row[start + i] = ((bytes[at + SCALE_BYTES + i] << 24) >> 24) * scale;
  }
}

/**
 * Writes a row of finite f32 as blocks of q4_0.
 *
 * @param bytes - K/32 blocks of 18 bytes
 * @returns as `encodeQ8`
 */
export function encodeQ4(bytes: Uint8Array, row: Float32Array): boolean {
  for (let start = 0, at = 0; start < row.length; start += BLOCK, at += Q4_BYTES) {
    let extreme = 0; // the first of largest magnitude, with its sign
    let most = 0;
    for (let k = start; k < start + BLOCK; k++) {
      const magnitude = Math.abs(row[k]);
      if (magnitude > most) {
        most = magnitude;
        extreme = row[k];
      }
    }
    const scale = extreme / -8;
    if (!writeScale(bytes, at, scale)) return false;
    const inverse = inverseOf(scale);
    for (let i = 0; i < BLOCK / 2; i++) {
      const low = Math.fround(Math.fround(row[start + i] * inverse) + 8.5) | 0;
      const high = Math.fround(Math.fround(row[start + BLOCK / 2 + i] * inverse) + 8.5) | 0;
      bytes[at + SCALE_BYTES + i] = (low > 15 ? 15 : low) | ((high > 15 ? 15 : high) << 4);
    }
  }
  return true;
}

/** Writes blocks of q4_0 as f32. */
export function decodeQ4(row: Float32Array, bytes: Uint8Array): void {
  for (let start = 0, at = 0; start < row.length; start += BLOCK, at += Q4_BYTES) {
    const scale = readScale(bytes, at);
    for (let i = 0; i < BLOCK / 2; i++) {
      const two = bytes[at + SCALE_BYTES + i];
      row[start + i] = ((two & 15) - 8) * scale;
      row[start + BLOCK / 2 + i] = ((two >> 4) - 8) * scale;
    }
  }
}

function largest(row: Float32Array, from: number, to: number): number {
  let max = 0;
  for (let k = from; k < to; k++) {
    const magnitude = Math.abs(row[k]);
    if (magnitude > max) max = magnitude;
  }
  return max;
}

/** Added to a number of magnitude below 2^51, it leaves the nearest integer in the lowest bits; halves go to even ones. */
const ROUNDER = 1.5 * 2 ** 52;
const AWAY = 1 + 2 ** -40; // moves halves, and nothing else of f32, beyond the tie

function writeCodes(bytes: Uint8Array, at: number, row: Float32Array, from: number, to: number, scale: number): void {
  const inverse = inverseOf(scale);
  for (let k = from; k < to; k++) {
    const x = Math.fround(row[k] * inverse);
    bytes[at + k - from] = x * AWAY + ROUNDER - ROUNDER;
  }
}

/** 1 / scale; 0 for scales too small to have an inverse, which no f16 can tell from 0. */
function inverseOf(scale: number): number {
  const inverse = Math.fround(1 / scale);
  return Number.isFinite(inverse) ? inverse : 0;
}

function writeScale(bytes: Uint8Array, at: number, scale: number): boolean {
  const bits = numberToF16(scale);
  bytes[at] = bits & 0xff;
  bytes[at + 1] = bits >> 8;
  return (bits & 0x7fff) < F16_INFINITY;
}

function readScale(bytes: Uint8Array, at: number): number {
  return f16ToNumber(bytes[at] | (bytes[at + 1] << 8));
}
