/**
 * Rotation of queries and keys by a table.
 *
 * A pair (x1, x2) at angle φ becomes (x1·cos φ − x2·sin φ, x2·cos φ + x1·sin φ), times the table's factor. Dims
 * outside the rotated slice are copied bit for bit.
 */

import { ShapeError } from "../errors.ts";
import type { RotaryTable } from "./table.ts";

/**
 * Which way to turn. `inverse` undoes `forward` (turns by −φ and divides by the factor). `transpose` is the
 * gradient of `forward`: applied to the cotangent of the output it gives that of the input (−φ, times the factor).
 * The two are equal where the factor is 1.
 */
export type RotationDirection = "forward" | "inverse" | "transpose";

/** The layout of the rows to rotate. */
export type RotateOptions = {
  /** H, heads per token. */
  readonly heads: number;
  /** D, width of a head. */
  readonly headDim: number;
  /** `forward` unless told. */
  readonly direction?: RotationDirection;
};

/** A table to rotate with, in f32 or f64; `factor` is needed only by `inverse`, and is 1 when absent. */
export type RotationInput = Omit<RotaryTable, "cos" | "sin" | "factor"> & {
  readonly cos: Float32Array | Float64Array;
  readonly sin: Float32Array | Float64Array;
  readonly factor?: number;
};

/**
 * Rotates every head of every token into `out`.
 *
 * @param out - f32 [T, H, D]; may be `x` itself, must not overlap it otherwise
 * @param x - f32 [T, H, D], row-major
 * @param table - cosines and sines of the T tokens
 * @throws ShapeError when sizes do not fit or `out` overlaps `x` in part
 */
export function rotateInto(out: Float32Array, x: Float32Array, table: RotationInput, options: RotateOptions): void {
  const { heads, headDim, direction = "forward" } = options;
  checkSizes(out, x, table, options);
  const { cos, sin, factor = 1, rotaryDim, rotaryOffset, pairing } = table;
  const pairs = rotaryDim / 2;
  const step = pairing === "half" ? 1 : 2; // from the first dim of a pair to that of the next
  const partner = pairing === "half" ? pairs : 1; // from the first dim of a pair to its second
  const scale = direction === "inverse" ? 1 / (factor * factor) : 1;
  const turn = direction === "forward" ? scale : -scale;
  const rows = x.length / (heads * headDim);
  if (out !== x) out.set(x);
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads; head++) {
      const base = (row * heads + head) * headDim + rotaryOffset;
      for (let pair = 0; pair < pairs; pair++) {
        const first = base + pair * step;
        const second = first + partner;
        const c = scale * cos[row * pairs + pair];
        const s = turn * sin[row * pairs + pair];
        const x1 = out[first];
        const x2 = out[second];
        out[first] = x1 * c - x2 * s;
        out[second] = x2 * c + x1 * s;
      }
    }
  }
}

/**
 * Rotates every head of every token into a new array.
 *
 * @param x - f32 [T, H, D], row-major
 * @param table - cosines and sines of the T tokens
 * @returns f32 [T, H, D]
 * @throws ShapeError when sizes do not fit
 */
export function rotate(x: Float32Array, table: RotationInput, options: RotateOptions): Float32Array {
  const out = new Float32Array(x.length);
  rotateInto(out, x, table, options);
  return out;
}

function checkSizes(out: Float32Array, x: Float32Array, table: RotationInput, options: RotateOptions): void {
  const { heads, headDim } = options;
  const { cos, sin, rotaryDim, rotaryOffset } = table;
  const isCount = (n: number): boolean => Number.isSafeInteger(n) && n > 0;
  const fits = isCount(headDim) && isCount(rotaryDim / 2) && rotaryOffset >= 0 && rotaryOffset + rotaryDim <= headDim;
  if (!fits) {
    throw new ShapeError("rotateInto", "the rotated dims must lie inside the head", {
      headDim,
      rotaryDim,
      rotaryOffset,
    });
  }
  const rows = cos.length / (rotaryDim / 2);
  const expected = rows * heads * headDim;
  if (!isCount(heads) || sin.length !== cos.length || x.length !== expected || out.length !== expected) {
    throw new ShapeError("rotateInto", "x and out must hold rows * heads * headDim numbers", {
      x: x.length,
      out: out.length,
      rows,
      heads,
      headDim,
    });
  }
  if (out === x || out.buffer !== x.buffer || out.byteOffset === x.byteOffset) return;
  if (Math.abs(out.byteOffset - x.byteOffset) < x.byteLength) {
    throw new ShapeError("rotateInto", "out must be x itself or not overlap it", {
      outOffset: out.byteOffset,
      xOffset: x.byteOffset,
    });
  }
}
