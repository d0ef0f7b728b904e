/** Choices from a stream of random numbers. */

import { randomStream } from "../random-stream.ts";

/** Makes choices; the same seed and purpose give the same ones. */
export type Draw = {
  /** A number from 0 to below 1. */
  fraction(): number;
  /** An integer from 0 to `count` − 1. */
  below(count: number): number;
  /** True with this probability. */
  chance(probability: number): boolean;
  /** One of the list. */
  pick<T>(list: readonly T[]): T;
  /** The list in random order. */
  shuffle<T>(list: readonly T[]): T[];
};

/** Choices for one purpose of a seed, an integer from 0 to 2^53 − 1. */
export function createDraw(seed: number, purpose: string): Draw {
  const random = randomStream(seed, purpose);
  const below = (count: number): number => Math.floor(random.next() * count);
  return {
    fraction: () => random.next(),
    below,
    chance: (probability) => random.next() < probability,
    pick: (list) => list[below(list.length)],
    shuffle: (list) => {
      const order = [...list];
      for (let i = order.length - 1; i > 0; i--) {
        const j = below(i + 1);
        [order[i], order[j]] = [order[j], order[i]];
      }
      return order;
    },
  };
}
