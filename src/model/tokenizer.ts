/** Text to token ids and back, by a checkpoint's tokenizer.json. */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ConfigError, FormatError } from "../errors.ts";

/** Options of {@link Tokenizer.encode}. */
export type EncodeOptions = {
  /** Whether to add the tokens that the checkpoint puts around a text, such as BOS; true unless told. */
  addSpecialTokens?: boolean;
};

/** Options of {@link Tokenizer.decode} and {@link createDecodeStream}. */
export type DecodeOptions = {
  /** Whether to leave special tokens out of the text; true unless told. */
  skipSpecialTokens?: boolean;
};

/** Turns text into token ids and back. */
export interface Tokenizer {
  /** One more than the highest token id. The model's own vocabulary may be larger, for padding. */
  readonly vocabSize: number;
  /** The token that begins a text, if tokenizer_config.json names one. */
  readonly bosTokenId?: number | undefined;
  /** The token that ends a text, if tokenizer_config.json names one. */
  readonly eosTokenId?: number | undefined;
  /**
   * The token ids of a text.
   *
   * @throws FormatError when the vocabulary cannot express the text
   */
  encode(text: string, options?: EncodeOptions): number[];
  /**
   * The text of token ids. Ids without a token have no text. Spaces before punctuation are never removed, whatever
   * `clean_up_tokenization_spaces` says: transformers ignores it for byte-pair vocabularies, whose text it damages.
   *
   * @throws ConfigError for ids that are not non-negative integers
   * @see https://github.com/huggingface/transformers/pull/44915
   */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string;
  /** A token as the vocabulary writes it, such as "▁the" or "<0x0A>"; `undefined` when there is none. */
  tokenText(id: number): string | undefined;
  /** Whether `decode` leaves the id out unless told: special tokens, and ids without a token. */
  isSpecial(id: number): boolean;
}

const FILE = "tokenizer.json";
const CONFIG_FILE = "tokenizer_config.json";

/** Kinds of vocabulary; old files name none. */
const MODEL_TYPES: readonly unknown[] = ["BPE", "Unigram", "WordPiece"];

/** Keys of tokenizer_config.json whose tokens are special even where tokenizer.json does not mark them. */
const SPECIAL_KEYS = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/**
 * A tokenizer from the parsed files of a Hugging Face folder.
 *
 * @param tokenizerJson - tokenizer.json
 * @param tokenizerConfig - tokenizer_config.json; `{}` when the folder has none
 * @throws FormatError when tokenizer.json is damaged or of an unknown kind
 * @throws ConfigError when tokenizer_config.json is not an object
 */
export function createTokenizer(tokenizerJson: unknown, tokenizerConfig: unknown = {}): Tokenizer {
  if (!isObject(tokenizerConfig)) throw new ConfigError(CONFIG_FILE, "a JSON object", { value: tokenizerConfig });
  const definition = checkDefinition(tokenizerJson);
  const inner = attempt("a tokenizer that can be built", () => {
    const built = new HuggingFaceTokenizer(definition, tokenizerConfig);
    const probe = built.encode("a b").ids.filter(isTokenId); // parts of the definition are first looked at here
    if (probe.length > 0) built.decode(probe);
    return built;
  });
  const vocabulary = inner.model?.vocab ?? [];
  const idOf = (token: unknown): number | undefined => {
    const content = isObject(token) ? token.content : token;
    return typeof content === "string" ? inner.token_to_id(content) : undefined;
  };
  const special = specialIds(definition, tokenizerConfig, idOf);

  const encode = (text: string, { addSpecialTokens = true }: EncodeOptions = {}): number[] => {
    const options = { add_special_tokens: addSpecialTokens };
    const ids = attempt("a text that can be encoded", () => inner.encode(text, options).ids);
    if (ids.every(isTokenId)) return ids;
    throw new FormatError(FILE, "a token for every character, or an unknown token", { text });
  };

  const decode = (ids: ArrayLike<number>, { skipSpecialTokens = true }: DecodeOptions = {}): string => {
    const kept: number[] = [];
    for (const id of Array.from(ids)) {
      if (!isTokenId(id)) throw new ConfigError("decode", "token ids must be non-negative integers", { id });
      if (vocabulary[id] !== undefined && !(skipSpecialTokens && special.has(id))) kept.push(id);
    }
    if (kept.length === 0) return "";
    const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
    return attempt("token ids that can be decoded", () => inner.decode(kept, options));
  };

  return {
    vocabSize: vocabulary.length,
    bosTokenId: idOf(tokenizerConfig.bos_token),
    eosTokenId: idOf(tokenizerConfig.eos_token),
    encode,
    decode,
    tokenText: (id) => vocabulary[id],
    isSpecial: (id) => special.has(id) || vocabulary[id] === undefined,
  };
}

/** Text from tokens as they come. */
export interface DecodeStream {
  /** Takes the next token; returns the text that has become certain, often "" within a character of several bytes. */
  push(id: number): string;
  /** Returns the text that was held back for a character whose bytes did not come. */
  end(): string;
}

/** Enough tokens for a decoder that starts in the middle of a UTF-8 character (at most 4 bytes) to find its feet. */
const CONTEXT_TOKENS = 4;
const MAX_WINDOW_TOKENS = 8;
const REPLACEMENT = "\ufffd";

