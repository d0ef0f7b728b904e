/** How large a value is once the output projection has seen it. */

import { kvHeadsOf, type Observation, observed } from "./observation.ts";

/**
 * Norms of W_o·v for every query head; those that the observation has are taken from there.
 *
 * @param order - 1 for the sum of magnitudes, 2 for the Euclidean norm
 * @returns f64 [H][T]
 */
export function projectedNorms(where: string, observation: Observation, order: 1 | 2): readonly Float64Array[] {
  if (observation.projectedNorms?.order === order) return observation.projectedNorms.rows;
  const { heads, values } = observation;
  const weight = observed(where, observation, "outputProjection"); // [C, H·Dv]
  const Dv = values.dim;
  const C = weight.length / (heads * Dv);
  return Array.from({ length: heads }, (_, head) => {
    const kvHead = Math.floor((head * kvHeadsOf(observation)) / heads);
    return Float64Array.from({ length: values.lengths[kvHead] }, (_, t) => {
      const at = values.starts[kvHead] + t * values.stride;
      let total = 0;
      for (let c = 0; c < C; c++) {
        let out = 0;
        for (let d = 0; d < Dv; d++) out += weight[(c * heads + head) * Dv + d] * values.data[at + d];
        total += order === 1 ? Math.abs(out) : out * out;
      }
      return order === 1 ? total : Math.sqrt(total);
    });
  });
}
