/**
 * What dense decoders of the Llama line have in common: their config keys, and the names of their tensors.
 */

import type { ConfigReader } from "../../config-reader.ts";
import type { Activation } from "../../engine/index.ts";
import { causal, slidingWindow } from "../../mask/index.ts";
import { positionsFromConfig } from "../../rope/index.ts";
import type { DecoderConfig, LayerConfig } from "../config.ts";
import type { DecoderWeights, LayerWeights, LinearWeights, WeightLoader } from "../decoder-weights.ts";

/** Where architectures differ in reading their config. */
export type DenseDefaults = {
  /** `head_dim` when absent: a width, or hidden_size / heads when this is absent too. */
  readonly headDim?: number;
  readonly maxPositions: number;
  /** The window of a layer in tokens, itself included; absent or undefined: the layer sees everything before it. */
  readonly slidingWindow?: (layer: number) => number | undefined;
};

/** Tensors that not every architecture has. */
export type DenseTensors = {
  /** Biases of query, key, value and output projections. */
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  /** Norms of every query and key head before their rotation. */
  readonly headNorms: boolean;
};

/** Activations by the names that transformers has for them; its "gelu" is the exact one. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: "silu",
  gelu: "gelu",
  gelu_new: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
};

const MAX_LAYERS = 1024;
const MAX_WIDTH = 2 ** 20;

/**
 * config.json as a decoder.
 *
 * @throws ConfigError for a missing or bad value
 */
export function readDenseConfig(reader: ConfigReader, json: unknown, defaults: DenseDefaults): DecoderConfig {
  const hiddenSize = reader.integer("hidden_size", { min: 1, max: MAX_WIDTH });
  const heads = reader.integer("num_attention_heads", { min: 1, max: MAX_WIDTH });
  const kvHeads = reader.integer("num_key_value_heads", { min: 1, max: heads, default: heads });
  const evenWidth = defaults.headDim ?? Math.floor(hiddenSize / heads);
  const headDim = reader.integer("head_dim", { min: 1, max: MAX_WIDTH, default: evenWidth });
  const intermediateSize = reader.integer("intermediate_size", { min: 1, max: MAX_WIDTH });
  const activation = ACTIVATIONS[reader.oneOf("hidden_act", Object.keys(ACTIVATIONS), "silu")];
  const layerCount = reader.integer("num_hidden_layers", { min: 1, max: MAX_LAYERS });

  const layers = Array.from({ length: layerCount }, (_, layerIndex): LayerConfig => {
    const positions = positionsFromConfig(json, { layerIndex, headDim });
    const scale = positions.softmaxScaleFactor / Math.sqrt(headDim);
    const window = defaults.slidingWindow?.(layerIndex);
    return {
      ...{ heads, kvHeads, headDim, positions, scale, intermediateSize, activation },
      ...(window === undefined
        ? { mask: causal() }
        : { mask: causal().and(slidingWindow(window)), slidingWindow: window }),
    };
  });
  return {
    modelType: reader.string("model_type"),
    vocabSize: reader.integer("vocab_size", { min: 1 }),
    hiddenSize,
    maxPositions: reader.integer("max_position_embeddings", { min: 1, default: defaults.maxPositions }),
    normEps: reader.number("rms_norm_eps", { min: 0, default: 1e-6 }),
    tiedEmbeddings: reader.boolean("tie_word_embeddings", false),
    layers,
  };
}

const EMBEDDING = "model.embed_tokens.weight";

/** The name of the tensor that the output head is made of. */
export function denseHeadTensor({ tiedEmbeddings }: DecoderConfig): string {
  return tiedEmbeddings ? EMBEDDING : "lm_head.weight";
}

/** The checkpoint's tensors by role. */
export async function loadDenseWeights(
  loader: WeightLoader,
  config: DecoderConfig,
  { attentionBias, mlpBias, headNorms }: DenseTensors,
): Promise<DecoderWeights> {
  const { hiddenSize: C, vocabSize: V } = config;
  const embedding = await loader.matrix(EMBEDDING, V, C);
  const layers: LayerWeights[] = [];
  for (const [i, { heads, kvHeads, headDim: D, intermediateSize: F }] of config.layers.entries()) {
    const at = `model.layers.${i}`;
    const attention = (name: string, outputs: number, inputs: number): Promise<LinearWeights> =>
      loader.linear(`${at}.self_attn.${name}_proj`, outputs, inputs, attentionBias);
    layers.push({
      attentionNorm: await loader.vector(`${at}.input_layernorm.weight`, C),
      query: await attention("q", heads * D, C),
      key: await attention("k", kvHeads * D, C),
      value: await attention("v", kvHeads * D, C),
      ...(headNorms && {
        queryNorm: await loader.vector(`${at}.self_attn.q_norm.weight`, D),
        keyNorm: await loader.vector(`${at}.self_attn.k_norm.weight`, D),
      }),
      output: await attention("o", C, heads * D),
      feedForwardNorm: await loader.vector(`${at}.post_attention_layernorm.weight`, C),
      gate: await loader.linear(`${at}.mlp.gate_proj`, F, C, mlpBias),
      up: await loader.linear(`${at}.mlp.up_proj`, F, C, mlpBias),
      down: await loader.linear(`${at}.mlp.down_proj`, C, F, mlpBias),
    });
  }
  const finalNorm = await loader.vector("model.norm.weight", C);
  const head = config.tiedEmbeddings ? embedding : await loader.matrix(denseHeadTensor(config), V, C);
  return { embedding, layers, finalNorm, head };
}
