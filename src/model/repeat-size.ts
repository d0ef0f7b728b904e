/**
 * How much is held while a context is fed once more, for policies that look at what the model needs to repeat it.
 */

import type { PolicyNeeds } from "../compress/index.ts";
import type { RepeatOptions } from "./cache-options.ts";
import type { DecoderConfig } from "./config.ts";

/** Sizes of a context that is fed once more, part by part. */
export type RepeatSize = {
  /** Tokens of the context that a part repeats at most; 0: nothing is repeated. */
  readonly partTokens: number;
  /** Tokens that are fed for a part at most: its request, and the part. */
  readonly repeatTokens: number;
  /** Tokens that are fed for all parts together. */
  readonly totalTokens: number;
};

/** Tokens of a part unless told. */
export const PART_TOKENS = 2048;
const LEAST_PART = 16;
/** Tokens of a request in words, unless told. */
const REQUEST_TOKENS = 64;

/**
 * Sizes for a context of so many tokens. Unless told, its parts are quarters of it, if those are shorter than 2,048
 * tokens.
 *
 * @param words - whether parts are asked for in words
 */
export function repeatSize(needs: PolicyNeeds, options: RepeatOptions, tokens: number, words: boolean): RepeatSize {
  const { chunkTokens, requestTokens = words || options.tokensFor ? REQUEST_TOKENS : 0 } = options;
  if (needs.repeats === undefined) return { partTokens: 0, repeatTokens: 0, totalTokens: 0 };
  if (needs.repeats === "whole") return { partTokens: tokens, repeatTokens: tokens, totalTokens: tokens };
  const quarter = Math.min(PART_TOKENS, Math.max(LEAST_PART, Math.ceil(tokens / 4)));
  const partTokens = Math.min(chunkTokens ?? quarter, tokens);
  const parts = Math.ceil(tokens / partTokens);
  return { partTokens, repeatTokens: partTokens + requestTokens, totalTokens: tokens + parts * requestTokens };
}

/** Bytes beside the rows: queries, keys and largest attention of every part, and what one part is captured in. */
export function repeatBytes(
  { layers, hiddenSize }: DecoderConfig,
  needs: PolicyNeeds,
  { repeatTokens, totalTokens }: Omit<RepeatSize, "partTokens">,
): number {
  let [captured, kept] = [0, 0]; // bytes of a token
  for (const { heads, kvHeads, headDim } of layers) {
    captured += 4 * heads * headDim + (needs.inputNorms ? 4 * hiddenSize : 0);
    kept += 4 * (heads + kvHeads) * headDim + 8 * heads + (needs.inputNorms ? 8 : 0);
  }
  return repeatTokens * captured + totalTokens * kept;
}
