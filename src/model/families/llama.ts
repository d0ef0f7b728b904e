/**
 * Llama 1 to 3.x and everything that calls itself `llama` (TinyLlama, SmolLM, TinyLlamas).
 *
 * @see https://arxiv.org/abs/2302.13971 and the LlamaForCausalLM of Hugging Face transformers for the names
 */

import type { ConfigReader } from "../../config-reader.ts";
import { causal } from "../../mask/index.ts";
import { positionsFromConfig } from "../../rope/index.ts";
import type { DecoderConfig, LayerConfig } from "../config.ts";
import type { DecoderWeights, LayerWeights, WeightLoader } from "../decoder-weights.ts";
import type { Family } from "./family.ts";

/** The Llama family. */
export const llama: Family = { modelTypes: ["llama"], readConfig, loadWeights };

const MAX_LAYERS = 1024;
const MAX_WIDTH = 2 ** 20;

function readConfig(reader: ConfigReader, json: unknown): DecoderConfig {
  const hiddenSize = reader.integer("hidden_size", { min: 1, max: MAX_WIDTH });
  const heads = reader.integer("num_attention_heads", { min: 1, max: MAX_WIDTH });
  const kvHeads = reader.integer("num_key_value_heads", { min: 1, max: heads, default: heads });
  const headDim = reader.integer("head_dim", { min: 1, max: MAX_WIDTH, default: Math.floor(hiddenSize / heads) });
  const intermediateSize = reader.integer("intermediate_size", { min: 1, max: MAX_WIDTH });
  const activation = reader.oneOf("hidden_act", ["silu"], "silu");
  const layerCount = reader.integer("num_hidden_layers", { min: 1, max: MAX_LAYERS });

  const layers = Array.from({ length: layerCount }, (_, layerIndex): LayerConfig => {
    const positions = positionsFromConfig(json, { layerIndex, headDim });
    const scale = positions.softmaxScaleFactor / Math.sqrt(headDim);
    return { heads, kvHeads, headDim, positions, mask: causal(), scale, intermediateSize, activation };
  });
  return {
    modelType: reader.string("model_type"),
    vocabSize: reader.integer("vocab_size", { min: 1 }),
    hiddenSize,
    maxPositions: reader.integer("max_position_embeddings", { min: 1, default: 2048 }),
    normEps: reader.number("rms_norm_eps", { min: 0, default: 1e-6 }),
    tiedEmbeddings: reader.boolean("tie_word_embeddings", false),
    layers,
  };
}

async function loadWeights(loader: WeightLoader, config: DecoderConfig, reader: ConfigReader): Promise<DecoderWeights> {
  const { hiddenSize: C, vocabSize: V } = config;
  const attentionBias = reader.boolean("attention_bias", false);
  const mlpBias = reader.boolean("mlp_bias", false);

  const embedding = await loader.matrix("model.embed_tokens.weight", V, C);
  const layers: LayerWeights[] = [];
  for (const [i, { heads, kvHeads, headDim, intermediateSize: F }] of config.layers.entries()) {
    const at = `model.layers.${i}`;
    const [queryDim, kvDim] = [heads * headDim, kvHeads * headDim];
    layers.push({
      attentionNorm: await loader.vector(`${at}.input_layernorm.weight`, C),
      query: await loader.linear(`${at}.self_attn.q_proj`, queryDim, C, attentionBias),
      key: await loader.linear(`${at}.self_attn.k_proj`, kvDim, C, attentionBias),
      value: await loader.linear(`${at}.self_attn.v_proj`, kvDim, C, attentionBias),
      output: await loader.linear(`${at}.self_attn.o_proj`, C, queryDim, attentionBias),
      feedForwardNorm: await loader.vector(`${at}.post_attention_layernorm.weight`, C),
      gate: await loader.linear(`${at}.mlp.gate_proj`, F, C, mlpBias),
      up: await loader.linear(`${at}.mlp.up_proj`, F, C, mlpBias),
      down: await loader.linear(`${at}.mlp.down_proj`, C, F, mlpBias),
    });
  }
  const finalNorm = await loader.vector("model.norm.weight", C);
  const head = config.tiedEmbeddings ? embedding : await loader.matrix("lm_head.weight", V, C);
  return { embedding, layers, finalNorm, head };
}
