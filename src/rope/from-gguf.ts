/**
 * GGUF metadata -> the positions of one attention layer.
 *
 * The file has no key for the pairing, for layers without rotation or for dynamic NTK; the first two come with the
 * architecture. Llama 3's scaling appears only as the tensor `rope_freqs`, LongRoPE's lists as two tensors.
 *
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */

import { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";
import { type GgufArchitecture, ggufArchitecture } from "./gguf-architectures.ts";
import type { LayerPositions, QueryTemperature, RotaryLayer } from "./layer.ts";
import { mropePairAxes } from "./mrope.ts";
import type { RopeSchedule } from "./schedule.ts";
import { validateSchedule } from "./validate-schedule.ts";
import { yarnMscale } from "./yarn.ts";

/** Which layer is asked for, and the tensors that belong to its rotation. */
export type GgufLayerOptions = {
  /** Index of the layer; required where the layers of the architecture differ. */
  readonly layerIndex?: number;
  /** Width of a head; comes before the file's. For MLA the rope part, or the whole key. */
  readonly headDim?: number;
  /** f32 [R/2] tensor `rope_freqs`: divisors of the frequencies. */
  readonly ropeFreqs?: Float32Array;
  /** f32 [R/2] tensor `rope_factors_long`. */
  readonly ropeFactorsLong?: Float32Array;
  /** f32 [R/2] tensor `rope_factors_short`. */
  readonly ropeFactorsShort?: Float32Array;
};

/**
 * The positions of one attention layer of a GGUF model.
 *
 * Weights must be in the file's order: files of Llama's kind hold query and key rows for interleaved pairs.
 *
 * @param metadata - the file's key-value pairs, `general.architecture` among them
 * @param options - the layer and its tensors
 * @returns rotation (`null` for none), query temperature (`null` for none) and factor of the softmax scale
 * @throws ConfigError naming the key, for an unknown architecture, scaling type or scaling key
 */
export function positionsFromGguf(
  metadata: Readonly<Record<string, unknown>>,
  options: GgufLayerOptions = {},
): LayerPositions {
  const all = new ConfigReader("gguf metadata", metadata);
  const name = all.string("general.architecture");
  const architecture = ggufArchitecture(name);
  if (architecture === undefined) {
    throw new ConfigError(all.where, "general.architecture must be one whose rotary pairing is known", {
      "general.architecture": name,
    });
  }
  const keys = ownKeys(all, name);
  refuseUnknownKeys(keys);
  const isFull = isFullLayer(keys, architecture, options.layerIndex);
  const isNope = nopeLayer(keys, architecture, options.layerIndex, isFull);
  const queryTemperature = temperature(keys, architecture, isNope);
  if (isNope) return { rotary: null, queryTemperature, softmaxScaleFactor: 1 };

  const { headDim, dim } = dimensions(keys, architecture, options, isFull);
  const schedule = scheduleOf(keys, architecture, options, isFull, dim);
  validateSchedule(schedule);
  const pairAxes = pairAxesOf(keys, architecture, dim / 2);
  const rotary: RotaryLayer = {
    headDim,
    rotaryDim: dim,
    rotaryOffset: architecture.rotatesLast ? headDim - dim : 0,
    pairing: architecture.pairing,
    schedule,
    ...(pairAxes === undefined ? {} : { pairAxes }),
  };
  const logMultiplier = architecture.mla && schedule.type === "yarn" ? (schedule.mscaleAllDim ?? 0) : 0;
  const factor = schedule.type === "yarn" ? schedule.factor : 1;
  return { rotary, queryTemperature, softmaxScaleFactor: logMultiplier ? yarnMscale(factor, logMultiplier) ** 2 : 1 };
}

const KNOWN_KEYS: ReadonlySet<string> = new Set(
  `dimension_count dimension_count_swa dimension_sections freq_base freq_base_swa scale_linear scaling.type
  scaling.factor scaling.attn_factor scaling.original_context_length scaling.finetuned scaling.yarn_log_multiplier
  scaling.yarn_ext_factor scaling.yarn_attn_factor scaling.yarn_beta_fast scaling.yarn_beta_slow`
    .split(/\s+/)
    .map((key) => `rope.${key}`),
);

/** The keys of the architecture, without its prefix. */
function ownKeys(all: ConfigReader, name: string): ConfigReader {
  const prefix = `${name}.`;
  const entries = all.keys().filter((key) => key.startsWith(prefix));
  return new ConfigReader(
    all.where,
    Object.fromEntries(entries.map((key) => [key.slice(prefix.length), plain(all.raw(key))])),
  );
}

/** GGUF readers give 64-bit integers as bigint and arrays as typed arrays. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return Array.from(value as Float64Array, Number);
  if (Array.isArray(value)) return value.map(plain);
  return value;
}

function refuseUnknownKeys(keys: ConfigReader): void {
  for (const key of keys.keys()) {
    if (!key.startsWith("rope.") || KNOWN_KEYS.has(key)) continue;
    throw new ConfigError(keys.where, `${key} is not a known rope key`, { [key]: keys.raw(key) });
  }
  if (keys.number("rope.scaling.yarn_attn_factor", { default: 1 }) !== 1) {
    throw new ConfigError(keys.where, "rope.scaling.yarn_attn_factor must be 1", {
      yarn_attn_factor: keys.raw("rope.scaling.yarn_attn_factor"),
    });
  }
}

/** `true` and `false` for layers of a sliding pattern; `undefined` where all layers are alike. */
function isFullLayer(
  keys: ConfigReader,
  architecture: GgufArchitecture,
  index: number | undefined,
): boolean | undefined {
  const matters =
    architecture.plainSliding ||
    architecture.nope === "full-layers" ||
    keys.has("rope.freq_base_swa") ||
    keys.has("rope.dimension_count_swa");
  const pattern = keys.raw("attention.sliding_window_pattern") ?? architecture.slidingEvery;
  if (!matters || pattern === undefined || !keys.has("attention.sliding_window")) return undefined;
  if (index === undefined) {
    throw new ConfigError(keys.where, "the layers of this model differ, so layerIndex is required", {
      layerIndex: index,
    });
  }
  if (typeof pattern === "number" && Number.isSafeInteger(pattern) && pattern > 0) return (index + 1) % pattern === 0;
  const slides = Array.isArray(pattern) ? pattern[index] : undefined; // one flag per layer
  if (typeof slides === "boolean" || slides === 0 || slides === 1) return !slides;
  throw new ConfigError(keys.where, "attention.sliding_window_pattern must be a number or one flag per layer", {
    layerIndex: index,
    pattern,
  });
}

function nopeLayer(
  keys: ConfigReader,
  { nope }: GgufArchitecture,
  index: number | undefined,
  isFull: boolean | undefined,
): boolean {
  if (nope === undefined) return false;
  if (nope === "full-layers") return isFull === true; // without a window all layers rotate
  if (index === undefined) {
    throw new ConfigError(keys.where, "the layers of this model differ, so layerIndex is required", {
      layerIndex: index,
    });
  }
  return (index + 1) % nope.every === 0;
}

function temperature(keys: ConfigReader, architecture: GgufArchitecture, isNope: boolean): QueryTemperature | null {
  const which = architecture.temperature;
  if (which === "nope-layers") {
    if (!isNope) return null;
    return {
      beta: keys.number("attention.temperature_scale", { default: 0.1 }),
      length: keys.integer("attention.temperature_length", { min: 1, default: 8192 }),
      offset: 1,
    };
  }
  if (which === undefined || !keys.has("attention.temperature_scale")) return null;
  const original = keys.integer("rope.scaling.original_context_length", { min: 1, default: 8192 });
  return {
    beta: keys.number("attention.temperature_scale"),
    length: keys.integer("attention.temperature_length", { min: 1, default: original }),
    offset: 0,
  };
}

function dimensions(
  keys: ConfigReader,
  architecture: GgufArchitecture,
  options: GgufLayerOptions,
  isFull: boolean | undefined,
): { headDim: number; dim: number } {
  const swa = isFull === false ? "_swa" : "";
  const own = (key: string): string => (swa && keys.has(`${key}_swa`) ? `${key}_swa` : key);
  const width = (): number => {
    if (keys.has("attention.key_length")) return keys.integer(own("attention.key_length"), { min: 1 });
    return Math.floor(keys.integer("embedding_length", { min: 1 }) / keys.integer("attention.head_count", { min: 1 }));
  };
  const count = own("rope.dimension_count");
  const dim = keys.has(count) ? keys.integer(count, { min: 2 }) : (options.headDim ?? width());
  const headDim = options.headDim ?? (architecture.mla ? dim : width());
  if (dim % 2 !== 0 || dim > headDim) {
    throw new ConfigError(keys.where, `${count} must be even and at most the head width`, { dim, headDim });
  }
  return { headDim, dim };
}

function scheduleOf(
  keys: ConfigReader,
  architecture: GgufArchitecture,
  options: GgufLayerOptions,
  isFull: boolean | undefined,
  dim: number,
): RopeSchedule {
  const { ropeFreqs, ropeFactorsLong, ropeFactorsShort } = options;
  const base = keys.number("rope.freq_base", { default: 10000 });
  if (isFull === false) {
    const theta = keys.number("rope.freq_base_swa", { default: architecture.slidingTheta ?? base });
    if (architecture.plainSliding) return { type: "default", dim, theta };
  }
  const theta = isFull === false ? keys.number("rope.freq_base_swa", { default: base }) : base;
  const type = keys.oneOf("rope.scaling.type", ["none", "linear", "yarn", "longrope"], "linear");
  const factor = factorOf(keys);
  const originalLength = (): number =>
    keys.has("rope.scaling.original_context_length")
      ? keys.number("rope.scaling.original_context_length")
      : keys.number("context_length");
  const attnFactor = keys.number("rope.scaling.attn_factor", { default: 1 });

  if (ropeFactorsLong !== undefined || ropeFactorsShort !== undefined || type === "longrope") {
    if (ropeFactorsLong === undefined || ropeFactorsShort === undefined || ropeFreqs !== undefined) {
      throw new ConfigError(keys.where, "longrope needs the tensors rope_factors_long and rope_factors_short only", {
        rope_factors_long: ropeFactorsLong?.length,
        rope_factors_short: ropeFactorsShort?.length,
        rope_freqs: ropeFreqs?.length,
      });
    }
    return {
      type: "longrope",
      dim,
      theta,
      shortFactors: Array.from(ropeFactorsShort),
      longFactors: Array.from(ropeFactorsLong),
      originalLength: originalLength(),
      factor: 1,
      attentionFactor: attnFactor,
    };
  }
  // The share of YaRN's ramp; −1 stands for "as the type says".
  const ext = keys.number("rope.scaling.yarn_ext_factor", { default: -1 });
  const isYarn = ext < 0 ? type === "yarn" : ext !== 0;
  if (isYarn) {
    if (ext > 0 && ext !== 1) {
      throw new ConfigError(keys.where, "rope.scaling.yarn_ext_factor must be 0 or 1", { yarn_ext_factor: ext });
    }
    if (ropeFreqs !== undefined) {
      throw new ConfigError(keys.where, "rope_freqs and YaRN exclude each other", { rope_freqs: ropeFreqs.length });
    }
    return yarn(keys, architecture, { dim, theta, factor, originalLength: originalLength(), attnFactor });
  }
  if (attnFactor !== 1) {
    throw new ConfigError(keys.where, "rope.scaling.attn_factor goes with yarn or longrope", {
      attn_factor: attnFactor,
    });
  }
  const scale = type === "none" ? 1 : factor;
  if (ropeFreqs !== undefined) {
    return { type: "divisors", dim, theta, divisors: Array.from(ropeFreqs, (divisor) => divisor * scale) };
  }
  return scale === 1 ? { type: "default", dim, theta } : { type: "linear", dim, theta, factor: scale };
}

/**
 * llama.cpp multiplies what YaRN gives by `attn_factor`, and takes mscale to be 1, or equal to the log multiplier for
 * DeepSeek-2, whose files hold a tenth of it. It always rounds the ends of the ramp; gpt-oss was trained without that.
 */
function yarn(
  keys: ConfigReader,
  architecture: GgufArchitecture,
  known: { dim: number; theta: number; factor: number; originalLength: number; attnFactor: number },
): RopeSchedule {
  const { dim, theta, factor, originalLength, attnFactor } = known;
  const stored = keys.number("rope.scaling.yarn_log_multiplier", { default: 0 });
  const mscaleAllDim = architecture.mla ? stored * 10 : stored;
  const mscale = architecture.mla ? mscaleAllDim : 1;
  const derived =
    mscaleAllDim === 0 ? yarnMscale(factor) : yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim);
  return {
    type: "yarn",
    dim,
    theta,
    factor,
    originalLength,
    betaFast: keys.number("rope.scaling.yarn_beta_fast", { default: 32 }),
    betaSlow: keys.number("rope.scaling.yarn_beta_slow", { default: 1 }),
    truncate: !architecture.exactRamp,
    attentionFactor: derived * attnFactor,
    ...(mscaleAllDim === 0 ? {} : { mscale, mscaleAllDim }),
  };
}

/** 0 and absence mean no scaling. */
function factorOf(keys: ConfigReader): number {
  const key = keys.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  return keys.number(key, { default: 1, min: 0 }) || 1;
}

function pairAxesOf(keys: ConfigReader, { mrope }: GgufArchitecture, pairs: number): number[] | undefined {
  if (!keys.has("rope.dimension_sections")) return undefined;
  const section = keys.numbers("rope.dimension_sections").slice(0, 4);
  while (section.length > 3 && section[section.length - 1] === 0) section.pop(); // the file holds four counts
  if (section.every((count) => count === 0)) return undefined;
  return mropePairAxes(section, mrope ?? "chunked", pairs);
}
