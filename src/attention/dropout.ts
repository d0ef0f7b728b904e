/**
 * Seeded dropout of probabilities. Whether a pair is dropped depends on its indices alone, through 32-bit integer
 * operations, so that every backend, tiling and order of work drops the same pairs:
 *
 *     mix(x):  x ^= x >> 16;  x *= 0x85ebca6b;  x ^= x >> 13;  x *= 0xc2b2ae35;  x ^= x >> 16
 *     row  = mix(mix(mix(mix(seed + 0x9e3779b9) + batch) + head) + query)
 *     bits = mix(row + key · 0x9e3779b9)
 *     kept = bits ≥ floor(rate · 2^32)
 *
 * with unsigned shifts and arithmetic modulo 2^32. `head` is the query head; `query` and `key` are row and slot of
 * this call, not positions, so that documents of one packed batch differ. Dropout comes after the softmax: the sum
 * and the log-sum-exp are those without it, kept probabilities are multiplied by 1 / (1 − rate), dropped ones are 0.
 *
 * @see https://github.com/aappleby/smhasher MurmurHash3's 32-bit finaliser
 */

import { ConfigError } from "../errors.ts";

/** Which share of the probabilities is dropped, and by which draw. */
export type Dropout = {
  /** Share of dropped probabilities, 0 ≤ rate < 1. */
  readonly rate: number;
  /** Integer from 0 to 2^32 − 1; take another one for every step and layer. */
  readonly seed: number;
};

/** The factor of a probability: 0 if it is dropped, 1 / (1 − rate) if not. */
export type DropoutFactor = (batch: number, head: number, query: number, key: number) => number;

/**
 * Refuses a rate or a seed that is out of range.
 *
 * @throws ConfigError
 */
export function checkDropout(where: string, { rate, seed }: Dropout): void {
  if (!(rate >= 0 && rate < 1)) {
    throw new ConfigError(where, "dropout.rate must be from 0 to below 1", { rate });
  }
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    throw new ConfigError(where, "dropout.seed must be an integer from 0 to 2^32 - 1", { seed });
  }
}

/** The 32 bits, 0 to 2^32 − 1, that decide about a pair. */
export function dropoutBits(seed: number, batch: number, head: number, query: number, key: number): number {
  return mix(dropoutRow(seed, batch, head, query) + Math.imul(key, 0x9e3779b9));
}

/** The part of the bits that belongs to the query: `row` in the formula above. */
export function dropoutRow(seed: number, batch: number, head: number, query: number): number {
  return mix(mix(mix(mix(seed + 0x9e3779b9) + batch) + head) + query);
}

/** Bits from this on keep a pair, 0 to 2^32 − 1. */
export function dropoutThreshold({ rate }: Dropout): number {
  return Math.floor(rate * 2 ** 32);
}

/** The factors of a checked dropout. */
export function dropoutFactor(dropout: Dropout): DropoutFactor {
  const { rate, seed } = dropout;
  const threshold = dropoutThreshold(dropout);
  const kept = 1 / (1 - rate);
  return (batch, head, query, key) => (dropoutBits(seed, batch, head, query, key) >= threshold ? kept : 0);
}

function mix(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}
