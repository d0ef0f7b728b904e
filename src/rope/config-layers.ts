/**
 * Which kind of layer a layer is, and whether it rotates, from the keys that say so.
 */

import type { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";
import type { ConfigFamily } from "./config-families.ts";

/** The layer whose positions are asked for. */
export type LayerChoice = { readonly layerIndex?: number; readonly layerType?: string };

/** The type of the layer: given, or from `layer_types`, or from the family's pattern; `undefined` if none tells. */
export function layerTypeOf(config: ConfigReader, family: ConfigFamily, choice: LayerChoice): string | undefined {
  if (choice.layerType !== undefined) return choice.layerType;
  const index = choice.layerIndex;
  if (index === undefined) return undefined;
  if (config.has("layer_types")) return entryAt(config, config.strings("layer_types"), "layer_types", index);
  const { pattern } = family;
  switch (pattern?.kind) {
    case undefined:
      return undefined;
    case "every":
      return everyType(config, pattern, index);
    case "first-of": {
      const interval = config.integer(pattern.key, { min: 1, default: pattern.interval });
      return index % interval === 0 ? "full_attention" : "sliding_attention";
    }
    case "mimo": {
      if (config.has("hybrid_layer_pattern")) {
        const slides = entryAt(config, config.numbers("hybrid_layer_pattern"), "hybrid_layer_pattern", index) !== 0;
        return slides ? "sliding_attention" : "full_attention";
      }
      return index === 0 || (index + 1) % 6 === 0 ? "full_attention" : "sliding_attention";
    }
    case "compress-ratios": {
      if (!config.has("compress_ratios")) return "compressed_attention"; // all layers compress unless told
      const ratio = entryAt(config, config.numbers("compress_ratios"), "compress_ratios", index);
      return ratio === 0 ? "sliding_attention" : "compressed_attention";
    }
    case "all-full":
      return "full_attention";
  }
}

/** Whether the layer rotates its queries and keys. */
export function layerRotates(config: ConfigReader, family: ConfigFamily, choice: LayerChoice): boolean {
  switch (family.rotates ?? "all") {
    case "all":
      return true;
    case "sliding":
      return requiredLayerType(config, family, choice) === "sliding_attention";
    case "sliding-if-any": {
      const withoutWindow = config.keys().includes("sliding_window") && !config.has("sliding_window");
      return withoutWindow || requiredLayerType(config, family, choice) === "sliding_attention";
    }
    case "no-rope-list":
      return rotatesByList(config, choice);
    case "by-embedding-type":
      return config.has("position_embedding_type") && config.string("position_embedding_type") === "rope";
  }
}

/**
 * The type of the layer where it decides something.
 *
 * @throws ConfigError when neither the caller nor the config tells
 */
export function requiredLayerType(config: ConfigReader, family: ConfigFamily, choice: LayerChoice): string {
  const type = layerTypeOf(config, family, choice);
  if (type !== undefined) return type;
  throw new ConfigError(
    config.where,
    "the layers of this model differ, so a layer must be named",
    { model_type: config.raw("model_type"), layerIndex: choice.layerIndex, layerType: choice.layerType },
    "Pass layerIndex or layerType.",
  );
}

function everyType(
  config: ConfigReader,
  pattern: { readonly key: string | null; readonly interval: number; readonly last?: true },
  index: number,
): string {
  const { key, interval, last } = pattern;
  if (last && config.has("num_hidden_layers") && index === config.integer("num_hidden_layers") - 1) {
    return "full_attention";
  }
  const value = key === null ? undefined : config.raw(key);
  if (typeof value === "string") return letterType(config, key as string, value, index);
  const every = key === null ? interval : config.integer(key, { min: 0, default: interval });
  return every === 0 || (index + 1) % every === 0 ? "full_attention" : "sliding_attention";
}

/** EXAONE 4's pattern of letters: L local, G global, repeated; the last layer is always global. */
function letterType(config: ConfigReader, key: string, letters: string, index: number): string {
  if (!/^[LG]+$/.test(letters)) {
    throw new ConfigError(config.where, `${key} must be a number or letters L and G`, { [key]: letters });
  }
  const isLast = config.has("num_hidden_layers") && index === config.integer("num_hidden_layers") - 1;
  return isLast || letters[index % letters.length] === "G" ? "full_attention" : "sliding_attention";
}

function rotatesByList(config: ConfigReader, { layerIndex, layerType }: LayerChoice): boolean {
  if (layerIndex === undefined) {
    // Llama 4 names its rotating layers "chunked"; SmolLM3's types say nothing about rotation.
    if (layerType === "chunked_attention") return true;
    if (layerType === "full_attention" && config.raw("model_type") !== "smollm3") return false;
    throw new ConfigError(config.where, "the layers of this model differ, so layerIndex is required", { layerType });
  }
  if (config.has("no_rope_layers")) {
    const uses = config.numbers("no_rope_layers"); // 1 means that the layer rotates
    if (uses.length > 0) return entryAt(config, uses, "no_rope_layers", layerIndex) !== 0;
  }
  return (layerIndex + 1) % config.integer("no_rope_layer_interval", { min: 1, default: 4 }) !== 0;
}

function entryAt<T>(config: ConfigReader, list: readonly T[], key: string, index: number): T {
  if (index >= list.length) {
    throw new ConfigError(config.where, `${key} must have an entry for every layer`, {
      layerIndex: index,
      length: list.length,
    });
  }
  return list[index];
}
