/**
 * Finds the rope parameters of one layer in a Hugging Face config, whichever form it has, and fills in what stands
 * elsewhere: the base, the rotated fraction, the original context.
 */

import { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";
import type { ConfigFamily, ParameterForm, RawParameters } from "./config-families.ts";
import { type LayerChoice, requiredLayerType } from "./config-layers.ts";

/** The parameters of one layer, with `rope_theta` and, where known, `partial_rotary_factor` filled in. */
export type LayerParameters = {
  readonly values: ConfigReader;
  /** The parameters came from a set of their own per layer type. */
  readonly nested: boolean;
};

/**
 * The rope parameters of a layer; `null` when the config has a null entry for it (no rotation).
 *
 * @throws ConfigError when they are missing or of the wrong form
 */
export function layerParameters(
  config: ConfigReader,
  family: ConfigFamily,
  choice: LayerChoice,
): LayerParameters | null {
  const form = family.form ?? { kind: "shared" };
  switch (form.kind) {
    case "shared":
      return shared(config, family, choice);
    case "full-and-sliding":
      return fullAndSliding(config, form, requiredLayerType(config, family, choice));
    case "per-type":
      return perType(config, form, requiredLayerType(config, family, choice));
    case "main-and-compress":
      return mainAndCompress(config, family, requiredLayerType(config, family, choice));
    case "per-layer-lists":
      return perLayerLists(config, family, choice);
  }
}

/** `rope_scaling` replaces `rope_parameters` entirely, as in transformers. */
function shared(config: ConfigReader, family: ConfigFamily, choice: LayerChoice): LayerParameters | null {
  const [key, source] = anyParameters(config) ?? ["rope_parameters", family.parameters ?? {}];
  const defaults = {
    rope_theta: topTheta(config, family),
    partial_rotary_factor: topPartial(config, family),
    original_max_position_embeddings: originalLength(config, family),
  };
  if (!isNested(source)) {
    const values = merge(defaults, source);
    // One at top level comes before that of the parameters.
    if (originalLength(config, family) !== undefined) {
      values.original_max_position_embeddings = originalLength(config, family);
    }
    return parametersOf(config, key, values, false);
  }
  const entry = nestedEntry(config, key, source, requiredLayerType(config, family, choice));
  const { rope_theta, partial_rotary_factor } = defaults;
  return entry && parametersOf(config, key, merge({ rope_theta, partial_rotary_factor }, entry), true);
}

/** Flat `rope_parameters` say nothing about either kind of layer and are not read, as in transformers. */
function fullAndSliding(
  config: ConfigReader,
  form: ParameterForm & { kind: "full-and-sliding" },
  type: string,
): LayerParameters {
  const isFull = type === "full_attention";
  if (!isFull && type !== "sliding_attention") unknownType(config, type, "full_attention or sliding_attention");
  const { key, theta } = isFull ? form.full : form.sliding;
  const base = {
    rope_theta: key === null ? theta : config.number(key, { default: theta }),
    partial_rotary_factor: config.raw("partial_rotary_factor"),
  };
  const scaling = isFull || form.scalesSliding ? objectAt(config, "rope_scaling") : undefined;
  const source = objectAt(config, "rope_parameters") ?? {};
  const entry = isNested(source) ? source[type] : undefined;
  if (entry !== undefined && entry !== null && !isObject(entry)) {
    throw new ConfigError(config.where, `rope_parameters.${type} must be an object`, { [type]: entry });
  }
  const values = withoutTruncate(source, merge(merge(base, entry ?? {}), scaling ?? {}));
  return parametersOf(config, scaling === undefined ? "rope_parameters" : "rope_scaling", values, true);
}

function perType(
  config: ConfigReader,
  form: ParameterForm & { kind: "per-type" },
  type: string,
): LayerParameters | null {
  const scaling = objectAt(config, "rope_scaling");
  const scalingType = scaling?.rope_type ?? scaling?.type ?? "default";
  if (scaling !== undefined && scalingType !== "default") {
    throw new ConfigError(config.where, "this model type has rope_parameters by layer type, not rope_scaling", {
      rope_scaling: scaling,
    });
  }
  const given = objectAt(config, "rope_parameters");
  if (given !== undefined) {
    const entry = nestedEntry(config, "rope_parameters", given, type);
    const top = { rope_theta: config.raw("rope_theta"), partial_rotary_factor: config.raw("partial_rotary_factor") };
    return entry && parametersOf(config, "rope_parameters", merge(top, entry), true);
  }
  const defaults = form.defaults[type];
  if (defaults === undefined) unknownType(config, type, Object.keys(form.defaults).join(" or "));
  const thetaKey = form.thetaKeys?.[type];
  if (thetaKey === undefined && config.has("rope_theta")) {
    throw new ConfigError(
      config.where,
      "rope_theta must stand in rope_parameters, by layer type, for this model type",
      {
        rope_theta: config.raw("rope_theta"),
      },
    );
  }
  const top = {
    rope_theta: thetaKey && config.raw(thetaKey),
    partial_rotary_factor: config.raw("partial_rotary_factor"),
  };
  return parametersOf(config, "rope_parameters", merge(defaults, top), true);
}

function mainAndCompress(config: ConfigReader, family: ConfigFamily, type: string): LayerParameters {
  const label = type === "main" || type === "sliding_attention" ? "main" : "compress";
  const [key, source] = anyParameters(config) ?? ["rope_parameters", {}];
  const headDim = config.integer("head_dim", { min: 1, default: family.headDim ?? 512 });
  const ropeDim = config.integer("qk_rope_head_dim", { min: 1, default: headDim / 8 });
  const partial = config.number("partial_rotary_factor", { default: ropeDim / headDim });
  if (isObject(source.main) && isObject(source.compress)) {
    const { truncate: _, ...entry } = source[label] as RawParameters;
    return parametersOf(config, key, merge({ partial_rotary_factor: partial }, entry), true);
  }
  if (label === "main") {
    const values = { rope_theta: config.number("rope_theta", { default: 1e4 }), partial_rotary_factor: partial };
    return parametersOf(config, key, values, true);
  }
  const { truncate: _, ...scaling } = source;
  const values = merge({}, scaling);
  values.rope_theta = config.number("compress_rope_theta", { default: 160000 });
  values.partial_rotary_factor = partial;
  if ((values.rope_type ?? values.type) === "yarn") values.attention_factor ??= 1; // V4 does not scale cos and sin
  return parametersOf(config, key, values, true);
}

function perLayerLists(config: ConfigReader, family: ConfigFamily, choice: LayerChoice): LayerParameters | null {
  const type = requiredLayerType(config, family, choice);
  const source = objectAt(config, "rope_parameters");
  if (source !== undefined) {
    const entry = nestedEntry(config, "rope_parameters", source, type);
    return entry && parametersOf(config, "rope_parameters", entry, true);
  }
  // All layers of a type agree, so the first of the type stands for those named by type only.
  const index = choice.layerIndex ?? (config.has("layer_types") ? config.strings("layer_types").indexOf(type) : 0);
  const values: Record<string, unknown> = {
    rope_theta: atLayer(config, "rope_theta", index) ?? 1e4,
    partial_rotary_factor: atLayer(config, "partial_rotary_factors", index) ?? 1,
  };
  const scaled = config.has("yarn_only_types") ? config.strings("yarn_only_types") : ["full_attention"];
  const scaling = scaled.includes(type) ? objectAt(config, "rope_scaling") : undefined;
  return parametersOf(config, "rope_scaling", merge(values, scaling ?? {}), true);
}

function atLayer(config: ConfigReader, key: string, index: number): unknown {
  const value = config.raw(key);
  if (!Array.isArray(value)) return value;
  if (index >= 0 && index < value.length) return value[index];
  throw new ConfigError(config.where, `${key} must have an entry for every layer`, {
    layerIndex: index,
    length: value.length,
  });
}

function parametersOf(
  config: ConfigReader,
  key: string,
  values: Record<string, unknown>,
  nested: boolean,
): LayerParameters {
  return { values: new ConfigReader(`${config.where}: ${key}`, values), nested };
}

function anyParameters(config: ConfigReader): [string, RawParameters] | undefined {
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const source = objectAt(config, key);
    if (source !== undefined && Object.keys(source).length > 0) return [key, source];
  }
  return undefined;
}

