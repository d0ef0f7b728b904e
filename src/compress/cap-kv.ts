/**
 * CapKV: tokens that add directions to what the values can say stay, weighted by how much queries look at them.
 *
 * @see https://arxiv.org/abs/2604.25975
 */

import { checkRange, checkWhole } from "./check-options.ts";
import { choleskyFactor, choleskyInverse } from "./cholesky.ts";
import { withSinks } from "./expected-attention.ts";
import { futureQueries } from "./future-queries.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type HeadRows, type Observation } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { addOuterProducts, quadraticForms, rowProducts } from "./row-products.ts";
import { largest, norm } from "./vectors.ts";

/** Options of {@link capKV}. */
export type CapKVOptions = {
  /** Sharpness of the weights; 5 unless told. */
  readonly tau?: number;
  /** Positions ahead whose rotation is averaged; 512 unless told. */
  readonly futurePositions?: number;
  /** First tokens that always stay and are left out of everything else; 4 unless told. */
  readonly sinks?: number;
  /** Added to the weights inside the matrix; 1e-6 unless told. */
  readonly epsilon?: number;
};

/**
 * Scores a token by w·vᵀA⁻¹v with A = I + Σ(w + ε)vvᵀ and w = exp(τ(cos(k, μ) − max)), averaged over query heads;
 * μ is the mean query as it will be at the next positions. Sinks get the layer's largest score + 1.
 *
 * @throws ConfigError when an option is out of range
 */
export function capKV(options: CapKVOptions = {}): ScorePolicy {
  const { tau = 5, futurePositions = 512, sinks = 4, epsilon = 1e-6 } = options;
  checkWhole("capKV", { futurePositions }, 1);
  checkWhole("capKV", { sinks }, 0);
  checkRange("capKV", { tau, epsilon }, 0, Infinity);
  return scorePolicy({
    name: "capKV",
    needs: { unrotatedQueries: Infinity },
    protects: () => ({ first: sinks, last: 0 }),
    score: (observation) => {
      const future = futureQueries("capKV", observation, { ahead: futurePositions, sinks, covariance: false });
      const perHead = future.map(({ mean }, head) => capacity(observation, head, mean, { tau, sinks, epsilon }));
      return withSinks(groupMean(perHead, groupOf(observation)), observation, sinks);
    },
  });
}

/** The scores of the slots behind the sinks, seen by one query head. */
function capacity(
  observation: Observation,
  head: number,
  mean: Float64Array,
  { tau, sinks, epsilon }: { readonly tau: number; readonly sinks: number; readonly epsilon: number },
): Float64Array {
  const { keys, values } = observation;
  const kvHead = Math.floor(head / groupOf(observation));
  const count = Math.max(0, keys.lengths[kvHead] - sinks);
  const behindSinks = ({ data, starts, stride }: HeadRows) => {
    return { data, start: starts[kvHead] + sinks * stride, stride, count };
  };
  const ofKeys = behindSinks(keys);
  const meanNorm = norm(mean, 0, mean.length) || 1;
  const cosines = rowProducts(mean, 1, keys.dim, ofKeys);
  for (let t = 0; t < count; t++) {
    cosines[t] /= meanNorm * (norm(keys.data, ofKeys.start + t * keys.stride, keys.dim) || 1);
  }
  const max = largest([cosines]);
  const weights = cosines.map((cosine) => Math.exp(tau * (cosine - max)));

  const D = values.dim;
  const ofValues = behindSinks(values);
  const matrix = new Float64Array(D * D);
  for (let i = 0; i < D; i++) matrix[i * D + i] = 1;
  addOuterProducts(matrix, D, ofValues, { weights: weights.map((weight) => weight + epsilon) });
  const forms = quadraticForms(choleskyInverse(choleskyFactor(matrix, D), D), D, ofValues);
  return weights.map((weight, t) => weight * forms[t]);
}
