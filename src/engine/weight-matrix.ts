/**
 * Weight matrices: the element types they are kept in, and the way from one type to another, a row at a time.
 */

import { bf16RowToF32, type DTypeArrays, f16RowToF32, numberToBf16, numberToF16 } from "../dtype.ts";
import { FormatError, ShapeError } from "../errors.ts";
import { sizeOf, type Tensor } from "../tensor.ts";
import { canInterleave, readInterleaved, writeInterleaved } from "./interleaved-rows.ts";
import { BLOCK, decodeInt8, decodeQ4, decodeQ8, encodeInt8, encodeQ4, encodeQ8 } from "./quantized-rows.ts";

/** The element types a backend can keep a matrix in. */
export const WEIGHT_TYPES = ["f32", "f16", "bf16", "int8", "q8_0", "q4_0"] as const;

/** Element type of a weight matrix. */
export type WeightType = (typeof WEIGHT_TYPES)[number];

/** A matrix whose weights share scales: in blocks of 32 with a scale each, or rows with a scale each. */
export type QuantizedMatrix =
  | {
      readonly dtype: "q8_0" | "q4_0";
      /** [N, K]; K is a multiple of 32. */
      readonly shape: readonly number[];
      /** The blocks of the rows, one row after the other. */
      readonly data: Uint8Array;
    }
  | {
      readonly dtype: "int8";
      /** [N, K]. */
      readonly shape: readonly number[];
      /** [N, K], two's complement. */
      readonly data: Uint8Array;
      /** f32 [N]. */
      readonly scales: Float32Array;
    };

/** A matrix of floats: row after row, or, of f32, with rows interleaved as `interleaved-rows.ts` says. */
export type FloatMatrix = Tensor<"f32" | "f16" | "bf16"> & { readonly interleaved?: true };

/** A weight matrix in the element type it is kept in. */
export type WeightMatrix = FloatMatrix | QuantizedMatrix;

/** What a weight matrix can be made of. */
export type MatrixSource = Tensor | WeightMatrix;

const BYTES: Readonly<Record<WeightType, readonly [bytes: number, weights: number]>> = {
  f32: [4, 1],
  f16: [2, 1],
  bf16: [2, 1],
  int8: [1, 1],
  q8_0: [34, BLOCK],
  q4_0: [18, BLOCK],
};

/** Whether rows of `width` weights can be of a type: blocks must be whole. */
export function holdsWidth(type: WeightType, width: number): boolean {
  return width % BYTES[type][1] === 0;
}

/**
 * Bytes of a matrix in a type, the scales of int8 included.
 *
 * @param shape - [N, K]
 */
export function weightMatrixBytes(type: WeightType, [N, K]: readonly number[]): number {
  const [bytes, weights] = BYTES[type];
  return (N * K * bytes) / weights + (type === "int8" ? 4 * N : 0);
}

/** The type a matrix is kept in unless another is asked for. */
export function storedType({ dtype }: Pick<MatrixSource, "dtype">): WeightType {
  return WEIGHT_TYPES.find((type) => type === dtype) ?? "f32";
}

/**
 * A matrix of zeros.
 *
 * @param where - what to call the matrix in messages
 * @param type - its element type
 * @param shape - [N, K]
 * @param allocate - gives a zeroed array
 * @param interleave - interleave rows where the type and the shape allow it
 * @throws ShapeError when the type cannot hold the shape
 */
export function createMatrix(
  where: string,
  type: WeightType,
  shape: readonly number[],
  allocate: <T extends "f32" | "f16" | "bf16" | "u8">(dtype: T, length: number) => DTypeArrays[T],
  interleave = false,
): WeightMatrix {
  const [N, K] = shape;
  if (shape.length !== 2 || !holdsWidth(type, K)) {
    const width = BYTES[type][1] > 1 ? `, K a multiple of ${BYTES[type][1]},` : "";
    throw new ShapeError(where, `a matrix [N, K]${width} to be kept as ${type}`, { shape });
  }
  if (type === "f32" || type === "f16" || type === "bf16") {
    const matrix = { dtype: type, shape: [N, K], data: allocate(type, N * K) } as FloatMatrix;
    return interleave && type === "f32" && canInterleave(shape) ? { ...matrix, interleaved: true } : matrix;
  }
  if (type === "int8") {
    return { dtype: type, shape: [N, K], data: allocate("u8", N * K), scales: allocate("f32", N) };
  }
  return { dtype: type, shape: [N, K], data: allocate("u8", weightMatrixBytes(type, shape)) };
}

/**
 * Writes the weights of one matrix to another, converted to its type.
 *
 * @param target - [N, K], written
 * @param source - [N, K] in any type; f64 too
 * @param where - what to call the matrix in messages
 * @throws FormatError when a weight is not finite, or too large for the type
 * @throws ShapeError when the source holds integers
 */
