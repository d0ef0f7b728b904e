/** Attention in two steps, weights and their sums over values, for those who want the weights. In f64, on the host. */

import type { AttentionGradients, DenseAttentionRequest } from "../attention/index.ts";
import { visiblePairs } from "../attention/reference.ts";
import { scoreModifiers } from "../attention/score.ts";
import { normalizeAttention } from "../attention/spec.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { AttentionDropout } from "./attention-function.ts";
import { bernoulli } from "./random.ts";

/**
 * The weight of each key for each query.
 *
 * @returns f32 [B, H, Tq, Tk]; rows sum to 1, or are 0 where nothing is visible
 * @throws ShapeError or ConfigError when the request does not fit together
 */
export function attentionWeights(request: DenseAttentionRequest): Float32Array {
  const spec = normalizeAttention(request);
  const { B, Tq, Tk, H, Hk, D } = spec.dims;
  const visible = visiblePairs(spec);
  const modify = scoreModifiers(spec);
  const weights = new Float32Array(B * H * Tq * Tk);
  const scores = new Float64Array(Tk);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const kvHead = Math.floor((h * Hk) / H);
      for (let i = 0; i < Tq; i++) {
        const query = ((b * Tq + i) * H + h) * D;
        let max = -Infinity;
        for (let j = 0; j < Tk; j++) {
          scores[j] = -Infinity;
          if (!visible(b, h, i, j)) continue;
          const key = ((b * Tk + j) * Hk + kvHead) * D;
          let dot = 0;
          for (let d = 0; d < D; d++) dot += spec.q.data[query + d] * spec.k.data[key + d];
          scores[j] = modify(dot * spec.scale, b, h, i, j);
          max = Math.max(max, scores[j]);
        }
        if (max === -Infinity) continue;
        const sum = scores.reduce((total, score) => total + Math.exp(score - max), 0);
        const row = ((b * H + h) * Tq + i) * Tk;
        for (let j = 0; j < Tk; j++) weights[row + j] = Math.exp(scores[j] - max) / sum;
      }
    }
  }
  return weights;
}

/**
 * Sets weights to 0 at random and divides the others by 1 − rate, with Flax's draws.
 *
 * @param weights - f32 [B, H, Tq, Tk]
 * @returns f32 [B, H, Tq, Tk]
 */
export function dropWeights(
  weights: Float32Array,
  { q, k }: DenseAttentionRequest,
  { rate, key, broadcast }: AttentionDropout,
): Float32Array {
  const factors = dropoutFactors(weights.length, { q, k }, { rate, key, broadcast });
  return weights.map((weight, i) => factors(i) * weight);
}

/** What the weight with this index in [B, H, Tq, Tk] is multiplied by: 0, or 1 / (1 − rate). */
function dropoutFactors(
  count: number,
  { q, k }: Pick<DenseAttentionRequest, "q" | "k">,
  { rate, key, broadcast }: AttentionDropout,
): (index: number) => number {
  const pairs = q.shape[1] * k.shape[1];
  const keep = bernoulli(key, 1 - rate, [broadcast ? pairs : count]).data;
  const factor = Math.fround(1 / Math.fround(1 - rate));
  return (i) => keep[broadcast ? i % pairs : i] * factor;
}

/**
 * The sums over values.
 *
 * @param weights - f32 [B, H, Tq, Tk]
 * @returns f32 [B, Tq, H, Dv]
 */
export function weighValues(weights: Float32Array, { q, k, v }: DenseAttentionRequest): Float32Array {
  const [B, Tq, H] = q.shape;
  const [, Tk, Hk] = k.shape;
  const Dv = v.shape[3];
  const out = new Float32Array(B * Tq * H * Dv);
  const sums = new Float64Array(Dv);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const kvHead = Math.floor((h * Hk) / H);
      for (let i = 0; i < Tq; i++) {
        const row = ((b * H + h) * Tq + i) * Tk;
        sums.fill(0);
        for (let j = 0; j < Tk; j++) {
          const value = ((b * Tk + j) * Hk + kvHead) * Dv;
          for (let d = 0; d < Dv; d++) sums[d] += weights[row + j] * v.data[value + d];
        }
        out.set(sums, ((b * Tq + i) * H + h) * Dv);
      }
    }
  }
  return out;
}

/**
 * Gradients of Σ dOut · out where weights have been dropped with Flax's draws: `referenceAttentionGradients` with weights
 * p and their factors z at hand.
 *
 * @param weights - f32 [B, H, Tq, Tk], before dropout
 * @param dOut - [B, Tq, H, Dv]
 */
export function droppedAttentionGradients(
  request: DenseAttentionRequest,
  weights: Float32Array,
  dropout: AttentionDropout,
  dOut: Tensor<"f32">,
): AttentionGradients<"f64"> {
  const { scale, dims, bias } = normalizeAttention(request);
  const { B, Tq, Tk, H, Hk, D, Dv } = dims;
  const [q, k, v, g] = [request.q.data, request.k.data, request.v.data, dOut.data];
  const factors = dropoutFactors(weights.length, request, dropout);
  const [dq, dk, dv] = [q, k, v].map((input) => new Float64Array(input.length));
  const dbias = bias && new Float64Array(bias.values.length);
  const products = new Float64Array(Tk); // z·(g·v)
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const keyRow = (j: number): number => (b * Tk + j) * Hk + Math.floor((h * Hk) / H);
      for (let i = 0; i < Tq; i++) {
        const row = (b * Tq + i) * H + h;
        const first = ((b * H + h) * Tq + i) * Tk;
        let delta = 0; // g·out
        for (let j = 0; j < Tk; j++) {
          const [p, z, key] = [weights[first + j], factors(first + j), keyRow(j)];
          let dot = 0;
          for (let d = 0; d < Dv; d++) {
            dot += g[row * Dv + d] * v[key * Dv + d];
            dv[key * Dv + d] += p * z * g[row * Dv + d];
          }
          products[j] = z * dot;
          delta += p * products[j];
        }
        for (let j = 0; j < Tk; j++) {
          const key = keyRow(j);
          const ds = weights[first + j] * (products[j] - delta);
          if (bias && dbias) {
            const [sb, sh, si, sj] = bias.strides;
            dbias[b * sb + h * sh + i * si + j * sj] += ds;
          }
          for (let d = 0; d < D; d++) {
            dq[row * D + d] += scale * ds * k[key * D + d];
            dk[key * D + d] += scale * ds * q[row * D + d];
          }
        }
      }
    }
  }
  return {
    dq: tensor("f64", request.q.shape, dq),
    dk: tensor("f64", request.k.shape, dk),
    dv: tensor("f64", request.v.shape, dv),
    ...(dbias && request.bias && { dbias: tensor("f64", request.bias.shape, dbias) }),
  };
}