function objectAt(config: ConfigReader, key: string): RawParameters | undefined {
  const value = config.raw(key);
  if (value === undefined) return undefined;
  if (!isObject(value)) throw new ConfigError(config.where, `${key} must be an object or null`, { [key]: value });
  return value;
}

function nestedEntry(config: ConfigReader, key: string, source: RawParameters, type: string): RawParameters | null {
  if (!Object.hasOwn(source, type)) {
    throw new ConfigError(config.where, `${key} must have an entry for layer type ${type}`, {
      entries: Object.keys(source),
    });
  }
  for (const [name, value] of Object.entries(source)) {
    if (value !== null && !isObject(value) && !BESIDE_TYPES.has(name)) {
      throw new ConfigError(`${config.where}: ${key}`, `${name} must stand inside the entry of a layer type`, {
        [name]: value,
      });
    }
  }
  const entry = source[type];
  if (entry === null) return null;
  if (!isObject(entry))
    throw new ConfigError(config.where, `${key}.${type} must be an object or null`, { [type]: entry });
  return withoutTruncate(source, entry);
}

/** Keys that transformers leaves, unused, beside the layer types; `truncate` is read from there. */
const BESIDE_TYPES: ReadonlySet<string> = new Set([
  "rope_type",
  "type",
  "rope_theta",
  "partial_rotary_factor",
  "truncate",
]);

/** transformers reads `truncate` beside the layer types, not inside them. */
function withoutTruncate(source: RawParameters, entry: RawParameters): Record<string, unknown> {
  const { truncate: _, ...rest } = entry;
  return typeof source.truncate === "boolean" ? { ...rest, truncate: source.truncate } : rest;
}

function isNested(source: RawParameters): boolean {
  return Object.entries(source).some(([key, value]) => isObject(value) || (value === null && LAYER_TYPE.test(key)));
}

const LAYER_TYPE = /_attention$|^hybrid/;

function isObject(value: unknown): value is RawParameters {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `over` on `under`; null and absent values of `over` leave those of `under`. */
function merge(under: RawParameters, over: RawParameters): Record<string, unknown> {
  const values: Record<string, unknown> = Object.assign(Object.create(null), under);
  for (const [key, value] of Object.entries(over)) {
    if ((value ?? undefined) !== undefined || !(key in values)) values[key] = value;
  }
  return values;
}

function topTheta(config: ConfigReader, { theta = 1e4, thetaKey = "rope_theta" }: ConfigFamily): number {
  return config.number(thetaKey, { default: theta });
}

function topPartial(config: ConfigReader, { partial, partialKey = "partial_rotary_factor" }: ConfigFamily): unknown {
  return config.raw(partialKey) ?? partial;
}

function originalLength(config: ConfigReader, family: ConfigFamily): unknown {
  return config.raw("original_max_position_embeddings") ?? family.originalLength;
}

function unknownType(config: ConfigReader, layerType: string, expected: string): never {
  throw new ConfigError(config.where, `the layer type of this model must be ${expected}`, { layerType });
}
