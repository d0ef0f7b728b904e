/**
 * Hugging Face config.json -> the positions of one attention layer.
 *
 * Reads the old form (`rope_theta`, `rope_scaling`, each model's own names) and the new one (`rope_parameters`, one
 * set or one per layer type). Where transformers does something peculiar, this does the same, because checkpoints
 * were published against it; the few deviations are refusals of what would be a guess.
 *
 * @see https://github.com/huggingface/transformers/blob/main/src/transformers/modeling_rope_utils.py
 */

import { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";
import { type ConfigFamily, familyOf } from "./config-families.ts";
import { layerRotates, layerTypeOf } from "./config-layers.ts";
import { layerParameters } from "./config-parameters.ts";
import { checkKeys, originalLengthOf, ropeTypeOf, scheduleFromParameters } from "./config-schedule.ts";
import type { LayerPositions, Pairing, QueryTemperature, RotaryLayer } from "./layer.ts";
import { mropePairAxes } from "./mrope.ts";
import { validateSchedule } from "./validate-schedule.ts";
import { yarnMscale } from "./yarn.ts";

/** Which layer is asked for, and the width of its heads. */
export type ConfigLayerOptions = {
  /** Index of the layer; decides between kinds of layers where the model has several. */
  readonly layerIndex?: number;
  /** Kind of the layer ("full_attention", "sliding_attention", ...); comes before `layerIndex`. */
  readonly layerType?: string;
  /** Width of what is rotated as one head; comes before the config's. For MLA the rope part, or the whole key. */
  readonly headDim?: number;
};

/**
 * The positions of one attention layer of a Hugging Face model.
 *
 * @param config - parsed config.json; of a multimodal one the text part is read
 * @param options - the layer, and the head width where it isn't the config's
 * @returns rotation (`null` for none), query temperature (`null` for none) and factor of the softmax scale
 * @throws ConfigError naming the key, for an unknown model type or rope type, an unknown key that could change the
 * result, and values that make no schedule
 */
export function positionsFromConfig(config: unknown, options: ConfigLayerOptions = {}): LayerPositions {
  const reader = textConfig(new ConfigReader("config.json", config));
  const family = requireFamily(reader);
  checkOptions(reader, options);
  refuseUnknownTopLevel(reader);
  if (!layerRotates(reader, family, options)) return withoutRotation(reader, family);
  const parameters = layerParameters(reader, family, options);
  if (parameters === null) return withoutRotation(reader, family);

  const { values } = parameters;
  checkKeys(values, family);
  const type = ropeTypeOf(values, family);
  const { headDim, dim, isLast } = dimensions(reader, family, values, options);
  const schedule = scheduleFromParameters(values, type, {
    config: reader,
    family,
    dim: type === "proportional" ? headDim : dim,
  });
  validateSchedule(schedule);
  const rotaryDim = 2 * Math.ceil(schedule.dim / 2);
  if (rotaryDim > headDim) {
    throw new ConfigError(reader.where, "the rotated dims must fit into the head", { headDim, rotaryDim });
  }
  const pairAxes = pairAxesOf(values, family, rotaryDim / 2);
  const rotary: RotaryLayer = {
    headDim,
    rotaryDim,
    rotaryOffset: isLast ? headDim - rotaryDim : 0,
    pairing: pairingOf(reader, family),
    schedule,
    ...(pairAxes === undefined ? {} : { pairAxes }),
  };
  const mscaleAllDim = values.number("mscale_all_dim", { default: 0 });
  const scalesSoftmax = family.mlaRopeDim !== undefined && type !== "default" && mscaleAllDim !== 0;
  return {
    rotary,
    queryTemperature: rotatedTemperature(reader, values),
    softmaxScaleFactor: scalesSoftmax && "factor" in schedule ? yarnMscale(schedule.factor, mscaleAllDim) ** 2 : 1,
  };
}

function textConfig(config: ConfigReader): ConfigReader {
  const text = config.raw("text_config");
  if (typeof text !== "object" || text === null || Array.isArray(text)) return config;
  // The inner config of older files may leave the type to the outer one.
  return new ConfigReader("config.json: text_config", { model_type: config.raw("model_type"), ...text });
}

function requireFamily(config: ConfigReader): ConfigFamily {
  const modelType = config.string("model_type");
  const family = familyOf(modelType);
  if (family !== undefined) return family;
  throw new ConfigError(
    config.where,
    "model_type must be one whose rotary pairing is known",
    { model_type: modelType },
    "Build the RotaryLayer by hand if you know its pairing.",
  );
}

function checkOptions(config: ConfigReader, { layerIndex, headDim }: ConfigLayerOptions): void {
  const layers = config.has("num_hidden_layers") ? config.integer("num_hidden_layers", { min: 1 }) : Infinity;
  if (layerIndex !== undefined && !(Number.isSafeInteger(layerIndex) && layerIndex >= 0 && layerIndex < layers)) {
    throw new ConfigError("positionsFromConfig", "layerIndex must be the index of a layer", {
      layerIndex,
      num_hidden_layers: layers,
    });
  }
  if (headDim !== undefined && !(Number.isSafeInteger(headDim) && headDim > 0)) {
    throw new ConfigError("positionsFromConfig", "headDim must be a positive integer", { headDim });
  }
}

/** Keys about rotation at the top level of some config that are read here, or change nothing. */
const TOP_LEVEL_KEYS: ReadonlySet<string> = new Set(
  `rope_theta rope_scaling rope_parameters rope_local_base_freq rope_interleave rotary_pct rotary_emb_base rotary_dim
  partial_rotary_factor partial_rotary_factors global_rope_theta local_rope_theta swa_rope_theta compress_rope_theta
  qk_rope_head_dim qk_nope_head_dim no_rope_layers no_rope_layer_interval`.split(/\s+/),
);

function refuseUnknownTopLevel(config: ConfigReader): void {
  for (const key of config.keys()) {
    if (!/(^|_)(rope|rotary|mrope|alibi)(_|$)/.test(key) || TOP_LEVEL_KEYS.has(key)) continue;
    const value = config.raw(key);
    const isInert =
      value === undefined || (key === "alibi" && value === false) || (key === "use_rope" && value === true);
    if (isInert) continue;
    throw new ConfigError(config.where, `${key} is not a known key about rotation`, { [key]: value });
  }
}

function withoutRotation(config: ConfigReader, family: ConfigFamily): LayerPositions {
  return { rotary: null, queryTemperature: nopeTemperature(config, family), softmaxScaleFactor: 1 };
}

/** Llama 4: 1 + attn_scale·ln(1 + floor((p + 1) / floor_scale)), on by default. */
function nopeTemperature(config: ConfigReader, family: ConfigFamily): QueryTemperature | null {
  const tuning = config.raw("attn_temperature_tuning") ?? true; // some files have a number instead of a boolean
  if (!family.nopeTemperature || tuning === false || tuning === 0) return null;
  return {
    beta: config.number("attn_scale", { default: 0.1 }),
    length: config.integer("floor_scale", { min: 1, default: 8192 }),
    offset: 1,
  };
}

/** Ministral 3: 1 + llama_4_scaling_beta·ln(1 + floor(p / L)). */
function rotatedTemperature(config: ConfigReader, values: ConfigReader): QueryTemperature | null {
  if (!values.has("llama_4_scaling_beta")) return null;
  const length = originalLengthOf(values, config);
  if (length < 1)
    throw new ConfigError(values.where, "original_max_position_embeddings must be at least 1", { length });
  return { beta: values.number("llama_4_scaling_beta"), length, offset: 0 };
}

function pairingOf(config: ConfigReader, { pairing = "half" }: ConfigFamily): Pairing {
  if (pairing !== "by-flag") return pairing;
  return config.boolean("rope_interleave", true) ? "interleaved" : "half";
}

function pairAxesOf(values: ConfigReader, family: ConfigFamily, pairs: number): number[] | undefined {
  const isInterleaved = values.boolean("mrope_interleaved", family.mrope?.layout === "interleaved");
  const layout = family.mrope?.layout ?? (isInterleaved ? "interleaved" : "chunked");
  if (values.has("mrope_section")) {
    if (isInterleaved !== (layout === "interleaved")) {
      throw new ConfigError(values.where, `mrope_interleaved must be ${layout === "interleaved"} for this model type`, {
        mrope_interleaved: isInterleaved,
      });
    }
    return mropePairAxes(values.numbers("mrope_section"), layout, pairs);
  }
  return family.mrope && mropePairAxes(family.mrope.section, layout, pairs);
}

type Dimensions = {
  readonly headDim: number;
  /** R; odd where the fraction makes it so. */
  readonly dim: number;
  /** The rotated dims are the last of the head. */
  readonly isLast: boolean;
};

function dimensions(
  config: ConfigReader,
  family: ConfigFamily,
  values: ConfigReader,
  options: ConfigLayerOptions,
): Dimensions {
  const partial = values.number("partial_rotary_factor", { min: 0, max: 1, default: family.partial ?? 1 });
  if (family.mlaRopeDim !== undefined) {
    const dim = config.integer("qk_rope_head_dim", { min: 1, default: family.mlaRopeDim });
    const whole = dim + config.integer("qk_nope_head_dim", { default: 0 });
    // A fraction means that of the whole key, and says the same as qk_rope_head_dim.
    if (partial !== 1 && Math.trunc(whole * partial) !== dim) {
      throw new ConfigError(values.where, "partial_rotary_factor must agree with qk_rope_head_dim", {
        partial_rotary_factor: partial,
        qk_rope_head_dim: dim,
        qk_nope_head_dim: whole - dim,
      });
    }
    return { headDim: options.headDim ?? dim, dim, isLast: true };
  }
  const headDim = options.headDim ?? configHeadDim(config, family, options);
  const given = config.has("rotary_dim") && !values.has("partial_rotary_factor");
  const dim = given ? config.integer("rotary_dim", { min: 1 }) : Math.trunc(headDim * partial);
  if (dim < 1 && ropeTypeOf(values, family) !== "proportional") {
    throw new ConfigError(values.where, "partial_rotary_factor must leave dims to rotate", {
      partial_rotary_factor: partial,
      headDim,
    });
  }
  return { headDim, dim, isLast: family.form?.kind === "main-and-compress" };
}

function configHeadDim(config: ConfigReader, family: ConfigFamily, options: ConfigLayerOptions): number {
  const type = layerTypeOf(config, family, options);
  if (family.fullHeadDim && type === "full_attention") {
    return config.integer(family.fullHeadDim.key, { min: 1, default: family.fullHeadDim.headDim });
  }
  if (type === "sliding_attention" && config.has("swa_head_dim")) return config.integer("swa_head_dim", { min: 1 });
  if (config.has("head_dim")) return config.integer("head_dim", { min: 1 });
  if (family.headDim !== undefined) return family.headDim;
  const [width, heads] = config.has("n_embd") ? ["n_embd", "n_head"] : ["hidden_size", "num_attention_heads"];
  const headDim = Math.floor(config.integer(width, { min: 1 }) / config.integer(heads, { min: 1 }));
  if (headDim >= 1) return headDim;
  throw new ConfigError(config.where, `${width} must be at least ${heads}`, {
    [width]: config.raw(width),
    [heads]: config.raw(heads),
  });
}
