/** Llama checkpoints with random weights, as files in memory. */

import { createMemoryFiles, writeSafetensors } from "../../dist/model/index.js";
import { randomNumbers } from "./numbers.mjs";

/**
 * The files of a Llama; the same weights for the same config.
 *
 * @param config - the keys of its config.json
 */
export function randomLlama(config) {
  const { hidden_size: C, intermediate_size: F, vocab_size: V, head_dim: D } = config;
  const [Q, K] = [config.num_attention_heads * D, config.num_key_value_heads * D];
  const tensors = [];
  const numbers = (length, scale) => randomNumbers(length, 17 + tensors.length, scale);
  const matrix = (name, rows, columns, scale = 2 / Math.sqrt(columns)) => {
    tensors.push([name, { dtype: "f32", shape: [rows, columns], data: numbers(rows * columns, scale) }]);
  };
  const gain = (name) => {
    tensors.push([name, { dtype: "f32", shape: [C], data: numbers(C, 0.2).map((x) => 1 + x) }]);
  };
  matrix("model.embed_tokens.weight", V, C, 1);
  if (!config.tie_word_embeddings) matrix("lm_head.weight", V, C);
  gain("model.norm.weight");
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = `model.layers.${i}`;
    gain(`${layer}.input_layernorm.weight`);
    gain(`${layer}.post_attention_layernorm.weight`);
    matrix(`${layer}.self_attn.q_proj.weight`, Q, C);
    matrix(`${layer}.self_attn.k_proj.weight`, K, C);
    matrix(`${layer}.self_attn.v_proj.weight`, K, C);
    matrix(`${layer}.self_attn.o_proj.weight`, C, Q);
    matrix(`${layer}.mlp.gate_proj.weight`, F, C);
    matrix(`${layer}.mlp.up_proj.weight`, F, C);
    matrix(`${layer}.mlp.down_proj.weight`, C, F);
  }
  return createMemoryFiles(
    new Map([
      ["config.json", JSON.stringify(config)],
      ["model.safetensors", writeSafetensors(tensors)],
    ]),
  );
}
