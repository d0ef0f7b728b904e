/**
 * generation_config.json: which tokens end a text, and how the checkpoint's authors sample.
 */

import { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";

/** What generation_config.json (or, for the stop tokens, config.json) says. */
export type GenerationConfig = {
  /** Token ids that end a text; may be empty. */
  readonly stopTokenIds: readonly number[];
  /** Sampling values as far as they are given. */
  readonly sampling: { readonly temperature?: number; readonly topK?: number; readonly topP?: number };
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
  const source = generation?.has("eos_token_id") ? generation : config;
  const sampling: { temperature?: number; topK?: number; topP?: number } = {};
  if (generation?.boolean("do_sample", false)) {
    if (generation.has("temperature")) sampling.temperature = generation.number("temperature", { min: 0 });
    if (generation.has("top_k")) sampling.topK = generation.integer("top_k");
    if (generation.has("top_p")) sampling.topP = generation.number("top_p", { min: 0, max: 1 });
  }
  return { stopTokenIds: tokenIds(source, "eos_token_id"), sampling };
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