/**
 * Decodes token by token; what `push` and `end` return, joined, equals `decode` of all tokens. The cost of a token does
 * not depend on how many came before.
 *
 * Only the last few tokens are decoded, twice: with and without the new ones. The text of the earlier ones, which both
 * share, settles what happens at the start of a text (a stripped space). A character whose bytes are incomplete shows as
 * one U+FFFD at the end, so that everything before it is certain.
 *
 * @param tokenizer - decodes; its text must grow at the end only, which all decoders of language models do
 * @param options - as for `decode`
 */
export function createDecodeStream(
  tokenizer: Pick<Tokenizer, "decode" | "isSpecial">,
  { skipSpecialTokens = true }: DecodeOptions = {},
): DecodeStream {
  const decode = (ids: readonly number[]): string => tokenizer.decode(ids, { skipSpecialTokens });
  let window: number[] = [];
  let windowText = "";
  /** Characters of `windowText` that were returned, or belong to text before them. */
  let settled = 0;

  const push = (id: number): string => {
    if (tokenizer.isSpecial(id) && decode([id]) === "") return "";
    window.push(id);
    windowText = decode(window);
    const certain = certainLength(windowText);
    const piece = windowText.slice(settled, certain);
    settled = Math.max(settled, certain);
    if (window.length >= MAX_WINDOW_TOKENS) shorten();
    return piece;
  };

  const shorten = (): void => {
    const shorter = window.slice(-CONTEXT_TOKENS);
    const text = decode(shorter);
    if (text === "") return; // nothing but stripped spaces: the start of the text is not settled
    window = shorter;
    windowText = text;
    settled = certainLength(text);
  };

  const end = (): string => {
    const rest = windowText.slice(settled);
    settled = windowText.length;
    return rest;
  };

  return { push, end };
}

function certainLength(text: string): number {
  return text.endsWith(REPLACEMENT) ? text.length - 1 : text.length;
}

/** Refuses what the tokenizer would take without complaint and choke on later; fills in what may be left out. */
function checkDefinition(json: unknown): Record<string, unknown> & { added_tokens: Record<string, unknown>[] } {
  if (!isObject(json)) throw new FormatError(FILE, "a JSON object", { value: json });
  const { model, added_tokens: added, decoder = null } = json;
  if (!isObject(model)) throw new FormatError(FILE, "model must be an object", { model });
  if (model.type !== undefined && !MODEL_TYPES.includes(model.type)) {
    throw new FormatError(FILE, `model.type must be one of ${MODEL_TYPES.join(", ")}`, { type: model.type });
  }
  checkVocabulary(model.vocab);
  const addedTokens = added ?? [];
  if (!Array.isArray(addedTokens)) throw new FormatError(FILE, "added_tokens must be a list", { added_tokens: added });
  for (const token of addedTokens) {
    if (isObject(token) && typeof token.content === "string" && isTokenId(token.id)) continue;
    throw new FormatError(FILE, "added tokens with content and id", { token });
  }
  if (attempt("a decoder", () => contains(decoder, "CTC"))) {
    throw new FormatError(FILE, "a decoder of a language model", { decoder: "CTC" }, "CTC is for speech recognition.");
  }
  const optional = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  return { ...optional, ...json, added_tokens: addedTokens as Record<string, unknown>[] };
}

/** A vocabulary is {token: id}, or for Unigram [[token, score]]. */
function checkVocabulary(vocab: unknown): void {
  if (Array.isArray(vocab)) {
    const bad = vocab.findIndex((entry) => !Array.isArray(entry) || typeof entry[0] !== "string");
    if (bad < 0) return;
    throw new FormatError(FILE, "a vocabulary of [token, score] pairs", { index: bad, entry: vocab[bad] });
  }
  if (!isObject(vocab)) throw new FormatError(FILE, "model.vocab must be an object or a list", { vocab });
  for (const [token, id] of Object.entries(vocab)) {
    if (!isTokenId(id)) throw new FormatError(FILE, "token ids that are non-negative integers", { token, id });
  }
}

function specialIds(
  definition: { added_tokens: Record<string, unknown>[] },
  config: Record<string, unknown>,
  idOf: (token: unknown) => number | undefined,
): Set<number> {
  const extra = [config.additional_special_tokens, config.extra_special_tokens].flatMap((list) => {
    return Array.isArray(list) ? list : [];
  });
  const marked = definition.added_tokens.filter((token) => token.special === true);
  const tokens = [...marked, ...SPECIAL_KEYS.map((key) => config[key]), ...extra];
  return new Set(tokens.map(idOf).filter((id) => id !== undefined));
}

/** Whether a decoder is of the type, or a sequence with one that is. */
function contains(decoder: unknown, type: string): boolean {
  if (!isObject(decoder)) return false;
  if (decoder.type === type) return true;
  return Array.isArray(decoder.decoders) && decoder.decoders.some((part) => contains(part, type));
}

/** Runs the tokenizer, which reports a damaged definition by whatever error it runs into. */
function attempt<T>(expected: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FormatError(FILE, expected, { reason }, "The file is damaged, or of a kind that is not supported.");
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Ids are 32-bit integers. */
function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < 2 ** 31;
}
