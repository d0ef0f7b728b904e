/** Small Llama checkpoints with random weights, as files in memory. */

import { createMemoryFiles, type ModelFiles, writeSafetensors } from "../../src/model/index.ts";
import { f32, type Tensor } from "../../src/tensor.ts";

/** Config keys to set beside or over the default ones. */
export type TinyConfig = Record<string, unknown>;

const DEFAULTS = {
  model_type: "llama",
  hidden_size: 24,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 10,
  intermediate_size: 29,
  num_hidden_layers: 3,
  vocab_size: 37,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 100,
  tie_word_embeddings: false,
  eos_token_id: 2,
};

/**
 * The files of a Llama with weights that depend only on its sizes.
 *
 * @param change - may change the tensors before they are written
 */
export function tinyLlama(
  config: TinyConfig = {},
  change: (tensors: Record<string, Tensor<"f32">>) => void = () => {},
): ModelFiles {
  const merged = { ...DEFAULTS, ...config };
  const tensors = tinyLlamaTensors(merged);
  change(tensors);
  return createMemoryFiles(
    new Map<string, Uint8Array | string>([
      ["config.json", JSON.stringify(merged)],
      ["model.safetensors", writeSafetensors(Object.entries(tensors))],
    ]),
  );
}

/** The tensors of such a checkpoint, by name. */
export function tinyLlamaTensors(config: typeof DEFAULTS & TinyConfig): Record<string, Tensor<"f32">> {
  const { hidden_size: C, intermediate_size: F, vocab_size: V, head_dim: D } = config;
  const [Q, K] = [config.num_attention_heads * D, config.num_key_value_heads * D];
  const next = generator(17);
  const matrix = (rows: number, columns: number): Tensor<"f32"> =>
    f32(
      [rows, columns],
      Array.from({ length: rows * columns }, () => (2 * next()) / Math.sqrt(columns)),
    );
  const gain = (): Tensor<"f32"> =>
    f32(
      [C],
      Array.from({ length: C }, () => 1 + 0.2 * next()),
    );
  const tensors: Record<string, Tensor<"f32">> = {
    "model.embed_tokens.weight": f32([V, C], Array.from({ length: V * C }, next)),
    "model.norm.weight": gain(),
    "lm_head.weight": matrix(V, C),
  };
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = `model.layers.${i}`;
    tensors[`${layer}.input_layernorm.weight`] = gain();
    tensors[`${layer}.post_attention_layernorm.weight`] = gain();
    tensors[`${layer}.self_attn.q_proj.weight`] = matrix(Q, C);
    tensors[`${layer}.self_attn.k_proj.weight`] = matrix(K, C);
    tensors[`${layer}.self_attn.v_proj.weight`] = matrix(K, C);
    tensors[`${layer}.self_attn.o_proj.weight`] = matrix(C, Q);
    tensors[`${layer}.mlp.gate_proj.weight`] = matrix(F, C);
    tensors[`${layer}.mlp.up_proj.weight`] = matrix(F, C);
    tensors[`${layer}.mlp.down_proj.weight`] = matrix(C, F);
  }
  return tensors;
}

/** Numbers from −1 to 1 (a linear congruential generator: good enough for weights, the same everywhere). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
}
