/**
 * A tensor is an element type, a shape and a typed array in row-major order. No arithmetic lives here.
 */

import { allocate, bf16RowToF32, bytesPerElement, type DType, type DTypeArrays, f16RowToF32, holds } from "./dtype.ts";
import { ShapeError } from "./errors.ts";

/** Row-major values of one element type. `data.length` equals the product of `shape`. */
export type Tensor<T extends DType = DType> = {
  [D in T]: { readonly dtype: D; readonly shape: readonly number[]; readonly data: DTypeArrays[D] };
}[T];

/** Number of elements of a shape; 1 for a scalar's empty shape. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/**
 * Wraps existing data; nothing is copied.
 *
 * @param dtype - element type; must be the one `data` holds
 * @param shape - extents, non-negative integers
 * @param data - row-major values
 * @throws ShapeError when the sizes or the array type do not fit
 */
export function tensor<T extends DType>(dtype: T, shape: readonly number[], data: DTypeArrays[T]): Tensor<T> {
  checkShape(shape);
  if (!holds(dtype, data)) {
    throw new ShapeError("tensor", `data of dtype ${dtype} has another array type`, {
      array: Object.prototype.toString.call(data),
    });
  }
  if (data.length !== sizeOf(shape)) {
    throw new ShapeError("tensor", "data length must equal the product of the shape", {
      length: data.length,
      shape,
    });
  }
  return { dtype, shape: [...shape], data } as Tensor<T>;
}

function checkShape(shape: readonly number[]): void {
  for (const extent of shape) {
    if (!Number.isSafeInteger(extent) || extent < 0) {
      throw new ShapeError("tensor", "every extent must be a non-negative integer", { shape });
    }
  }
}

/**
 * A tensor of zeros.
 *
 * @throws ShapeError when an extent is not a non-negative integer
 */
export function zeros<T extends DType>(dtype: T, shape: readonly number[]): Tensor<T> {
  checkShape(shape);
  return tensor(dtype, shape, allocate(dtype, sizeOf(shape)));
}

/** An f32 tensor from any numbers, copied. */
export function f32(shape: readonly number[], values: ArrayLike<number>): Tensor<"f32"> {
  return tensor("f32", shape, Float32Array.from(values));
}

/** Bytes of a tensor's elements. */
export function byteSize(t: Tensor): number {
  return sizeOf(t.shape) * bytesPerElement(t.dtype);
}

/**
 * Rows `start` to `end` of the first axis, sharing memory with `t`.
 *
 * @throws ShapeError when the range lies outside the first axis
 */
export function rows<T extends DType>(t: Tensor<T>, start: number, end: number): Tensor<T> {
  const length = t.shape[0];
  if (length === undefined || start < 0 || end < start || end > length) {
    throw new ShapeError("rows", "0 <= start <= end <= shape[0]", { start, end, shape: t.shape });
  }
  const rest = t.shape.slice(1);
  const stride = sizeOf(rest);
  const data = t.data.subarray(start * stride, end * stride) as DTypeArrays[T];
  return tensor<T>(t.dtype as T, [end - start, ...rest], data);
}

/**
 * The same data under another shape of the same size.
 *
 * @throws ShapeError when the sizes differ
 */
export function reshape<T extends DType>(t: Tensor<T>, shape: readonly number[]): Tensor<T> {
  return tensor<T>(t.dtype as T, shape, t.data as DTypeArrays[T]);
}

/**
 * The values as f32: the same array for f32, a converted copy for other float types.
 *
 * @throws ShapeError for integer tensors
 */
export function toF32(t: Tensor): Float32Array {
  switch (t.dtype) {
    case "f32":
      return t.data;
    case "f64":
      return Float32Array.from(t.data);
    case "f16":
      return converted(t.data, f16RowToF32);
    case "bf16":
      return converted(t.data, bf16RowToF32);
    default:
      throw new ShapeError("toF32", "a floating-point tensor", { dtype: t.dtype });
  }
}

function converted(bits: Uint16Array, convert: (out: Float32Array, bits: Uint16Array) => void): Float32Array {
  const out = new Float32Array(bits.length);
  convert(out, bits);
  return out;
}

/** Heads `first` to `first` + `count` − 1 of x [T, H, W], copied to [T, count, W]. */
export function takeHeads(x: Tensor<"f32">, first: number, count: number): Tensor<"f32"> {
  const [T, H, W] = x.shape as [number, number, number];
  const taken = zeros("f32", [T, count, W]);
  for (let t = 0; t < T; t++) {
    taken.data.set(x.data.subarray((t * H + first) * W, (t * H + first + count) * W), t * count * W);
  }
  return taken;
}
