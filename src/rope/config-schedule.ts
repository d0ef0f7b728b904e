/**
 * Rope parameters of a Hugging Face config -> schedule.
 *
 * A key that no rope type knows is an error. A key that belongs to another rope type than the one named has no
 * effect, as in transformers.
 */

import type { ConfigReader } from "../config-reader.ts";
import { ConfigError } from "../errors.ts";
import type { ConfigFamily } from "./config-families.ts";
import type { RopeSchedule } from "./schedule.ts";

const KNOWN_KEYS: ReadonlySet<string> = new Set([
  "rope_type",
  "type",
  "rope_theta",
  "partial_rotary_factor",
  "factor",
  "original_max_position_embeddings",
  "attention_factor",
  "beta_fast",
  "beta_slow",
  "mscale",
  "mscale_all_dim",
  "truncate",
  "short_factor",
  "long_factor",
  "low_freq_factor",
  "high_freq_factor",
  "mrope_section",
  "mrope_interleaved",
  "finetuned", // says how the weights were trained, nothing about positions
]);

const TYPE_ALIASES: Readonly<Record<string, string>> = { su: "longrope" };

const ROPE_TYPES = ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"] as const;

/** The rope types that configs name. */
export type ConfigRopeType = (typeof ROPE_TYPES)[number];

/**
 * Refuses keys that nobody here understands.
 *
 * @throws ConfigError naming the key
 */
export function checkKeys(values: ConfigReader, family: ConfigFamily): void {
  for (const key of values.keys()) {
    if (KNOWN_KEYS.has(key) || family.extraKeys?.includes(key)) continue;
    if (!values.has(key)) continue;
    throw new ConfigError(
      values.where,
      `${key} is not a known rope parameter of this model type`,
      { [key]: values.raw(key) },
      "Remove it if it has no effect on positions.",
    );
  }
}

/** The rope type, aliases resolved; `rope_type` comes before the older `type`. */
export function ropeTypeOf(values: ConfigReader, family: ConfigFamily): ConfigRopeType {
  const key = values.has("rope_type") ? "rope_type" : "type";
  const name = values.string(key, "default");
  const aliases = { ...TYPE_ALIASES, ...family.typeAliases };
  const type = Object.hasOwn(aliases, name) ? aliases[name] : name;
  if (ROPE_TYPES.includes(type as ConfigRopeType)) return type as ConfigRopeType;
  throw new ConfigError(values.where, `${key} must be one of ${ROPE_TYPES.join(", ")}`, { [key]: name });
}

/** What the schedule needs besides its own parameters. */
export type ScheduleContext = {
  readonly config: ConfigReader;
  readonly family: ConfigFamily;
  /** R, or the head width for `proportional`. */
  readonly dim: number;
};

/**
 * The schedule of a layer.
 *
 * @param values - the layer's rope parameters, `rope_theta` included
 * @param type - its rope type
 * @throws ConfigError naming the key that is missing or wrong
 */
export function scheduleFromParameters(
  values: ConfigReader,
  type: ConfigRopeType,
  context: ScheduleContext,
): RopeSchedule {
  const { config, family, dim } = context;
  const theta = values.number("rope_theta");
  if (values.has("short_mscale") !== values.has("long_mscale")) {
    throw new ConfigError(values.where, "short_mscale and long_mscale go together", {
      short_mscale: values.raw("short_mscale"),
      long_mscale: values.raw("long_mscale"),
    });
  }
  if (values.has("short_mscale") && type !== "longrope" && type !== "default") {
    throw new ConfigError(values.where, "short_mscale and long_mscale go with rope type longrope", { type });
  }
  switch (type) {
    case "default":
      return { type, dim, theta };
    case "linear":
      return { type, dim, theta, factor: values.number("factor") };
    case "dynamic":
      return {
        type,
        dim,
        theta,
        factor: values.number("factor"),
        maxLength: config.number("max_position_embeddings"),
        ...(values.number("alpha", { default: 0 }) === 0 ? {} : { alpha: values.number("alpha") }),
      };
    case "yarn":
      return {
        type,
        dim,
        theta,
        factor: factorOf(values, config),
        originalLength: originalLengthOf(values, config),
        // 0 means the default, as in transformers.
        betaFast: values.number("beta_fast", { default: 32 }) || 32,
        betaSlow: values.number("beta_slow", { default: 1 }) || 1,
        truncate: values.boolean("truncate", true),
        ...optional("attentionFactor", values, "attention_factor"),
        ...optional("mscale", values, "mscale"),
        ...optional("mscaleAllDim", values, "mscale_all_dim"),
      };
    case "longrope": {
      const shortFactors = values.numbers("short_factor");
      return {
        type,
        dim,
        theta,
        shortFactors,
        // PhiMoE never switches to the long list, only its mscale changes.
        longFactors: family.extraKeys?.includes("short_mscale") ? shortFactors : values.numbers("long_factor"),
        originalLength: originalLengthOf(values, config),
        factor: factorOf(values, config),
        ...optional("attentionFactor", values, "attention_factor"),
        ...optional("shortMscale", values, "short_mscale"),
        ...optional("longMscale", values, "long_mscale"),
      };
    }
    case "llama3":
      return {
        type,
        dim,
        theta,
        factor: values.number("factor"),
        lowFreqFactor: values.number("low_freq_factor"),
        highFreqFactor: values.number("high_freq_factor"),
        originalLength: originalLengthOf(values, config),
      };
    case "proportional":
      return {
        type,
        dim,
        theta,
        fraction: values.number("partial_rotary_factor", { default: 1 }),
        factor: values.number("factor", { default: 1 }),
      };
  }
}

/** L: given, or `max_position_embeddings`. */
export function originalLengthOf(values: ConfigReader, config: ConfigReader): number {
  const key = "original_max_position_embeddings";
  return values.has(key) ? values.number(key) : config.number("max_position_embeddings");
}

/** f: given, or the ratio of the contexts. */
function factorOf(values: ConfigReader, config: ConfigReader): number {
  if (values.has("factor")) return values.number("factor");
  return config.number("max_position_embeddings") / originalLengthOf(values, config);
}

function optional<K extends string>(name: K, values: ConfigReader, key: string): { readonly [P in K]?: number } {
  return values.has(key) ? ({ [name]: values.number(key) } as { readonly [P in K]?: number }) : {};
}
