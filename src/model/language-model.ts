/**
 * A loaded model: tokens in, logits out, with the cache kept consistent between calls.
 */

import type { Backend } from "../engine/index.ts";
import { ConfigError, ShapeError } from "../errors.ts";
import { dependsOnLength, type RotaryLayer } from "../rope/index.ts";
import type { Tensor } from "../tensor.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { DecoderConfig } from "./config.ts";
import { Decoder, type LayerListener } from "./decoder.ts";
import type { DecoderWeights } from "./decoder-weights.ts";
import { type FeedParts, feed } from "./feed.ts";
import { modelFingerprint } from "./fingerprint.ts";
import type { GenerationConfig } from "./generation-config.ts";
import { ModelCache } from "./model-cache.ts";
import type { CacheOwner } from "./model-rows.ts";
import { shareEqual } from "./share-equal.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One call of {@link DecoderModel.forward}. */
export type ForwardInput = {
  /** [T] token ids, at least one. */
  tokens: ArrayLike<number>;
  /** i32 [T] true positions; default: on from the cache's next position. */
  positions?: Int32Array;
  /** i32 [T] segments of packed sequences; −1 is padding. Default: all 0. */
  segments?: Int32Array;
  /**
   * Tokens of the whole sequence when this call brings a part of it: schedules that depend on the length (dynamic NTK,
   * LongRoPE) are resolved for it, as they would be in a single pass. Default: up to the largest position so far.
   */
  sequenceLength?: number;
  /** Earlier keys and values, appended to; without it the tokens stand alone. */
  cache?: ModelCache;
  /** Which logits to compute; default the last token's. */
  logits?: "last" | "all" | "none";
  /** Looks at the residual stream f32 [T, C] after each layer; copy what should be kept. */
  onLayer?: LayerListener;
};

