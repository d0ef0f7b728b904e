/**
 * Typed access to the keys of an untrusted JSON object (config.json, GGUF metadata). Every refusal is a
 * ConfigError that names the file, the key and the value.
 */

import { ConfigError } from "./errors.ts";

/** Bounds and default of a numeric key. Without a `default` the key is required. */
export type NumberRule = {
  /** Smallest value allowed. */
  min?: number;
  /** Largest value allowed. */
  max?: number;
  /** Value when the key is absent or null. */
  default?: number;
};

/** Reads one JSON object key by key. Absent and `null` mean the same, as they do in Hugging Face configs. */
export class ConfigReader {
  readonly where: string;
  readonly #values: Readonly<Record<string, unknown>>;

  /**
   * @param where - what is being read, for messages ("config.json")
   * @param json - the parsed value
   * @throws ConfigError when `json` is not an object
   */
  constructor(where: string, json: unknown) {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new ConfigError(where, "a JSON object", { value: json });
    }
    this.where = where;
    this.#values = json as Record<string, unknown>;
  }

  /** The raw value; `undefined` for null and absent keys, and for names inherited from Object. */
  raw(key: string): unknown {
    if (!Object.hasOwn(this.#values, key)) return undefined;
    return this.#values[key] ?? undefined;
  }

  /** Whether the key is present and not null. */
  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  /** The keys present, null ones included. */
  keys(): string[] {
    return Object.keys(this.#values);
  }

  /** A finite number within the rule. */
  number(key: string, rule: NumberRule = {}): number {
    const value = this.raw(key) ?? rule.default;
    const { min = -Infinity, max = Infinity } = rule;
    if (value === undefined) throw new ConfigError(this.where, `${key} is required`);
    if (typeof value !== "number" || !Number.isFinite(value) || value < min || value > max) {
      throw new ConfigError(this.where, `${key} must be a number${describeRange(min, max)}`, { [key]: value });
    }
    return value;
  }

  /** An integer within the rule; `min` is 0 unless told. */
  integer(key: string, rule: NumberRule = {}): number {
    const min = rule.min ?? 0;
    const max = rule.max ?? Number.MAX_SAFE_INTEGER;
    const value = this.raw(key) ?? rule.default;
    if (value === undefined) throw new ConfigError(this.where, `${key} is required`);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
      throw new ConfigError(this.where, `${key} must be an integer${describeRange(min, max)}`, { [key]: value });
    }
    return value;
  }

  /** `true` or `false`. */
  boolean(key: string, fallback?: boolean): boolean {
    const value = this.raw(key) ?? fallback;
    if (typeof value !== "boolean") throw new ConfigError(this.where, `${key} must be true or false`, { [key]: value });
    return value;
  }

  /** A string. */
  string(key: string, fallback?: string): string {
    const value = this.raw(key) ?? fallback;
    if (typeof value !== "string") throw new ConfigError(this.where, `${key} must be a string`, { [key]: value });
    return value;
  }

  /** One of the given strings. */
  oneOf<T extends string>(key: string, choices: readonly T[], fallback?: T): T {
    const value = this.raw(key) ?? fallback;
    if (!choices.includes(value as T)) {
      throw new ConfigError(this.where, `${key} must be one of ${choices.join(", ")}`, { [key]: value });
    }
    return value as T;
  }

  /** A list of finite numbers. */
  numbers(key: string, length?: number): number[] {
    const value = this.raw(key);
    const isList = Array.isArray(value) && value.every((item) => typeof item === "number" && Number.isFinite(item));
    if (!isList || (length !== undefined && value.length !== length)) {
      const count = length === undefined ? "" : `${length} `;
      throw new ConfigError(this.where, `${key} must be a list of ${count}numbers`, { [key]: value });
    }
    return value as number[];
  }

  /** A list of strings. */
  strings(key: string): string[] {
    const value = this.raw(key);
    if (!Array.isArray(value) || !value.every((item) => typeof item === "string")) {
      throw new ConfigError(this.where, `${key} must be a list of strings`, { [key]: value });
    }
    return value as string[];
  }

  /** A nested object as a reader of its own; `undefined` when absent. */
  object(key: string): ConfigReader | undefined {
    const value = this.raw(key);
    return value === undefined ? undefined : new ConfigReader(`${this.where}: ${key}`, value);
  }
}

function describeRange(min: number, max: number): string {
  const lower = min > -Infinity;
  const upper = max < Infinity && max !== Number.MAX_SAFE_INTEGER;
  if (lower && upper) return ` from ${min} to ${max}`;
  if (lower) return ` of at least ${min}`;
  return upper ? ` of at most ${max}` : "";
}
