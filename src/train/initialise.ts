/** Weights to begin with. */

import type { DecoderWeights } from "../model/decoder-weights.ts";
import type { Parameters } from "./parameters.ts";
import { randomStream, truncatedNormal } from "./random-stream.ts";

/** Standard deviation of weights before truncation. */
const DEVIATION = 0.02;

/**
 * Fills all weights: matrices with truncated normal numbers of deviation 0.02, those that add to the residual stream with
 * 1/sqrt(2L) of it, gains with 1 and biases with 0. Every weight has its own random stream, named like the weight.
 *
 * @see https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, section 2.3
 */
export function initialise(parameters: Parameters, weights: DecoderWeights, seed: number): void {
  const residual = new Set<unknown>();
  const biases = new Set<unknown>();
  for (const layer of weights.layers) {
    residual.add(layer.output.weight.data.byteOffset).add(layer.down.weight.data.byteOffset);
    for (const { bias } of [layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down]) {
      if (bias) biases.add(bias.data.byteOffset);
    }
  }
  const residualDeviation = DEVIATION / Math.sqrt(2 * weights.layers.length);
  for (const [name, { shape, data }] of parameters.entries()) {
    if (shape.length === 1) {
      data.fill(biases.has(data.byteOffset) ? 0 : 1);
      continue;
    }
    const random = randomStream(seed, name);
    const deviation = residual.has(data.byteOffset) ? residualDeviation : DEVIATION;
    for (let i = 0; i < data.length; i++) data[i] = truncatedNormal(random, deviation);
  }
}
