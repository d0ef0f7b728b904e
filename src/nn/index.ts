/**
 * Modules in the manner of Flax NNX: random keys with JAX's numbers, initialisers, layers and multi-head attention.
 */

export { Activation } from "./activation.ts";
export { AdamW, type AdamWOptions } from "./adamw.ts";
export {
  type AttentionDropout,
  type AttentionEngine,
  type AttentionFunction,
  type AttentionFunctionGradients,
  type AttentionFunctionOptions,
  type AttentionFunctionResult,
  dotProductAttention,
  type MaskRows,
} from "./attention-function.ts";
export type { AttentionMask } from "./attention-mask.ts";
export { type CrossEntropy, crossEntropy } from "./cross-entropy.ts";
export { DecodeCache, type DecodeCacheOptions } from "./decode-cache.ts";
export { Dropout, type DropoutCall, type DropoutOptions } from "./dropout.ts";
export { Embedding, type EmbeddingOptions } from "./embedding.ts";
export type { Distribution, FanAxes, FanMode, Initializer } from "./initializers.ts";
export * as initializers from "./initializers.ts";
export { Linear, LinearGeneral, type LinearOptions } from "./linear.ts";
export { mhaRope } from "./mha-rope.ts";
export {
  flattenParameters,
  Module,
  type ModuleGradients,
  type NamedTree,
  nestParameters,
  type ParameterTree,
  type ParameterValues,
  type Vjp,
} from "./module.ts";
export {
  MultiHeadAttention,
  type MultiHeadAttentionCall,
  type MultiHeadAttentionGradients,
  type MultiHeadAttentionOptions,
  type MultiHeadAttentionResult,
  type MultiHeadAttentionVjp,
} from "./multi-head-attention.ts";
export { LayerNorm, type LayerNormOptions, RMSNorm, type RMSNormOptions } from "./norm.ts";
export * as random from "./random.ts";
export { RngStream, Rngs, type Seed } from "./rngs.ts";
export { RoPE, type RoPECall, type RoPEOptions } from "./rope.ts";
export { dotProductAttentionWithRope, type RotaryAttentionOptions } from "./rotary-attention.ts";
export { type RandomKey, threefry2x32 } from "./threefry.ts";
