/** One question to a model, answered greedily. */

import { generate } from "../generate/index.ts";
import type { DecoderModel, ModelCache } from "../model/index.ts";

/** How a question is asked. */
export type AskOptions = {
  /** Tokens of the answer at most; 24 unless told. */
  readonly maxAnswerTokens?: number;
  /** What ends an answer; a line's end unless told. */
  readonly stopStrings?: readonly string[];
  readonly signal?: AbortSignal;
};

/** An answer. */
export type Answer = {
  /** Without the white space around it. */
  readonly text: string;
  /** Of the answer, one at a time. */
  readonly tokensPerSecond: number;
};

/**
 * Feeds a prompt behind what a cache holds and takes the most probable token each time. The cache then holds prompt and
 * answer: give a fork to ask again.
 *
 * @param prompt - up to where the answer begins
 */
export async function ask(
  model: DecoderModel,
  cache: ModelCache,
  prompt: string,
  options: AskOptions = {},
): Promise<Answer> {
  const { maxAnswerTokens = 24, stopStrings = ["\n"], signal } = options;
  const run = generate(model, prompt, {
    cache,
    temperature: 0,
    maxNewTokens: maxAnswerTokens,
    maxPositions: 2 ** 31 - 1, // what happens beyond the model's range is part of what is measured
    stopStrings,
    ...(signal && { signal }),
  });
  const { newText, tokensPerSecond } = await run.finish();
  return { text: newText.trim(), tokensPerSecond };
}

/** Whether an answer is the expected one, letter for letter but for white space and a full stop at its ends. */
export function isExactAnswer(given: string, expected: string): boolean {
  const plain = (text: string): string => text.trim().replace(/\.$/, "").replaceAll(/\s+/g, " ");
  return plain(given) === plain(expected);
}
