/**
 * Option values as commander parses them; what is not even of the right type is a usage error.
 */

import { InvalidArgumentError, type Option } from "commander";
import { parsePolicy } from "../compress/index.ts";
import { ConfigError } from "../errors.ts";
import type { SamplerOptions } from "../generate/index.ts";
import { parseBytes } from "./parse-bytes.ts";

/** Text that is not empty: a path, a question. */
export function parseText(text: string): string {
  if (text.trim() === "") throw new InvalidArgumentError("It must not be empty.");
  return text;
}

/** A number in decimal notation: 7, 0.5, 1e-3. */
export function parseNumber(text: string): number {
  const value = /^\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isFinite(value)) throw new InvalidArgumentError("It must be a number such as 7, 0.5 or 1e-3.");
  return value;
}

/** A number in decimal notation, of a range that both ends belong to. */
export function numberIn(least: number, most: number = Infinity): (text: string) => number {
  return (text) => {
    const value = parseNumber(text);
    if (value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be ${rangeText("a number", least, most)}.`);
  };
}

/** A number above 0 in decimal notation. */
export function parsePositive(text: string): number {
  const value = parseNumber(text);
  if (value > 0) return value;
  throw new InvalidArgumentError("It must be a number above 0.");
}

/** A part of a whole, from 0 to below 1. */
export function parseFraction(text: string): number {
  const value = parseNumber(text);
  if (value >= 0 && value < 1) return value;
  throw new InvalidArgumentError("It must be a number from 0 to below 1.");
}

/** A whole number in decimal notation, of a range that both ends belong to. */
export function wholeNumber(least: number, most: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = parseNumber(text);
    if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be ${rangeText("a whole number", least, most)}.`);
  };
}

function rangeText(what: string, least: number, most: number): string {
  if (most === Infinity) return `${what} of at least ${least}`;
  const end = most === Number.MAX_SAFE_INTEGER ? "2^53 - 1" : most.toLocaleString("en-US");
  return `${what} from ${least} to ${end}`;
}

/** A byte count: see {@link parseBytes}. */
export function parseByteOption(text: string): number {
  try {
    return parseBytes(text);
  } catch {
    throw new InvalidArgumentError("It must be a byte count such as 64MiB, 2GB or 1.5GiB.");
  }
}

/** Whole numbers of at least 1 with commas between them, each once. */
export function parseCounts(text: string): number[] {
  return [...new Set(text.split(",").map(wholeNumber(1)))];
}

/** Words with commas between them, each one of the choices and once. */
export function parseWords<T extends string>(choices: readonly T[]): (text: string) => T[] {
  return (text) => {
    const words = text.split(",").map((word) => {
      const found = choices.find((choice) => choice === word.trim());
      if (found === undefined) throw new InvalidArgumentError(`It must be made of ${choices.join(", ")}.`);
      return found;
    });
    return [...new Set(words)];
  };
}

/** Policies with commas between them, each once; commas in parentheses belong to a policy. */
export function parsePolicies(text: string): string[] {
  const policies = [""];
  let depth = 0;
  for (const character of text) {
    if (character === "(") depth++;
    if (character === ")") depth--;
    if (character === "," && depth === 0) policies.push("");
    else policies[policies.length - 1] += character;
  }
  for (const policy of policies) {
    try {
      parsePolicy(policy);
    } catch (error) {
      throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
    }
  }
  return [...new Set(policies.map((policy) => policy.trim()))];
}

/** Adds one value, not empty, of an option that may be given several times. */
export function collect(text: string, earlier: readonly string[] = []): string[] {
  return [...earlier, parseText(text)];
}

/** The same for texts that may be white space. */
export function collectStops(text: string, earlier: readonly string[] = []): string[] {
  if (text === "") throw new InvalidArgumentError("It must not be empty.");
  return [...earlier, text];
}

/** Whether an option may be given several times. */
export function isRepeatable(option: Option): boolean {
  return [collect, collectStops].some((parse) => option.parseArg === (parse as unknown));
}

/**
 * Refuses threads where nothing runs on them.
 *
 * @throws ConfigError naming both options
 */
export function checkThreads(where: string, backend: string | undefined, threads: number | undefined): void {
  if (backend !== "reference" || threads === undefined) return;
  throw new ConfigError(where, "--threads with the wasm backend only", { backend, threads });
}

/** The sampler's part of a command's options. */
export function samplerOptions(from: SamplerOptions): SamplerOptions {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = from;
  return {
    ...(temperature !== undefined && { temperature }),
    ...(topK !== undefined && { topK }),
    ...(topP !== undefined && { topP }),
    ...(minP !== undefined && { minP }),
    ...(repetitionPenalty !== undefined && { repetitionPenalty }),
    ...(seed !== undefined && { seed }),
  };
}
