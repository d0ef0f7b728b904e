/**
 * The two pairings hold the same numbers in another order, so weights can be moved from one to the other.
 *
 * Within the R rotated dims of a head, interleaved dim 2i + j is half-split dim i + j·R/2. Applied to the rows of
 * the query and key projections, their biases and their norm gains, the scores stay exactly the same.
 */

import { ShapeError } from "../errors.ts";
import type { Pairing } from "./layer.ts";

/** Typed arrays that hold weights. */
export type WeightArray = Float32Array | Float64Array | Uint16Array | Int8Array | Uint8Array;

/** The layout of a weight whose rows are features of heads. */
export type PairingLayout = {
  /** D, rows of each head. */
  readonly headDim: number;
  /** R, rotated rows of each head; even. */
  readonly rotaryDim: number;
  /** First rotated row of each head; 0 unless told. */
  readonly rotaryOffset?: number;
  /** Elements of a row: the input width of a projection, 1 for a bias or a gain. */
  readonly columns: number;
};

/**
 * Reorders the rows of a query or key weight (or bias, or norm gain) from one pairing to the other.
 *
 * @param weight - [H·D, columns] row-major, for any number of heads H
 * @param layout - sizes of a head
 * @param from - the pairing the weight has
 * @param to - the pairing it shall have
 * @returns a new array of the same type
 * @throws ShapeError when the sizes do not fit
 */
export function convertPairing<W extends WeightArray>(weight: W, layout: PairingLayout, from: Pairing, to: Pairing): W {
  const { headDim, rotaryDim, rotaryOffset = 0, columns } = layout;
  const isCount = (n: number): boolean => Number.isSafeInteger(n) && n > 0;
  const inside = rotaryOffset >= 0 && rotaryOffset + rotaryDim <= headDim;
  if (!isCount(headDim) || !isCount(rotaryDim / 2) || !isCount(columns) || !inside) {
    throw new ShapeError("convertPairing", "rotaryDim must be even and lie inside the head", { ...layout });
  }
  if (weight.length % (headDim * columns) !== 0) {
    throw new ShapeError("convertPairing", "the weight must hold whole heads of headDim * columns elements", {
      length: weight.length,
      headDim,
      columns,
    });
  }
  const out = weight.slice() as W;
  if (from === to) return out;
  for (let head = 0; head < weight.length / columns; head += headDim) {
    for (let i = 0; i < rotaryDim; i++) {
      const interleaved = head + rotaryOffset + i;
      const half = head + rotaryOffset + Math.floor(i / 2) + (i % 2) * (rotaryDim / 2);
      const [source, target] = from === "interleaved" ? [interleaved, half] : [half, interleaved];
      out.set(weight.subarray(source * columns, (source + 1) * columns), target * columns);
    }
  }
  return out;
}
