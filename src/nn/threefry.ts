/**
 * Threefry-2x32 with 20 rounds: a block cipher of two 32-bit words used as a counter-based random generator.
 *
 * @see Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)
 */

/** A random key: two words, each 0 to 2^32 − 1. Keys are values; drawing from one does not change it. */
export type RandomKey = readonly [number, number];

const PARITY = 0x1bd11bda;
const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
] as const;

/**
 * Encrypts one counter.
 *
 * @param key - two 32-bit words
 * @param counter - two 32-bit words
 * @returns two words, each 0 to 2^32 − 1
 */
export function threefry2x32(key: RandomKey, counter: readonly [number, number]): [number, number] {
  const schedule = [key[0], key[1], key[0] ^ key[1] ^ PARITY];
  let a = (counter[0] + schedule[0]) | 0;
  let b = (counter[1] + schedule[1]) | 0;
  for (let group = 1; group <= 5; group++) {
    for (const turn of ROTATIONS[(group + 1) % 2]) {
      a = (a + b) | 0;
      b = ((b << turn) | (b >>> (32 - turn))) ^ a;
    }
    a = (a + schedule[group % 3]) | 0;
    b = (b + schedule[(group + 1) % 3] + group) | 0;
  }
  return [a >>> 0, b >>> 0];
}
