/**
 * Qwen3 (dense): as Llama, but every query and key head is normalised before it is rotated, and layers may have a
 * sliding window.
 *
 * @see https://arxiv.org/abs/2505.09388 and the Qwen3ForCausalLM of Hugging Face transformers for the names
 */

import type { ConfigReader } from "../../config-reader.ts";
import { ConfigError } from "../../errors.ts";
import { denseHeadTensor, loadDenseWeights, readDenseConfig } from "./dense.ts";
import type { Family } from "./family.ts";

/** The Qwen3 family. */
export const qwen3: Family = {
  modelTypes: ["qwen3"],
  readConfig: (reader, json) =>
    readDenseConfig(reader, json, { headDim: 128, maxPositions: 32768, slidingWindow: windowOf(reader) }),
  headTensor: denseHeadTensor,
  loadWeights: (loader, config, reader) =>
    loadDenseWeights(loader, config, {
      attentionBias: reader.boolean("attention_bias", false),
      mlpBias: false,
      headNorms: true,
    }),
};

/** With `use_sliding_window`, the layers that `layer_types` names, or else those from `max_window_layers` on. */
function windowOf(reader: ConfigReader): (layer: number) => number | undefined {
  const inUse = reader.boolean("use_sliding_window", false);
  const window = inUse && reader.has("sliding_window") ? reader.integer("sliding_window", { min: 1 }) : undefined;
  const firstWindowed = reader.integer("max_window_layers", { default: 28 });
  const types = reader.has("layer_types") ? reader.strings("layer_types") : undefined;
  const layers = reader.integer("num_hidden_layers", { min: 1 });
  if (types !== undefined && types.length !== layers) {
    throw new ConfigError(reader.where, "layer_types must have an entry for every layer", {
      layer_types: types.length,
      num_hidden_layers: layers,
    });
  }
  return (layer) => {
    const type = types?.[layer] ?? (window !== undefined && layer >= firstWindowed ? SLIDING : FULL);
    if (type === FULL) return undefined;
    if (type !== SLIDING) {
      throw new ConfigError(reader.where, `layer_types must be ${FULL} or ${SLIDING}`, { type, layer });
    }
    if (window === undefined) {
      throw new ConfigError(
        reader.where,
        `${SLIDING} needs use_sliding_window and a sliding_window`,
        { use_sliding_window: inUse, sliding_window: reader.raw("sliding_window"), layer },
        "The config contradicts itself; set layer_types to full_attention, or give the window.",
      );
    }
    return window;
  };
}

const FULL = "full_attention";
const SLIDING = "sliding_attention";