/** How a text is read; see {@link DecoderModel.prefill}. */
export type PrefillOptions = {
  /**
   * What will be asked of the text: policies look from it to choose what stays. It is not part of the cache afterwards,
   * unless it shall be kept.
   */
  readonly question?: string | ArrayLike<number>;
  /** Whether the question stays, at the end of the text; false unless told. */
  readonly keepQuestion?: boolean;
  /** Whether a text gets the tokenizer's special tokens (BOS); by default when the cache is empty. */
  readonly addSpecialTokens?: boolean;
  /** Ends the reading between two chunks; the cache then holds what was read. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { readonly readTokens: number; readonly totalTokens: number }) => void;
};

/** What a prefill did. */
export type PrefillSummary = {
  /** Tokens read, a kept question included. */
  readonly tokens: number;
  readonly seconds: number;
  readonly compressions: number;
};

/** Tokens read at a time into a cache that sets no chunk. */
const PREFILL_TOKENS = 512;

/** What a model is made of. */
export type DecoderModelParts = {
  config: DecoderConfig;
  weights: DecoderWeights;
  backend: Backend;
  /** Absent when the folder has no tokenizer.json. */
  tokenizer?: Tokenizer;
  generation: GenerationConfig;
};

/** A decoder with its weights on a backend. */
export class DecoderModel {
  readonly config: DecoderConfig;
  readonly tokenizer: Tokenizer | undefined;
  readonly generation: GenerationConfig;
  readonly backend: Backend;
  readonly #parts: FeedParts;
  readonly #owner: CacheOwner;
  /** Resolves when the last call has ended. */
  #busy: Promise<unknown> = Promise.resolve();

  constructor({ config, weights, backend, tokenizer, generation }: DecoderModelParts) {
    this.config = config;
    this.backend = backend;
    this.tokenizer = tokenizer;
    this.generation = generation;
    const decoder = new Decoder(config, weights, backend);
    const rotaries = new Set(shareEqual(config.layers.map((layer) => layer.positions.rotary)));
    const changing = [...rotaries].filter((rotary) => rotary !== null && dependsOnLength(rotary.schedule));
    this.#parts = { decoder, backend, tokenizer, changing: changing as RotaryLayer[] };
    this.#owner = { config, backend, tokenizer, fingerprint: () => modelFingerprint(config, decoder, tokenizer) };
  }

  /** V, number of token ids. */
  get vocabSize(): number {
    return this.config.vocabSize;
  }

  /** Token ids that end a text. */
  get stopTokenIds(): readonly number[] {
    return this.generation.stopTokenIds;
  }

  /** Longest context the checkpoint was made for, in tokens. */
  get maxPositions(): number {
    return this.config.maxPositions;
  }

  /**
   * An empty cache for this model.
   *
   * @throws ConfigError or CapabilityError for options that contradict each other
   * @throws BudgetError when the bytes or tokens cannot hold what must stay; before anything is allocated
   */
  createCache(options: ModelCacheOptions = {}): ModelCache {
    return new ModelCache(this.#owner, options);
  }

  /**
   * Runs tokens through the model. A cache that forgets, or has rings, takes them in several steps where they are more
   * than it has room for; `onLayer` then sees the steps one by one.
   *
   * Padding (segment −1) attends to nothing and its logits mean nothing. Where a step throws, the cache holds the tokens of
   * the steps before it.
   *
   * @returns f32 logits: [1, V] for "last", [T, V] for "all", [0, V] for "none"
   * @throws ShapeError when the inputs' lengths differ, there is no token, or an id is outside the vocabulary
   * @throws ConfigError when the rotary frequencies change under a filled cache that was given no choice
   */
  forward(input: ForwardInput): Promise<Tensor<"f32">> {
    return this.#inTurn(() => this.#forward(input));
  }

  async #forward(input: ForwardInput): Promise<Tensor<"f32">> {
    const cache = input.cache ?? new ModelCache(this.#owner, { layout: "contiguous" });
    const { tokens, positions, segments, sequenceLength = 1 } = this.#readTokens(input);
    const T = tokens.length;
    const logits = { last: 1, all: T, none: 0 }[input.logits ?? "last"];
    const remaining = Math.max(0, sequenceLength - cache.nextPosition - T);
    const { onLayer } = input;
    return feed(this.#parts, cache, { tokens, positions, segments, logits, sequenceLength, remaining, onLayer });
  }

  /**
   * Reads a text into a cache, in chunks where the cache was made for them; a cache with a budget is compressed after
   * every chunk and at the end, so that it never holds more than its budget and one chunk, however long the text is.
   *
   * Where a step throws, the cache holds what was read before it (`cache.tokensSeen`), and nothing of the question; where a
   * compression does, the next call compresses first.
   *
   * @param cache - of this model
   * @param text - text, or token ids, of which there must be at least one
   * @throws ConfigError for an empty text, text without a tokenizer, or a policy that needs a question
   * @throws BudgetError when the cache has no room for a token and the question; before anything is computed when its policy
   * must see the whole text and `maxBytes` do not hold it (`got.promptTokens` says how much they do)
   */
  async prefill(
    cache: ModelCache,
    text: string | ArrayLike<number>,
    options: PrefillOptions = {},
  ): Promise<PrefillSummary> {
    const { question: asked, keepQuestion = false, signal, onProgress } = options;
    const addSpecialTokens = options.addSpecialTokens ?? cache.nextPosition === 0;
    const own = this.#tokensOf("prefill", text, addSpecialTokens);
    const question = asked === undefined ? undefined : this.#tokensOf("prefill", asked, false);
    const tokens = question && keepQuestion ? Int32Array.from([...own, ...question]) : own;
    const { chunk, compression } = cache.plan;
    const piece = Number.isFinite(chunk) ? chunk : compression ? tokens.length : PREFILL_TOKENS;
    const sequenceLength = cache.nextPosition + tokens.length;
    const start = performance.now();
    const before = cache.progress.count;
    for (let at = 0; at < tokens.length; at += piece) {
      signal?.throwIfAborted();
      const part = tokens.subarray(at, at + piece);
      const remaining = tokens.length - at - part.length;
      await this.#inTurn(() =>
        feed(this.#parts, cache, {
          ...{ tokens: part, segments: new Int32Array(part.length), logits: 0, sequenceLength, remaining, question },
          settle: true,
          ...(question && keepQuestion && { questionTail: question.length }),
        }),
      );
      onProgress?.({ readTokens: at + part.length, totalTokens: tokens.length });
    }
    const seconds = (performance.now() - start) / 1000;
    return { tokens: tokens.length, seconds, compressions: cache.progress.count - before };
  }

  /**
   * A cache filled from a file that `cache.save` wrote (Node, Deno, Bun).
   *
   * @param options - as the saved cache was made with; with a smaller budget the next step forgets what is above it
   * @throws FormatError when the file is damaged, or of another model, tokenizer or kind of cache
   * @throws BudgetError when the cache has no room for the rows that were saved
   */
  async loadCache(path: string, options: ModelCacheOptions = {}): Promise<ModelCache> {
    const cache = this.createCache(options);
    await cache.load(path);
    return cache;
  }

  /** Ends the backend's threads and gives its memory back; the model cannot run afterwards. */
  dispose(): void {
    this.backend.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Runs one call at a time: the activations of a step are shared by all. */
  #inTurn<T>(call: () => Promise<T>): Promise<T> {
    const result = this.#busy.then(call);
    this.#busy = result.catch(() => {});
    return result;
  }

  #tokensOf(where: string, text: string | ArrayLike<number>, addSpecialTokens: boolean): Int32Array {
    if (typeof text === "string" && !this.tokenizer) {
      throw new ConfigError(where, "text needs a model with a tokenizer", {}, "Give token ids instead.");
    }
    const ids = typeof text === "string" ? this.tokenizer?.encode(text, { addSpecialTokens }) : text;
    const tokens = Int32Array.from(ids ?? []);
    if (tokens.length === 0) throw new ConfigError(where, "at least one token");
    this.#checkTokens(where, ids ?? []);
    return tokens;
  }

  #checkTokens(where: string, tokens: ArrayLike<number>): void {
    for (let t = 0; t < tokens.length; t++) {
      if (!(Number.isInteger(tokens[t]) && tokens[t] >= 0 && tokens[t] < this.vocabSize)) {
        throw new ShapeError(where, `token ids must be integers from 0 to ${this.vocabSize - 1}`, {
          token: tokens[t],
          index: t,
        });
      }
    }
  }

  #readTokens({ tokens, positions, segments, sequenceLength = 1 }: ForwardInput): {
    readonly tokens: Int32Array;
    readonly positions: Int32Array | undefined;
    readonly segments: Int32Array;
    readonly sequenceLength: number;
  } {
    const T = tokens.length;
    if (T === 0) throw new ShapeError("forward", "at least one token", { tokens: 0 });
    if (!(Number.isSafeInteger(sequenceLength) && sequenceLength > 0)) {
      throw new ShapeError("forward", "sequenceLength must be a positive integer", { sequenceLength });
    }
    this.#checkTokens("forward", tokens);
    for (const [name, values] of Object.entries({ positions, segments })) {
      if (values !== undefined && values.length !== T) {
        throw new ShapeError("forward", `${name} must have one entry per token`, { length: values.length, tokens: T });
      }
    }
    return {
      tokens: Int32Array.from(tokens),
      positions: positions?.slice(),
      segments: segments?.slice() ?? new Int32Array(T),
      sequenceLength,
    };
  }
}
