/** A learned vocabulary as the files of a Hugging Face folder. */

import type { BytePairs } from "./train-byte-pairs.ts";
import { SPLIT_PATTERN } from "./train-byte-pairs.ts";

/** The token that begins a text; id 0. */
export const BEGIN_TOKEN = "<s>";
/** The token that ends a text; id 1. */
export const END_TOKEN = "</s>";

/** A parsed tokenizer.json and tokenizer_config.json. */
export type TokenizerFiles = {
  readonly tokenizer: Record<string, unknown>;
  readonly config: Record<string, unknown>;
};

/**
 * The files of a byte-level byte-pair tokenizer. Texts get the begin token when they are encoded with special tokens.
 *
 * @param learned - its tokens get the ids from 2 on
 * @param contextTokens - longest text of the model
 */
export function tokenizerFiles(learned: BytePairs, contextTokens: number): TokenizerFiles {
  const special = [BEGIN_TOKEN, END_TOKEN];
  const tokens = [...special, ...learned.tokens];
  const single = [{ SpecialToken: { id: BEGIN_TOKEN, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: special.map((content, id) => {
        return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
      }),
      normalizer: null,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern: { Regex: SPLIT_PATTERN }, behavior: "Isolated", invert: false },
          { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
        ],
      },
      post_processor: {
        type: "TemplateProcessing",
        single,
        pair: [...single, { Sequence: { id: "B", type_id: 1 } }],
        special_tokens: { [BEGIN_TOKEN]: { id: BEGIN_TOKEN, ids: [0], tokens: [BEGIN_TOKEN] } },
      },
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: learned.merges,
      },
    },
    config: {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: BEGIN_TOKEN,
      eos_token: END_TOKEN,
      clean_up_tokenization_spaces: false,
      model_max_length: contextTokens,
    },
  };
}
