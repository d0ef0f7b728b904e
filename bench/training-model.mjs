/** The model and batch that training is measured on: the same numbers for everyone. */
import { numbers } from "./inputs.mjs";

/** Llama-shaped: RMS norms, rotary attention with grouped heads, gated feed-forward, tied head. */
export const SHAPE = { hidden: 192, layers: 6, heads: 6, kvHeads: 2, headDim: 32, inner: 512, vocabulary: 1024 };
export const ADAM = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
export const NORM_EPS = 1e-5;
export const THETA = 10000;

/** Weights by Hugging Face's names: { name: { shape, data } }; matrices [outputs, inputs]. */
export function weights({ hidden: C, layers, heads, kvHeads, headDim, inner: F, vocabulary: V } = SHAPE) {
  const all = {};
  let seed = 1;
  const matrix = (name, N, K) => {
    const data = numbers(N * K, seed++).map((x) => x / Math.sqrt(K));
    all[name] = { shape: [N, K], data: Float32Array.from(data) };
  };
  const ones = (name) => {
    all[name] = { shape: [C], data: new Float32Array(C).fill(1) };
  };
  matrix("model.embed_tokens.weight", V, C);
  for (let n = 0; n < layers; n++) {
    const at = `model.layers.${n}`;
    ones(`${at}.input_layernorm.weight`);
    matrix(`${at}.self_attn.q_proj.weight`, heads * headDim, C);
    matrix(`${at}.self_attn.k_proj.weight`, kvHeads * headDim, C);
    matrix(`${at}.self_attn.v_proj.weight`, kvHeads * headDim, C);
    matrix(`${at}.self_attn.o_proj.weight`, C, heads * headDim);
    ones(`${at}.post_attention_layernorm.weight`);
    matrix(`${at}.mlp.gate_proj.weight`, F, C);
    matrix(`${at}.mlp.up_proj.weight`, F, C);
    matrix(`${at}.mlp.down_proj.weight`, C, F);
  }
  ones("model.norm.weight");
  return all;
}

/** Hugging Face's config.json of the shape. */
export function config({ hidden, layers, heads, kvHeads, headDim, inner, vocabulary } = SHAPE) {
  return {
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    vocab_size: vocabulary,
    max_position_embeddings: 4096,
    rms_norm_eps: NORM_EPS,
    rope_theta: THETA,
    hidden_act: "silu",
    tie_word_embeddings: true,
  };
}

/**
 * Floating-point operations of a step: 6 for each matrix entry and token, the head's once and the embedding's not at all,
 * and attention's, forwards 4·D and back 10·D for each pair of query and key that see each other.
 */
export function stepFlop({ B, T }, { hidden: C, layers, heads, kvHeads, headDim, inner: F, vocabulary: V } = SHAPE) {
  const matrices = layers * (2 * C * heads * headDim + 2 * C * kvHeads * headDim + 3 * C * F) + V * C;
  const pairs = (B * T * (T + 1)) / 2;
  return 6 * matrices * B * T + 14 * headDim * heads * layers * pairs;
}

/** Batches that are trained on by turns: their losses fall, and do so the same for everyone. */
export const BATCHES = 2;
/** Steps whose losses are compared. */
export const COMPARED_STEPS = 4;

/** i32 [B·(T + 1)] tokens of a batch: inputs are all but the last of a row, targets all but the first. */
export function batch(B, T, step, vocabulary = SHAPE.vocabulary) {
  const noise = numbers(B * (T + 1), 1000 + (step % BATCHES));
  return Int32Array.from(noise, (x) => Math.min(vocabulary - 1, Math.floor(Math.abs(x) * vocabulary)));
}
