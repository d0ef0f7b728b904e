/**
 * JSON of untrusted weight files: a key may stand once in an object, and depth and number of keys are limited, which
 * JSON.parse alone does not see to.
 */

import { FormatError } from "../../errors.ts";

/** A parsed JSON object, and where its keys stand. */
export type StrictJson = {
  /** The top-level keys and values, in the order of the text. */
  entries(): Iterable<[string, unknown]>;
  /** Where a top-level key starts in the file, in bytes. */
  byteOffsetOf(key: string): number;
};

/** How much structure a text may have; parsing time grows with it. */
export type JsonLimits = { readonly maxDepth: number; readonly maxKeys: number };

const DAMAGED = "The file is damaged.";
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * Parses a JSON object.
 *
 * @param where - the name of the file, for messages
 * @param text - the JSON
 * @param baseOffset - where `text` starts in the file, in bytes
 * @param limits - deepest nesting (1 is an object of plain values) and most keys, all objects together
 * @throws FormatError with `got.byteOffset` for anything else than one valid object without duplicate keys
 */
export function parseStrictJson(where: string, text: string, baseOffset: number, limits: JsonLimits): StrictJson {
  const toByteOffset = (index: number): number =>
    baseOffset + new TextEncoder().encode(text.slice(0, index)).byteLength;
  const refuse = (expected: string, index: number, got: Record<string, unknown> = {}): never => {
    throw new FormatError(where, expected, { byteOffset: toByteOffset(index), ...got }, DAMAGED);
  };

  const topKeys = scanKeys(text, limits, refuse);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    refuse("valid JSON", 0);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse("a JSON object", 0);
  const object = value as Record<string, unknown>;
  return {
    *entries() {
      for (const key of topKeys.keys()) yield [key, object[key]];
    },
    byteOffsetOf: (key) => toByteOffset(topKeys.get(key) ?? 0),
  };
}

/**
 * Walks the brackets and strings of a text, which need not be valid JSON, and refuses deep nesting and duplicate keys.
 * Returns where each key of the outermost object starts.
 */
function scanKeys(
  text: string,
  { maxDepth, maxKeys }: JsonLimits,
  refuse: (expected: string, index: number, got?: Record<string, unknown>) => never,
): Map<string, number> {
  const topKeys = new Map<string, number>();
  const open: (Set<string> | undefined)[] = []; // per open bracket: an object's keys so far, undefined for a list
  let keyCount = 0;
  let index = 0;
  while (index < text.length) {
    switch (text[index]) {
      case "{":
      case "[":
        open.push(text[index] === "{" ? new Set() : undefined);
        if (open.length > maxDepth) refuse(`JSON nested at most ${maxDepth} deep`, index);
        break;
      case "}":
      case "]":
        open.pop();
        break;
      case '"': {
        const end = endOfString(text, index);
        if (end < 0) refuse("strings that end", index);
        const keys = open.at(-1);
        if (keys !== undefined && isBeforeColon(text, end)) {
          const key = decodeKey(text.slice(index, end));
          if (keys.has(key)) refuse("every key once", index, { key });
          if (++keyCount > maxKeys) refuse(`at most ${maxKeys} keys`, index);
          keys.add(key);
          if (open.length === 1) topKeys.set(key, index);
        }
        index = end - 1;
        break;
      }
    }
    index++;
  }
  return topKeys;
}

/** The index after the closing quote of the string that opens at `start`, or −1. */
function endOfString(text: string, start: number): number {
  let end = start + 1;
  for (; end < text.length; end++) {
    const code = text.charCodeAt(end);
    if (code === BACKSLASH) end++;
    else if (code === QUOTE) return end + 1;
  }
  return -1;
}

function isBeforeColon(text: string, index: number): boolean {
  let next = index;
  while (" \t\n\r".includes(text[next] ?? "x")) next++;
  return text[next] === ":";
}

/** The value of a quoted string; a bad escape stays as it is, for JSON.parse to refuse. */
function decodeKey(quoted: string): string {
  if (!quoted.includes("\\")) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted;
  }
}
