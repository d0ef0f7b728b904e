/**
 * Where queries will point: statistics of the queries so far, turned by the average rotation of the positions to
 * come.
 */

import { rotaryTable } from "../rope/index.ts";
import { type Observation, observed } from "./observation.ts";
import { addOuterProducts, meanRow, mirrorLower } from "./row-products.ts";

/** Mean and covariance of one head's future queries. */
export type QueryStatistics = {
  /** f64 [D]. */
  readonly mean: Float64Array;
  /** f64 [D, D]; absent unless asked for. */
  readonly covariance?: Float64Array;
};

/** The average over positions of a rotation, as cosine and sine of every pair (its length shrinks). */
type MeanRotation = (vector: Float64Array, start: number, stride: number) => void;

/**
 * Statistics of every head's queries as they will be at the next positions.
 *
 * @param observation - with unrotated queries
 * @param options - positions ahead to average over, first positions to leave out, whether covariance is wanted
 * @returns [H]
 */
export function futureQueries(
  where: string,
  observation: Observation,
  { ahead, sinks, covariance }: { readonly ahead: number; readonly sinks: number; readonly covariance: boolean },
): QueryStatistics[] {
  const { rows, positions } = observed(where, observation, "unrotatedQueries");
  const D = rows.dim;
  const behind = positions.findIndex((position) => position >= sinks);
  const first = Math.max(0, behind); // all, where there are only sinks
  const count = positions.length - first;
  const turn = meanRotation(observation, ahead);

  const { data, stride } = rows;
  return Array.from(rows.starts, (headStart) => {
    const start = headStart + first * stride;
    const mean = meanRow({ data, start, stride, count }, D);
    if (!covariance) {
      turn(mean, 0, 1);
      return { mean };
    }
    const matrix = new Float64Array(D * D);
    addOuterProducts(matrix, D, { data, start, stride, count }, { centre: mean });
    mirrorLower(matrix, D);
    for (let n = 0; n < matrix.length; n++) matrix[n] /= count;
    for (let d = 0; d < D; d++) turn(matrix, d * D, 1); // rows
    for (let d = 0; d < D; d++) turn(matrix, d, D); // columns
    turn(mean, 0, 1);
    return { mean, covariance: matrix };
  });
}

/** The average rotation over the next positions, attention factor included. */
function meanRotation({ rotary, nextPosition, scheduleLength }: Observation, ahead: number): MeanRotation {
  if (rotary === null) return () => {};
  const positions = Array.from({ length: ahead }, (_, i) => nextPosition + i);
  const length = scheduleLength === undefined ? {} : { length: scheduleLength };
  const table = rotaryTable(rotary, positions, length);
  const pairs = rotary.rotaryDim / 2;
  const cos = new Float64Array(pairs);
  const sin = new Float64Array(pairs);
  for (let n = 0; n < table.cos.length; n++) {
    cos[n % pairs] += table.cos[n] / ahead;
    sin[n % pairs] += table.sin[n] / ahead;
  }
  const [step, partner] = rotary.pairing === "half" ? [1, pairs] : [2, 1];
  return (vector, start, stride) => {
    for (let pair = 0; pair < pairs; pair++) {
      const first = start + (rotary.rotaryOffset + pair * step) * stride;
      const second = first + partner * stride;
      const [x1, x2] = [vector[first], vector[second]];
      vector[first] = x1 * cos[pair] - x2 * sin[pair];
      vector[second] = x2 * cos[pair] + x1 * sin[pair];
    }
  };
}
