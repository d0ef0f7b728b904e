/**
 * Cosines and sines for given positions, half width: one column per pair. Angles are computed in f64 and only the
 * results are stored as f32; an angle computed in f32 is off by 0.09 rad at a million tokens.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import type { Pairing, RotaryLayer } from "./layer.ts";
import { frequencies, pairCount } from "./schedule.ts";

/**
 * Positions of T tokens: one number per token, or one row of T numbers per axis (M-RoPE: t, h, w). A layer with
 * several axes takes a single row as the same position on every axis, as text has.
 */
export type Positions = ArrayLike<number> | readonly ArrayLike<number>[];

/** Cosines and sines of T tokens, with the layout they belong to: all that a rotation needs. */
export type RotaryTable = {
  /** f32 [T, R/2], `factor` times the cosines. */
  readonly cos: Float32Array;
  /** f32 [T, R/2], `factor` times the sines. */
  readonly sin: Float32Array;
  /** What cos and sin are multiplied by: the attention factor, or 1. */
  readonly factor: number;
  /** R, rotated dims. */
  readonly rotaryDim: number;
  /** First rotated dim. */
  readonly rotaryOffset: number;
  readonly pairing: Pairing;
};

/** How a table is built. */
export type RotaryTableOptions = {
  /** Tokens of the sequence, for schedules that depend on it; the largest position + 1 unless told. */
  readonly length?: number;
  /** Multiply by the schedule's attention factor; true unless told. */
  readonly withAttentionFactor?: boolean;
};

/**
 * The cosines and sines that rotate tokens at these positions.
 *
 * @param layer - the rotation of one attention layer
 * @param positions - [T] or one row [T] per axis, in tokens; fractions and negative numbers are allowed
 * @returns f32 [T, R/2] cosines and sines, correct to 1e-6 up to position 2^20 and beyond
 * @throws ShapeError when the rows of positions do not fit the layer; ConfigError for an impossible schedule
 */
export function rotaryTable(layer: RotaryLayer, positions: Positions, options: RotaryTableOptions = {}): RotaryTable {
  const axes = positionRows("rotaryTable", layer, positions);
  const { inverseFrequencies, attentionFactor } = frequencies(layer.schedule, options.length ?? lengthOf(axes));
  const factor = options.withAttentionFactor === false ? 1 : attentionFactor;
  return tableOf(layer, axes[0].length, factor, (pair, row) => {
    return positionRow(layer, axes, pair)[row] * inverseFrequencies[pair];
  });
}

/** A table of any angles: `angle` gives the radians of a pair at a row. */
export function tableOf(
  layer: RotaryLayer,
  rows: number,
  factor: number,
  angle: (pair: number, row: number) => number,
): RotaryTable {
  const pairs = layer.rotaryDim / 2;
  const cos = new Float32Array(rows * pairs);
  const sin = new Float32Array(rows * pairs);
  for (let row = 0; row < rows; row++) {
    for (let pair = 0; pair < pairs; pair++) {
      const radians = angle(pair, row);
      cos[row * pairs + pair] = factor * Math.cos(radians);
      sin[row * pairs + pair] = factor * Math.sin(radians);
    }
  }
  const { rotaryDim, rotaryOffset, pairing } = layer;
  return { cos, sin, factor, rotaryDim, rotaryOffset, pairing };
}

/**
 * Positions as one row per axis, checked against the layer.
 *
 * @throws ShapeError when rows are missing, differ in length, or hold something that is not a finite number
 * @throws ConfigError when the layer contradicts itself
 */
export function positionRows(where: string, layer: RotaryLayer, positions: Positions): readonly ArrayLike<number>[] {
  validateLayer(where, layer);
  const rows = isRows(positions) ? positions : [positions];
  const axes = layer.pairAxes === undefined ? 1 : Math.max(...layer.pairAxes) + 1;
  if (rows.length !== 1 && rows.length < axes) {
    throw new ShapeError(where, "positions must have one row, or one per axis of the layer", {
      rows: rows.length,
      axes,
    });
  }
  if (rows.length > 1 && layer.pairAxes === undefined) {
    throw new ShapeError(where, "a layer without pairAxes takes one row of positions", { rows: rows.length });
  }
  for (const row of rows) {
    if (row.length !== rows[0].length) {
      throw new ShapeError(where, "rows of positions must have the same length", {
        lengths: rows.map((r) => r.length),
      });
    }
    for (let t = 0; t < row.length; t++) {
      if (!Number.isFinite(row[t])) {
        throw new ShapeError(where, "positions must be finite numbers", { index: t, position: row[t] });
      }
    }
  }
  return rows;
}

/** The row of positions that a pair turns by. */
export function positionRow(layer: RotaryLayer, rows: readonly ArrayLike<number>[], pair: number): ArrayLike<number> {
  return rows.length === 1 ? rows[0] : rows[layer.pairAxes?.[pair] ?? 0];
}

/** Tokens of the sequence that ends at the largest position. */
export function lengthOf(rows: readonly ArrayLike<number>[]): number {
  let largest = 0;
  for (const row of rows) for (let t = 0; t < row.length; t++) largest = Math.max(largest, row[t]);
  return Math.floor(largest) + 1;
}

function isRows(positions: Positions): positions is readonly ArrayLike<number>[] {
  return Array.isArray(positions) && typeof positions[0] === "object";
}

function validateLayer(where: string, layer: RotaryLayer): void {
  const { headDim, rotaryDim, rotaryOffset, pairAxes, schedule } = layer;
  const pairs = pairCount(schedule);
  const inside = rotaryOffset >= 0 && rotaryOffset + rotaryDim <= headDim;
  if (!Number.isSafeInteger(headDim) || !Number.isSafeInteger(rotaryOffset) || rotaryDim !== 2 * pairs || !inside) {
    throw new ConfigError(where, "rotaryDim must be twice the schedule's pairs and lie inside the head", {
      headDim,
      rotaryDim,
      rotaryOffset,
      pairs,
    });
  }
  if (pairAxes === undefined) return;
  if (pairAxes.length !== pairs || !pairAxes.every((axis) => Number.isSafeInteger(axis) && axis >= 0)) {
    throw new ConfigError(where, "pairAxes must name an axis for every pair", { pairs, pairAxes });
  }
}
