/** Random numbers by place: a layer's numbers do not depend on what was drawn before. */

import { dropoutBits } from "../attention/index.ts";

/** A number in [0, 1) for a seed and a place. */
export function uniformAt(seed: number, layer: number, head: number, index: number, draw = 0): number {
  return dropoutBits(seed, layer, head, index, draw) / 2 ** 32;
}

/** Standard normal numbers of one head (Box-Muller). */
export function gaussianNumbers(seed: number, layer: number, head: number, count: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniformAt(seed, layer, head, i)));
    return radius * Math.cos(2 * Math.PI * uniformAt(seed, layer, head, i, 1));
  });
}
