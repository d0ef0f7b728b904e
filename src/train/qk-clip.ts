/**
 * QK-clip: after a step, the query and key projections of heads whose scores grew too large are scaled down, so that
 * attention does not saturate.
 *
 * Where a head has its keys for itself both projections get the square root; where several query heads share keys the
 * queries get all of it, so that no other head changes.
 *
 * @see https://arxiv.org/abs/2507.20534, section 2.1 (MuonClip)
 */

import { CapabilityError } from "../errors.ts";
import type { LinearWeights } from "../model/decoder-weights.ts";
import { STEEP } from "./layer-gradients.ts";
import type { TrainableModel } from "./trainable-model.ts";

/** Refuses models whose scores do not follow the size of their projections. */
export function checkQkClip({ weights }: Pick<TrainableModel, "weights">): void {
  if (weights.layers.every((layer) => !layer.queryNorm && !layer.keyNorm)) return;
  const hint = "Normalised queries and keys bound the scores already; leave qkClip out.";
  throw new CapabilityError("train", "qkClip needs queries and keys without norms", {}, hint);
}

/**
 * Raises `largest` [H] to the largest scores of a layer.
 *
 * @param steep - [T, H], as `DecoderGradients.scores` gives them
 */
export function collectScores(largest: Float64Array, steep: Float32Array): void {
  const heads = largest.length;
  for (let i = 0; i < steep.length; i++) largest[i % heads] = Math.max(largest[i % heads], steep[i] / STEEP);
}

/**
 * Scales the heads whose largest score passed the limit; their scores reach it then.
 *
 * @param largest - [H] for every layer
 * @returns number of heads scaled
 */
export function clipHeads(
  { config, weights }: Pick<TrainableModel, "config" | "weights">,
  largest: readonly Float64Array[],
  limit: number,
): number {
  let clipped = 0;
  for (const [n, { heads, kvHeads, headDim }] of config.layers.entries()) {
    const { query, key } = weights.layers[n];
    for (let head = 0; head < heads; head++) {
      const score = largest[n][head];
      if (!(score > limit)) continue;
      clipped++;
      const factor = limit / score;
      if (kvHeads === heads) {
        scaleHead(query, head, headDim, Math.sqrt(factor));
        scaleHead(key, head, headDim, Math.sqrt(factor));
      } else {
        scaleHead(query, head, headDim, factor);
      }
    }
  }
  return clipped;
}

function scaleHead({ weight, bias }: LinearWeights, head: number, headDim: number, factor: number): void {
  const inputs = weight.shape[1];
  const first = head * headDim;
  const values = weight.data;
  for (let i = first * inputs; i < (first + headDim) * inputs; i++) values[i] *= factor;
  if (bias) for (let i = first; i < first + headDim; i++) bias.data[i] *= factor;
}
