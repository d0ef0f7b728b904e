/**
 * Evicted values are folded into the kept token with the most similar key instead of being lost.
 *
 * @see https://arxiv.org/abs/2406.13035 and https://arxiv.org/abs/2210.09461 for the idea, kvpress' MergingPress for
 * the weights
 */

import { ConfigError } from "../errors.ts";
import { checkRange } from "./check-options.ts";
import type { HeadRows, Observation } from "./observation.ts";
import type { Policy } from "./policy.ts";
import { unscored } from "./rerotated.ts";
import { norm } from "./vectors.ts";

/** Options of {@link merging}. */
export type MergingOptions = {
  /** Least cosine similarity of keys for a merge, 0 to 1; 0 unless told. */
  readonly similarity?: number;
  /** Share of a head's evicted tokens that merge, the most similar first, 0 to 1; 1 unless told. */
  readonly fraction?: number;
};

const TINY = 1e-6;

/**
 * Folds what another policy evicts into what it keeps: v ← (v + Σω·v_e)/(1 + Σω) over the evicted tokens e whose most
 * similar kept key is that of v, with ω = max(similarity, 0)·‖v_e‖/(‖v_e‖ + ‖v‖). Keys stay as they are.
 *
 * @param policy - decides what stays
 * @throws ConfigError when the policy evicts nothing or merges already
 */
export function merging(policy: Policy, { similarity = 0, fraction = 1 }: MergingOptions = {}): Policy {
  checkRange("merging", { similarity }, 0, 1);
  checkRange("merging", { fraction }, Number.MIN_VALUE, 1);
  if (!policy.effects.includes("evicts") || policy.effects.includes("merges values")) {
    throw new ConfigError("merging", "a policy that evicts tokens and does not merge yet", {
      policy: policy.name,
      effects: policy.effects,
    });
  }
  return {
    ...unscored(policy),
    name: `merging(${policy.name})`,
    effects: [...policy.effects, "merges values"],
    plan: (layers, amount) =>
      policy.plan(layers, amount).map((plan, n) => ({
        ...plan,
        values: plan.kept.map((kept, head) => mergedValues(layers[n], head, kept, similarity, fraction)),
      })),
  };
}

/** The kept values of one head with the evicted ones folded in: f32 [n, Dv]. */
function mergedValues(
  { keys, values }: Observation,
  head: number,
  kept: Int32Array,
  least: number,
  fraction: number,
): Float32Array {
  const keyAt = (slot: number): number => keys.starts[head] + slot * keys.stride;
  const valueAt = (slot: number): number => values.starts[head] + slot * values.stride;
  const valueNorm = (slot: number): number => norm(values.data, valueAt(slot), values.dim);
  const keyNorms = Float64Array.from({ length: keys.lengths[head] }, (_, slot) =>
    Math.max(TINY, norm(keys.data, keyAt(slot), keys.dim)),
  );
  const stays = new Set(kept);
  const evicted = Array.from(keyNorms.keys()).filter((slot) => !stays.has(slot));
  const matches = mostSimilar(keys, head, evicted, kept, keyNorms);
  const cosines = matches.map(({ cosine }) => (cosine >= least ? cosine : -Infinity));
  const threshold = Math.max(least, fraction < 1 ? quantile(cosines, 1 - fraction) : least);

  const Dv = values.dim;
  const sums = new Float64Array(kept.length * Dv);
  const weights = new Float64Array(kept.length);
  for (const [n, slot] of kept.entries()) {
    for (let d = 0; d < Dv; d++) sums[n * Dv + d] = values.data[valueAt(slot) + d];
  }
  for (const { slot, target, cosine } of matches) {
    if (target < 0 || !(cosine >= threshold)) continue;
    const own = valueNorm(slot);
    const weight = (Math.max(0, cosine) * own) / (own + valueNorm(kept[target]) + TINY);
    weights[target] += weight;
    for (let d = 0; d < Dv; d++) sums[target * Dv + d] += weight * values.data[valueAt(slot) + d];
  }
  return Float32Array.from(sums, (total, n) => total / (1 + weights[Math.floor(n / Dv)]));
}

/** Evicted keys that are compared together, so that a kept one is read once for all. */
const AT_ONCE = 4;

/** Which kept key is most similar to each evicted one; of equals the earliest. */
function mostSimilar(
  { data, dim, starts, stride }: HeadRows,
  head: number,
  evicted: readonly number[],
  kept: Int32Array,
  norms: Float64Array,
): { readonly slot: number; readonly target: number; readonly cosine: number }[] {
  const units = new Float64Array(kept.length * dim);
  for (const [n, slot] of kept.entries()) {
    const at = starts[head] + slot * stride;
    for (let d = 0; d < dim; d++) units[n * dim + d] = data[at + d] / norms[slot];
  }
  const four = new Float64Array(AT_ONCE * dim); // [dim][AT_ONCE]
  const matches: { slot: number; target: number; cosine: number }[] = [];
  for (let first = 0; first < evicted.length; first += AT_ONCE) {
    const slots = Array.from({ length: AT_ONCE }, (_, n) => evicted[Math.min(evicted.length - 1, first + n)]);
    for (const [n, slot] of slots.entries()) {
      const at = starts[head] + slot * stride;
      for (let d = 0; d < dim; d++) four[d * AT_ONCE + n] = data[at + d];
    }
    const best = slots.map((slot) => ({ slot, target: -1, cosine: -Infinity }));
    const [b0, b1, b2, b3] = best;
    for (let target = 0, at = 0; target < kept.length; target++) {
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let d = 0, k = 0; d < dim; d++, k += AT_ONCE, at++) {
        const unit = units[at];
        s0 += unit * four[k];
        s1 += unit * four[k + 1];
        s2 += unit * four[k + 2];
        s3 += unit * four[k + 3];
      }
      if (s0 > b0.cosine) [b0.cosine, b0.target] = [s0, target];
      if (s1 > b1.cosine) [b1.cosine, b1.target] = [s1, target];
      if (s2 > b2.cosine) [b2.cosine, b2.target] = [s2, target];
      if (s3 > b3.cosine) [b3.cosine, b3.target] = [s3, target];
    }
    for (const one of best.slice(0, evicted.length - first)) {
      matches.push({ ...one, cosine: one.cosine / norms[one.slot] });
    }
  }
  return matches;
}

/** Quantile by linear interpolation between neighbours; −Infinity where the lower neighbour is. */
function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) return -Infinity;
  const sorted = Float64Array.from(values).sort();
  const place = q * (sorted.length - 1);
  const low = sorted[Math.floor(place)];
  const high = sorted[Math.ceil(place)];
  return low === -Infinity ? low : low + (high - low) * (place - Math.floor(place));
}
