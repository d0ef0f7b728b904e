/** Checks of sizes that several modules share. */

import { ConfigError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor } from "../tensor.ts";

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
 * Refuses what is no finite number, or below 0.
 *
 * @throws ConfigError
 */
export function checkNotNegative(where: string, name: string, value: number): number {
  if (Number.isFinite(value) && value >= 0) return value;
  throw new ConfigError(where, `${name} must be a finite number, 0 or more`, { [name]: value });
}

/**
 * The axes before the last ones, which must be `features`.
 *
 * @throws ShapeError when they are not, the tensor is not f32, or its data do not fill its shape
 */
export function leadingAxes(where: string, x: Tensor, features: readonly number[]): readonly number[] {
  if (x.dtype !== "f32") throw new ShapeError(where, "an f32 tensor", { dtype: x.dtype });
  const at = x.shape.length - features.length;
  if (at < 0 || features.some((size, axis) => x.shape[at + axis] !== size)) {
    throw new ShapeError(where, `the last axes must be [${features.join(", ")}]`, { shape: x.shape });
  }
  checkFilled(where, x);
  return x.shape.slice(0, at);
}

/**
 * Refuses a gradient that is not one of an output of that shape.
 *
 * @throws ShapeError
 */
export function checkGradient(where: string, dOut: Tensor, shape: readonly number[]): void {
  if (dOut.dtype !== "f32") throw new ShapeError(where, "an f32 tensor", { dtype: dOut.dtype });
  if (dOut.shape.join() !== shape.join()) {
    throw new ShapeError(where, "dOut must have the shape of the output", { dOut: dOut.shape, out: shape });
  }
  checkFilled(where, dOut);
}

/**
 * Refuses a tensor whose data do not fill its shape, as an object written by hand may be.
 *
 * @throws ShapeError
 */
export function checkFilled(where: string, { shape, data }: Tensor): void {
  if (data.length === sizeOf(shape)) return;
  throw new ShapeError(where, "data length must equal the product of the shape", { length: data.length, shape });
}
