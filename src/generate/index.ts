/** From logits to text: sampling, stopping, streaming. */

export {
  type GeneratedPiece,
  type GenerateOptions,
  type GenerationRun,
  type GenerationSummary,
  generate,
} from "./generate.ts";
export type { GenerationCache, LanguageModel, TextCodec } from "./language-model.ts";
export { createRandom, type Random, randomSeed } from "./random.ts";
export { createSampler, logProbability, type Sampler, type SamplerOptions } from "./sampler.ts";
export { createStopStrings, type StoppableText, type StopReason, type StopStrings } from "./stop.ts";
