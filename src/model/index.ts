/** Checkpoints become running decoders. */

export type {
  CompressionEvent,
  DecodingOptions,
  ModelCacheOptions,
  RepeatOptions,
  RepeatPart,
} from "./cache-options.ts";
export type { CacheReport, ForgottenText, HeadReport, TextOf, TokenRange } from "./cache-report.ts";
export type { DecoderConfig, LayerConfig } from "./config.ts";
export type { LayerListener } from "./decoder.ts";
export type { GenerationConfig, SamplingDefaults } from "./generation-config.ts";
export {
  type InspectOptions,
  inspectModel,
  type LayerGroup,
  type ModelReport,
  type RotaryReport,
  reportModel,
  type StoredParameters,
} from "./inspect.ts";
export {
  DecoderModel,
  type DecoderModelParts,
  type ForwardInput,
  type PrefillOptions,
  type PrefillSummary,
} from "./language-model.ts";
export {
  describeModel,
  type LoadOptions,
  type LoadProgress,
  loadModel,
  type ModelDescription,
  openModelFolder,
} from "./load.ts";
export { ModelCache } from "./model-cache.ts";
export {
  createDecodeStream,
  createTokenizer,
  type DecodeOptions,
  type DecodeStream,
  type EncodeOptions,
  type Tokenizer,
} from "./tokenizer.ts";
export { WEIGHT_CHOICES, type WeightChoice } from "./weight-choice.ts";
export * from "./weights/index.ts";
