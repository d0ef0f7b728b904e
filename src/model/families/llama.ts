/**
 * Llama 1 to 3.x and everything that calls itself `llama` (TinyLlama, SmolLM, TinyLlamas).
 *
 * @see https://arxiv.org/abs/2302.13971 and the LlamaForCausalLM of Hugging Face transformers for the names
 */

import { denseHeadTensor, loadDenseWeights, readDenseConfig } from "./dense.ts";
import type { Family } from "./family.ts";

/** The Llama family. */
export const llama: Family = {
  modelTypes: ["llama"],
  readConfig: (reader, json) => readDenseConfig(reader, json, { maxPositions: 2048 }),
  headTensor: denseHeadTensor,
  loadWeights: (loader, config, reader) =>
    loadDenseWeights(loader, config, {
      attentionBias: reader.boolean("attention_bias", false),
      mlpBias: reader.boolean("mlp_bias", false),
      headNorms: false,
    }),
};
