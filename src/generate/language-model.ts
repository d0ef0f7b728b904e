/**
 * What text generation needs of a model, so that any model can be generated from.
 */

import type { KvCache } from "../cache/index.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Tensor } from "../tensor.ts";

/** The part of a tokenizer that generation uses. */
export type TextCodec = Pick<Tokenizer, "encode" | "decode" | "isSpecial">;

/** A model that turns tokens into logits and keeps its keys and values in caches of type `Cache`. */
export interface LanguageModel<Cache extends KvCache = KvCache> {
  /** V, number of token ids. */
  readonly vocabSize: number;
  /** Longest context the model was made for, in tokens. */
  readonly maxPositions: number;
  /** Token ids that end a text. */
  readonly stopTokenIds: readonly number[];
  /** Absent: prompts must be token ids, and pieces have no text. */
  readonly tokenizer?: TextCodec | undefined;
  /** An empty cache. */
  createCache(): Cache;
  /**
   * Runs T tokens, at the positions that follow those in the cache, and appends them to it.
   *
   * @returns f32 logits: [1, V] of the last token for "last", [0, V] for "none"
   */
  forward(input: { tokens: Int32Array; cache: Cache; logits: "last" | "none" }): Promise<Tensor<"f32">>;
}
