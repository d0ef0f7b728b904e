/**
 * Reproducible random numbers: xoshiro128** (Blackman and Vigna), 128 bits of state, period 2^128 − 1.
 *
 * @see https://prng.di.unimi.it/xoshiro128starstar.c
 */

import { ConfigError } from "../errors.ts";

/** A stream of random numbers that depends on its seed only, on every runtime. */
export type Random = {
  /** The next 32 bits, 0 to 2^32 − 1. */
  nextUint32(): number;
  /** The next number in [0, 1), with 53 random bits. */
  next(): number;
};

/**
 * Creates the stream of a seed. The state is the first two outputs of splitmix64 of the seed, lower halves first.
 *
 * @param seed - an integer from 0 to 2^53 − 1
 * @returns a stream of its own; two streams of one seed give the same numbers
 * @throws ConfigError when the seed is not such an integer
 */
export function createRandom(seed: number): Random {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new ConfigError("createRandom", "seed must be an integer from 0 to 2^53 - 1", { seed });
  }
  return createXoshiro(expandSeed(BigInt(seed)));
}

/** A seed for those who did not choose one. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] as number;
}

/** xoshiro128** from four state words, which must not all be 0. */
export function createXoshiro(words: Uint32Array): Random {
  const s = Uint32Array.from(words);
  const nextUint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotateLeft(s[3], 11);
    return result;
  };
  const next = (): number => {
    const high = nextUint32() >>> 5; // 27 bits
    const low = nextUint32() >>> 6; // 26 bits
    return (high * 2 ** 26 + low) / 2 ** 53;
  };
  return { nextUint32, next };
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

/** Two outputs of splitmix64 as four words. No seed gives four zeros: the two outputs never equal each other. */
function expandSeed(seed: bigint): Uint32Array {
  const words = new Uint32Array(4);
  let state = seed;
  for (let i = 0; i < 4; i += 2) {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    let mixed = state;
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n);
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn);
    mixed ^= mixed >> 31n;
    words[i] = Number(mixed & 0xffffffffn);
    words[i + 1] = Number(mixed >> 32n);
  }
  return words;
}
