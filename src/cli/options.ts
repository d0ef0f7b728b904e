/**
 * Option values as commander parses them; what is not even of the right type is a usage error.
 */

import { InvalidArgumentError } from "commander";
import { parsePolicy } from "../compress/index.ts";
import type { SamplerOptions } from "../generate/index.ts";
import { parseBytes } from "./parse-bytes.ts";

/** A number in decimal notation. */
export function parseNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

/** A whole number in decimal notation. */
export function parseInteger(text: string): number {
  const value = parseNumber(text);
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError("It must be a whole number.");
  return value;
}

/** A byte count: see {@link parseBytes}. */
export function parseByteOption(text: string): number {
  try {
    return parseBytes(text);
  } catch {
    throw new InvalidArgumentError("It must be a byte count such as 64MiB, 2GB or 1.5GiB.");
  }
}

/** Whole numbers with commas between them. */
export function parseIntegers(text: string): number[] {
  return text.split(",").map(parseInteger);
}

/** Words with commas between them, each one of the choices. */
export function parseWords<T extends string>(choices: readonly T[]): (text: string) => T[] {
  return (text) =>
    text.split(",").map((word) => {
      const found = choices.find((choice) => choice === word.trim());
      if (found === undefined) throw new InvalidArgumentError(`It must be made of ${choices.join(", ")}.`);
      return found;
    });
}

/** Policies with commas between them; commas in parentheses belong to a policy. */
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
  return policies.map((policy) => policy.trim());
}

/** Adds one value of an option that may be given several times. */
export function collect(text: string, earlier: readonly string[] = []): string[] {
  return [...earlier, text];
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
