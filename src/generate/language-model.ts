/**
 * What text generation needs of a model, so that any model can be generated from.
 */

import type { KeyValues } from "../attention/index.ts";
import type { KvCache } from "../cache/index.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Tensor } from "../tensor.ts";

/** The part of a tokenizer that generation uses. */
export type TextCodec = Pick<Tokenizer, "encode" | "decode" | "isSpecial">;

/** A cache as generation sees it. */
export type GenerationCache = KvCache<KeyValues> & {
  /** Whether what stays moves together when tokens are forgotten, so that a prompt may outgrow the model's context. */
  readonly closesGaps?: boolean;
};

/**
 * A model that turns tokens into logits and keeps its keys and values in caches of type `Cache`, which is inferred from
 * `createCache` alone: `forward` may take its cache as optional.
 */
export interface LanguageModel<Cache extends GenerationCache = GenerationCache> {
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
   * @param input.sequenceLength - tokens in the cache and of the prompt that these are a part of, so that rotary
   * frequencies which depend on the length are the same however the prompt is cut
   * @returns f32 logits: [1, V] of the last token for "last", [0, V] for "none"
   */
  forward(input: {
    tokens: Int32Array;
    cache: NoInfer<Cache>;
    sequenceLength: number;
    logits: "last" | "none";
  }): Promise<Tensor<"f32">>;
}
