/**
 * generation_config.json: which tokens end a text, and how the checkpoint's authors sample.
 */

import { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";

/** What generation_config.json (or, for the stop tokens, config.json) says. */
export type GenerationConfig = {
  /** Token ids that end a text; may be empty. */
  readonly stopTokenIds: readonly number[];
  readonly sampling: SamplingDefaults;
};

/** Sampling values as far as the checkpoint gives them, by the names that `generate` takes. */
export type SamplingDefaults = {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
};

/**
 * Reads the generation settings of a model folder.
 *
 * @param config - config.json
 * @param generationJson - generation_config.json, parsed; absent when the folder has none
 * @throws ConfigError when a value has the wrong type
 */
export function readGenerationConfig(config: ConfigReader, generationJson?: unknown): GenerationConfig {
  const generation =
    generationJson === undefined ? undefined : new ConfigReader("generation_config.json", generationJson);
  const stopTokenIds = tokenIds(generation?.has("eos_token_id") ? generation : config, "eos_token_id");
  return { stopTokenIds, sampling: generation === undefined ? {} : readSampling(generation) };
}

/** Without `do_sample` the other values are not meant; with it, transformers samples at temperature 1. */
function readSampling(generation: ConfigReader): SamplingDefaults {
  const penalty = generation.has("repetition_penalty")
    ? { repetitionPenalty: generation.number("repetition_penalty", { min: 0 }) }
    : {};
  if (!generation.boolean("do_sample", false)) return penalty;
  return {
    ...penalty,
    temperature: generation.number("temperature", { min: 0, default: 1 }),
    ...(generation.has("top_k") && { topK: generation.integer("top_k") }),
    ...(generation.has("top_p") && { topP: generation.number("top_p", { min: 0, max: 1 }) }),
    ...(generation.has("min_p") && { minP: generation.number("min_p", { min: 0, max: 1 }) }),
  };
}

/** A token id, a list of them, or nothing. */
function tokenIds(reader: ConfigReader, key: string): number[] {
  const value = reader.raw(key);
  if (value === undefined) return [];
  const ids = Array.isArray(value) ? value : [value];
  if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0)) {
    throw new ConfigError(reader.where, `${key} must be a token id or a list of them`, { [key]: value });
  }
  return ids as number[];
}
