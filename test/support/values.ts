/** Numbers for tests. */

import { f32, sizeOf, type Tensor } from "../../src/tensor.ts";

/** Values in [−1, 1) that differ from place to place; the same for the same salt. */
export function values(shape: readonly number[], salt: number): Tensor<"f32"> {
  const numbers = Array.from({ length: sizeOf(shape) }, (_, i) => {
    const mixed = Math.imul((i + 1) * 0x9e3779b1 + salt * 0x85ebca6b, 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 15)) | 0) / 2 ** 31;
  });
  return f32(shape, numbers);
}
