/** Independent random numbers for every purpose of a training run, from its one seed. */

import { ConfigError } from "../errors.ts";
import { createRandom, type Random } from "../generate/index.ts";

/**
 * The numbers of one purpose; they do not depend on what else is drawn.
 *
 * @param seed - of the run, an integer from 0 to 2^53 − 1
 * @param purpose - a name such as "epoch 3"
 * @throws ConfigError when the seed is not such an integer
 */
export function randomStream(seed: number, purpose: string): Random {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new ConfigError("train", "seed must be an integer from 0 to 2^53 - 1", { seed });
  }
  const text = `${seed} ${purpose}`;
  return createRandom((fnv1a(text, 0x811c9dc5) & 0x1fffff) * 2 ** 32 + fnv1a(text, 0x01234567));
}

/** A 32-bit hash (FNV-1a). */
export function fnv1a(text: string, basis = 0x811c9dc5): number {
  let hash = basis;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** A number from the normal distribution cut off at two standard deviations, of mean 0; its deviation is 0.88 of `deviation`. */
export function truncatedNormal(random: Random, deviation: number): number {
  for (;;) {
    // Box and Muller; 1 − u keeps 0 out of the logarithm.
    const z = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
    if (Math.abs(z) <= 2) return deviation * z;
  }
}

/** The numbers 0 to `count` − 1 in random order (Fisher and Yates). */
export function permutation(random: Random, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
