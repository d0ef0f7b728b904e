/**
 * A longer context for a model, by a rotary schedule that fine-tuning then gets used to.
 *
 * @see https://arxiv.org/abs/2306.15595 (linear), https://arxiv.org/abs/2309.00071 (YaRN)
 */

import { ConfigError } from "../errors.ts";
import type { ModelJson } from "./trainable-model.ts";

/** Schedules that a model can be fine-tuned to by name and factor. */
export const EXTENSIONS = ["linear", "yarn", "ntk", "llama3"] as const;

/** A scaled schedule. */
export type ContextExtension = {
  /** `ntk` is the static one: a larger base, by factor^(R/(R−2)). */
  readonly type: (typeof EXTENSIONS)[number];
  /** The longer context over the original one; above 1. */
  readonly factor: number;
};

const WHERE = "extendContext";

/**
 * Reads an extension as the command line writes it.
 *
 * @param text - "yarn:4"
 * @throws ConfigError for an unknown schedule or factor, and for those that cannot be trained this way
 */
export function parseExtension(text: string): ContextExtension {
  const [type, ...rest] = text.split(":");
  const factor = rest.join(":");
  if (/^dynamic/.test(type)) {
    const hint = "Its frequencies change with the length of every text; fine-tune with yarn or ntk instead.";
    throw new ConfigError(WHERE, "a schedule that is the same at every length", { type }, hint);
  }
  const known = EXTENSIONS.find((name) => name === type);
  if (known === undefined || factor.trim() === "" || !(Number(factor) > 1 && Number.isFinite(Number(factor)))) {
    throw new ConfigError(WHERE, `one of ${EXTENSIONS.join(", ")}, a colon and a factor above 1`, {
      ropeScaling: text,
    });
  }
  return { type: known, factor: Number(factor) };
}

/**
 * A config.json with a scaled schedule and a context `factor` times as long.
 *
 * @param json - config.json of a model with an unscaled schedule
 * @throws ConfigError when the schedule is scaled already, differs between layers, or cannot be scaled so
 */
export function extendContext(json: ModelJson, { type, factor }: ContextExtension): ModelJson {
  const parameters = json.rope_parameters as ModelJson | undefined | null;
  const scaling = json.rope_scaling as ModelJson | undefined | null;
  const nested = Object.values(parameters ?? {}).some((value) => typeof value === "object" && value !== null);
  const present = parameters?.rope_type ?? scaling?.rope_type ?? scaling?.type ?? "default";
  if (nested || present !== "default") {
    const got = { rope_type: nested ? "by layer" : present };
    throw new ConfigError(WHERE, "a model whose layers share one unscaled schedule", got);
  }
  const context = json.max_position_embeddings;
  if (typeof context !== "number") {
    throw new ConfigError(WHERE, "max_position_embeddings in config.json", { max_position_embeddings: context });
  }
  const longer = { ...json, max_position_embeddings: Math.round(context * factor) };
  const theta = Number(parameters?.rope_theta ?? json.rope_theta ?? 10000);
  if (type === "ntk") {
    if (rotaryDim(json) <= 2) {
      const hint = "Its only pair is the fastest and stays as it is; use linear or yarn.";
      throw new ConfigError(WHERE, "more than one rotary pair for ntk", { rotaryDim: rotaryDim(json) }, hint);
    }
    const base = theta * factor ** (rotaryDim(json) / (rotaryDim(json) - 2));
    if (parameters) return { ...longer, rope_parameters: { ...parameters, rope_theta: base } };
    return { ...longer, rope_theta: base };
  }
  const values = { rope_type: type, factor, ...extraValues(type, context) };
  if (parameters) return { ...longer, rope_parameters: { ...parameters, ...values } };
  return { ...longer, rope_scaling: values };
}

function extraValues(type: ContextExtension["type"], context: number): ModelJson {
  if (type === "linear") return {};
  const original = { original_max_position_embeddings: context };
  return type === "yarn" ? original : { ...original, low_freq_factor: 1, high_freq_factor: 4 };
}

/** R. */
function rotaryDim(json: ModelJson): number {
  const headDim = Number(json.head_dim ?? Math.floor(Number(json.hidden_size) / Number(json.num_attention_heads)));
  const parameters = json.rope_parameters as ModelJson | undefined | null;
  return Math.floor(headDim * Number(parameters?.partial_rotary_factor ?? json.partial_rotary_factor ?? 1));
}
