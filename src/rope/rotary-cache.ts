/**
 * Tables for many calls, computed once. A position p = 1024·a + b is rotated by two stored angles joined by the
 * addition theorem in f64, so that a million positions take 2·1024 rows and no accuracy.
 */

import { ConfigError } from "../errors.ts";
import type { RotaryLayer } from "./layer.ts";
import { frequencies } from "./schedule.ts";
import { type Positions, positionRow, positionRows, type RotaryTable } from "./table.ts";

const FINE_BITS = 10;
const FINE_ROWS = 1 << FINE_BITS;

/** Precomputed angles of one layer at one length; the caller owns it. */
export type RotaryCache = {
  readonly layer: RotaryLayer;
  /** Positions 0 to maxPositions − 1 can be asked for. */
  readonly maxPositions: number;
  /** The length that decided the frequencies. */
  readonly length: number;
  /** Bytes held. */
  readonly bytes: number;
  /**
   * The same as `rotaryTable` with this cache's layer and length.
   *
   * @param positions - [T] or one row [T] per axis, integers below `maxPositions`
   * @throws ConfigError when a position lies outside the cache; ShapeError as `rotaryTable`
   */
  table(positions: Positions): RotaryTable;
};

/** What a cache covers. */
export type RotaryCacheOptions = {
  /** Number of positions; at most 2^31. */
  readonly maxPositions: number;
  /** Tokens of the sequence, for schedules that depend on it; `maxPositions` unless told. */
  readonly length?: number;
  /** Multiply by the schedule's attention factor; true unless told. */
  readonly withAttentionFactor?: boolean;
};

/**
 * Precomputes the angles of a layer for positions 0 to maxPositions − 1.
 *
 * @param layer - the rotation of one attention layer
 * @returns a cache of about 16·(R/2)·(1024 + maxPositions/1024) bytes
 * @throws ConfigError for an impossible schedule or size
 */
export function createRotaryCache(layer: RotaryLayer, options: RotaryCacheOptions): RotaryCache {
  const where = "createRotaryCache";
  const { maxPositions, length = maxPositions, withAttentionFactor = true } = options;
  if (!Number.isSafeInteger(maxPositions) || maxPositions < 1 || maxPositions > 2 ** 31) {
    throw new ConfigError(where, "maxPositions must be an integer from 1 to 2^31", { maxPositions });
  }
  positionRows(where, layer, []); // checks the layer
  const { inverseFrequencies, attentionFactor } = frequencies(layer.schedule, length);
  const factor = withAttentionFactor ? attentionFactor : 1;
  const pairs = layer.rotaryDim / 2;
  const fine = angles(Math.min(FINE_ROWS, maxPositions), 1, inverseFrequencies);
  const coarse = angles(Math.ceil(maxPositions / FINE_ROWS), FINE_ROWS, inverseFrequencies);

  function table(positions: Positions): RotaryTable {
    const axes = positionRows("RotaryCache.table", layer, positions);
    for (const row of axes) checkBounds(row, maxPositions);
    const rows = axes[0].length;
    const cos = new Float32Array(rows * pairs);
    const sin = new Float32Array(rows * pairs);
    for (let t = 0; t < rows; t++) {
      for (let pair = 0; pair < pairs; pair++) {
        const position = positionRow(layer, axes, pair)[t];
        const a = Math.floor(position / FINE_ROWS) * pairs + pair;
        const b = (position % FINE_ROWS) * pairs + pair;
        cos[t * pairs + pair] = factor * (coarse.cos[a] * fine.cos[b] - coarse.sin[a] * fine.sin[b]);
        sin[t * pairs + pair] = factor * (coarse.sin[a] * fine.cos[b] + coarse.cos[a] * fine.sin[b]);
      }
    }
    const { rotaryDim, rotaryOffset, pairing } = layer;
    return { cos, sin, factor, rotaryDim, rotaryOffset, pairing };
  }

  const bytes = 2 * (fine.cos.byteLength + coarse.cos.byteLength);
  return { layer, maxPositions, length, bytes, table };
}

/** f64 [rows, R/2] cosines and sines of positions 0, step, 2·step, ... */
function angles(rows: number, step: number, omegas: Float64Array): { cos: Float64Array; sin: Float64Array } {
  const pairs = omegas.length;
  const cos = new Float64Array(rows * pairs);
  const sin = new Float64Array(rows * pairs);
  for (let row = 0; row < rows; row++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = row * step * omegas[pair];
      cos[row * pairs + pair] = Math.cos(angle);
      sin[row * pairs + pair] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

function checkBounds(row: ArrayLike<number>, maxPositions: number): void {
  for (let t = 0; t < row.length; t++) {
    const position = row[t];
    if (!Number.isInteger(position) || position < 0 || position >= maxPositions) {
      throw new ConfigError(
        "RotaryCache.table",
        "positions must be integers from 0 to maxPositions - 1",
        { position, index: t, maxPositions },
        "Create the cache with a larger maxPositions, or use rotaryTable.",
      );
    }
  }
}
