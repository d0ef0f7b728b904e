/** Documents as tokens to train on. */

import { ConfigError } from "../../errors.ts";
import type { Tokenizer } from "../../model/index.ts";
import type { TokenDocument } from "../packed-batches.ts";
import type { StoryPart } from "./story-document.ts";

/** How much it counts to predict a token, by what it is part of. */
export type RoleWeights = Readonly<Record<StoryPart["role"], number>>;

/**
 * The tokens of a document: the begin token, the text of all parts, the end token.
 *
 * @param parts - of a story, or of a list
 * @param tokenizer - with a begin and an end token
 * @param weights - the end token counts as story
 * @throws ConfigError when the tokenizer names no begin or no end token
 */
export function storyTokens(parts: readonly StoryPart[], tokenizer: Tokenizer, weights: RoleWeights): TokenDocument {
  const { bosTokenId: begin, eosTokenId: end } = tokenizer;
  if (begin === undefined || end === undefined) {
    throw new ConfigError("storyTokens", "a tokenizer with a begin and an end token", { begin, end });
  }
  const tokens = [begin];
  const counts = [0];
  for (const { role, text } of parts) {
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    for (const id of ids) tokens.push(id);
    for (let i = 0; i < ids.length; i++) counts.push(weights[role]);
  }
  tokens.push(end);
  counts.push(weights.story);
  return { tokens: Uint16Array.from(tokens), weights: Float32Array.from(counts) };
}
