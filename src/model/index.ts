/** Checkpoints become running decoders. */

export type { DecoderConfig, LayerConfig } from "./config.ts";
export type { LayerListener } from "./decoder.ts";
export type { GenerationConfig, SamplingDefaults } from "./generation-config.ts";
export {
  inspectModel,
  type LayerGroup,
  type ModelReport,
  type RotaryReport,
  reportModel,
  type StoredParameters,
} from "./inspect.ts";
export { DecoderModel, type DecoderModelParts, type ForwardInput } from "./language-model.ts";
export {
  describeModel,
  type LoadOptions,
  type LoadProgress,
  loadModel,
  type ModelDescription,
  openModelFolder,
} from "./load.ts";
export { ModelCache, type ModelCacheOptions } from "./model-cache.ts";
export {
  createDecodeStream,
  createTokenizer,
  type DecodeOptions,
  type DecodeStream,
  type EncodeOptions,
  type Tokenizer,
} from "./tokenizer.ts";
export * from "./weights/index.ts";
