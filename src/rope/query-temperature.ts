/**
 * Query temperature: a scale of the query that grows with its position, so that attention stays sharp over long
 * contexts. Llama 4 uses it on layers without rotation, Ministral 3 and Mistral 4 on rotated ones.
 *
 * @see https://arxiv.org/abs/2501.19399
 */

import { ShapeError } from "../errors.ts";
import type { QueryTemperature } from "./layer.ts";

/** The scale of a query at position p: 1 + beta·ln(1 + floor((p + offset) / length)). */
export function temperatureAt(temperature: QueryTemperature, position: number): number {
  const { beta, length, offset } = temperature;
  return 1 + beta * Math.log1p(Math.floor((position + offset) / length));
}

/**
 * The scales of T queries.
 *
 * @param temperature - the layer's query temperature
 * @param positions - [T], in tokens, at least 0
 * @returns f32 [T]
 * @throws ShapeError for a position that is negative or not a number
 */
export function temperatureScales(temperature: QueryTemperature, positions: ArrayLike<number>): Float32Array {
  const scales = new Float32Array(positions.length);
  for (let t = 0; t < scales.length; t++) {
    if (!(positions[t] >= 0)) {
      throw new ShapeError("temperatureScales", "positions must be at least 0", { index: t, position: positions[t] });
    }
    scales[t] = temperatureAt(temperature, positions[t]);
  }
  return scales;
}