export function convertWeights(target: WeightMatrix, source: MatrixSource, where: string): void {
  const same = target.dtype === source.dtype && isInterleaved(target) === isInterleaved(source);
  if (same && (source.dtype !== "f16" || allFiniteHalves(source.data))) {
    target.data.set(source.data);
    if (target.dtype === "int8" && source.dtype === "int8") target.scales.set(source.scales);
    return;
  }
  const [N, K] = target.shape;
  const row = new Float32Array(K);
  const read = rowReader(source, where);
  const write = rowWriter(target);
  const takesInfinity = target.dtype === "f32" || target.dtype === "bf16";
  for (let n = 0; n < N; n++) {
    read(n, row);
    if ((takesInfinity || allFinite(row)) && write(n, row)) continue;
    const column = extremeOf(row);
    throw new FormatError(
      where,
      `weights that ${target.dtype} can hold`,
      { row: n, column, value: row[column] },
      "The file is damaged, or its weights need a type of wider range: f32 or bf16.",
    );
  }
}

/** f32 [N, K]: the numbers a matrix stands for; its own data when they are f32 already, else a copy. */
export function weightsToF32(matrix: MatrixSource): Float32Array {
  if (matrix.dtype === "f32" && !isInterleaved(matrix)) return matrix.data;
  const numbers = new Float32Array(sizeOf(matrix.shape));
  const [N, K] = matrix.shape;
  const read = rowReader(matrix, "weightsToF32");
  for (let n = 0; n < N; n++) read(n, numbers.subarray(n * K, (n + 1) * K));
  return numbers;
}

/** Whether the rows of a matrix are interleaved. */
export function isInterleaved(matrix: MatrixSource): boolean {
  return "interleaved" in matrix && matrix.interleaved === true;
}

/** Reads row n as f32. */
function rowReader(source: MatrixSource, where: string): (n: number, row: Float32Array) => void {
  const [, K] = source.shape;
  switch (source.dtype) {
    case "int8":
      return (n, row) => decodeInt8(row, rowBytes(source, n), source.scales[n]);
    case "q8_0":
      return (n, row) => decodeQ8(row, rowBytes(source, n));
    case "q4_0":
      return (n, row) => decodeQ4(row, rowBytes(source, n));
    case "f32":
      if (isInterleaved(source)) return (n, row) => readInterleaved(row, source.data, n);
      return (n, row) => row.set(source.data.subarray(n * K, (n + 1) * K));
    case "f64":
      return (n, row) => row.set(source.data.subarray(n * K, (n + 1) * K));
    case "f16":
      return (n, row) => f16RowToF32(row, source.data.subarray(n * K, (n + 1) * K));
    case "bf16":
      return (n, row) => bf16RowToF32(row, source.data.subarray(n * K, (n + 1) * K));
    default:
      throw new ShapeError(where, "a floating-point matrix", { dtype: source.dtype });
  }
}

/** Writes row n, and tells whether the type can hold it. */
function rowWriter(target: WeightMatrix): (n: number, row: Float32Array) => boolean {
  const [, K] = target.shape;
  switch (target.dtype) {
    case "f32":
      return (n, row) => {
        if (isInterleaved(target)) writeInterleaved(target.data, row, n);
        else target.data.set(row, n * K);
        return true;
      };
    case "f16":
      return (n, row) => {
        for (let k = 0; k < K; k++) {
          const bits = numberToF16(row[k]);
          if ((bits & 0x7fff) >= 0x7c00) return false;
          target.data[n * K + k] = bits;
        }
        return true;
      };
    case "bf16":
      return (n, row) => {
        for (let k = 0; k < K; k++) target.data[n * K + k] = numberToBf16(row[k]);
        return true;
      };
    case "int8":
      return (n, row) => {
        target.scales[n] = encodeInt8(rowBytes(target, n), row);
        return true;
      };
    case "q8_0":
      return (n, row) => encodeQ8(rowBytes(target, n), row);
    case "q4_0":
      return (n, row) => encodeQ4(rowBytes(target, n), row);
  }
}

function rowBytes({ data, shape: [N] }: QuantizedMatrix, n: number): Uint8Array {
  const bytes = data.length / N;
  return data.subarray(n * bytes, (n + 1) * bytes);
}

/** The column of the first weight that is not finite, or else of the largest. */
function extremeOf(row: Float32Array): number {
  const bad = row.findIndex((x) => !Number.isFinite(x));
  if (bad >= 0) return bad;
  return row.reduce((best, x, k) => (Math.abs(x) > Math.abs(row[best]) ? k : best), 0);
}

function allFinite(row: Float32Array): boolean {
  let sum = 0;
  for (let k = 0; k < row.length; k++) sum += row[k] * 0; // NaN once one is not finite
  return sum === 0;
}

/** Whether f16 are all finite: kernels would take others for numbers beyond 65504. */
function allFiniteHalves(bits: Uint16Array): boolean {
  for (let i = 0; i < bits.length; i++) if ((bits[i] & 0x7c00) === 0x7c00) return false;
  return true;
}
