/**
 * Option values as commander parses them; what is not even of the right type is a usage error.
 */

import { InvalidArgumentError } from "commander";
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

/** Adds one value of an option that may be given several times. */
export function collect(text: string, earlier: readonly string[] = []): string[] {
  return [...earlier, text];
}
