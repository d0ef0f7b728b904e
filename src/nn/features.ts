/** Checks of sizes that several modules share. */

import { ConfigError, ShapeError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/**
 * Refuses anything but a positive integer.
 *
 * @throws ConfigError
 */
export function checkCount(where: string, name: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new ConfigError(where, `${name} must be a positive integer`, { [name]: value });
}

/**
 * The axes before the last ones, which must be `features`.
 *
 * @throws ShapeError when they are not, or the tensor is not f32
 */
export function leadingAxes(where: string, x: Tensor, features: readonly number[]): readonly number[] {
  if (x.dtype !== "f32") throw new ShapeError(where, "an f32 tensor", { dtype: x.dtype });
  const at = x.shape.length - features.length;
  if (at < 0 || features.some((size, axis) => x.shape[at + axis] !== size)) {
    throw new ShapeError(where, `the last axes must be [${features.join(", ")}]`, { shape: x.shape });
  }
  return x.shape.slice(0, at);
}
