/**
 * xPos: queries grow and keys shrink with position, so that a rotated score decays with distance.
 *
 * @see https://arxiv.org/abs/2212.10554
 */

import { ConfigError } from "../errors.ts";
import type { RotaryTable } from "./table.ts";

/** What xPos needs to know. */
export type XposOptions = {
  /** D in ζ_i = (2i + 0.4·D) / (1.4·D). */
  readonly headDim: number;
  /** Position at which the scale is 1; any one value gives the same scores. 0 unless told. */
  readonly center?: number;
  /** Tokens over which the scale changes by ζ; 512 unless told. */
  readonly scaleBase?: number;
};

/** Tables for queries and for keys; the scales are in the cosines and sines. */
export type XposTables = { readonly queries: RotaryTable; readonly keys: RotaryTable };

/**
 * Puts the xPos scales of queries (ζ^((p − c)/s)) and keys (ζ^(−(p − c)/s)) into a table.
 *
 * @param table - cosines and sines of T tokens, of a layer with interleaved pairs
 * @param positions - [T], in tokens
 * @returns a table for queries and one for keys; only `forward` rotation makes sense with them
 * @throws ConfigError for sizes that do not fit
 */
export function xposTables(table: RotaryTable, positions: ArrayLike<number>, options: XposOptions): XposTables {
  const { headDim, center = 0, scaleBase = 512 } = options;
  const pairs = table.rotaryDim / 2;
  if (table.cos.length !== positions.length * pairs || !(headDim > 0) || !(scaleBase > 0)) {
    throw new ConfigError("xposTables", "one position per row of the table, headDim and scaleBase greater than 0", {
      positions: positions.length,
      rows: table.cos.length / pairs,
      headDim,
      scaleBase,
    });
  }
  const scaled = (values: Float32Array, sign: 1 | -1): Float32Array =>
    values.map((value, index) => {
      const pair = index % pairs;
      const zeta = (2 * pair + 0.4 * headDim) / (1.4 * headDim);
      return value * zeta ** ((sign * (positions[Math.floor(index / pairs)] - center)) / scaleBase);
    });
  return {
    queries: { ...table, cos: scaled(table.cos, 1), sin: scaled(table.sin, 1) },
    keys: { ...table, cos: scaled(table.cos, -1), sin: scaled(table.sin, -1) },
  };
}
