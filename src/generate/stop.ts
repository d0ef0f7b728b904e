/**
 * When a run ends: limits that are checked between tokens, and strings that are looked for in the text.
 */

import { ConfigError } from "../errors.ts";

/**
 * Why a run ended: the model gave a stop token; a stop string appeared; as many tokens as allowed were made; the
 * next position lies outside the context; the signal fired or the caller left the loop.
 */
export type StopReason = "stop-token" | "stop-string" | "max-new-tokens" | "context-full" | "aborted";

/** Text that may be shown, and whether a stop string ended it. */
export type StoppableText = { readonly text: string; readonly stopped: boolean };

/** Looks for stop strings in a text that arrives in pieces. */
export type StopStrings = {
  /** Takes the next piece; text that could begin a stop string is held back. Not to be called after a stop. */
  push(piece: string): StoppableText;
  /** What is still held back, when no more text will come. */
  end(): string;
};

/**
 * Watches for strings that end a text. The first one to be complete counts, however the text is cut into pieces;
 * it and what follows are not part of the text.
 *
 * @param strings - stop strings, not empty; none means that nothing is held back
 * @throws ConfigError when one of them is empty
 */
export function createStopStrings(strings: readonly string[]): StopStrings {
  for (const string of strings) {
    if (typeof string !== "string" || string === "") {
      throw new ConfigError("createStopStrings", "every stop string must have at least one character", { strings });
    }
  }
  let held = "";
  const push = (piece: string): StoppableText => {
    const text = held + piece;
    const start = startOfFirstComplete(text, strings);
    if (start >= 0) {
      held = "";
      return { text: text.slice(0, start), stopped: true };
    }
    const keep = longestBeginning(text, strings);
    held = text.slice(text.length - keep);
    return { text: text.slice(0, text.length - keep), stopped: false };
  };
  const end = (): string => {
    const rest = held;
    held = "";
    return rest;
  };
  return { push, end };
}

/** Where the stop string begins that is complete first (the longest of those that end together); −1 for none. */
function startOfFirstComplete(text: string, strings: readonly string[]): number {
  let start = -1;
  let end = Infinity;
  for (const string of strings) {
    const at = text.indexOf(string);
    if (at < 0) continue;
    const stringEnd = at + string.length;
    if (stringEnd < end || (stringEnd === end && at < start)) {
      start = at;
      end = stringEnd;
    }
  }
  return start;
}

/** Length of the longest end of `text` that begins a stop string. */
function longestBeginning(text: string, strings: readonly string[]): number {
  let longest = 0;
  for (const string of strings) {
    for (let length = Math.min(string.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(string.slice(0, length))) longest = length;
    }
  }
  return longest;
}
