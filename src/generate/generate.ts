/**
 * The loop from a prompt to a text: feed, sample, show, stop.
 */

import { BudgetError, ConfigError } from "../errors.ts";
import { createDecodeStream, type DecodeStream } from "../model/tokenizer.ts";
import type { GenerationCache, LanguageModel, TextCodec } from "./language-model.ts";
import { nextTask } from "./next-task.ts";
import { createSampler, logProbability, type Sampler, type SamplerOptions } from "./sampler.ts";
import { createStopStrings, type StopReason, type StopStrings } from "./stop.ts";

/** How a text is generated; the sampler's options are among them. */
export type GenerateOptions<Cache extends GenerationCache = GenerationCache> = SamplerOptions & {
  /** Tokens to make at most; as many as the context holds when absent. 0 only feeds the prompt to the cache. */
  readonly maxNewTokens?: number;
  /** Token ids that end the text and are not part of it; the model's own when absent. */
  readonly stopTokens?: readonly number[];
  /** Strings that end the text and are not part of it. Looked for in the new text only. */
  readonly stopStrings?: readonly string[];
  /** Earlier turns; this run continues them and adds its own tokens. A new cache when absent. */
  readonly cache?: Cache;
  /** Prompt tokens per forward; the whole prompt when absent. Smaller chunks take less memory and can be aborted. */
  readonly prefillChunk?: number;
  /**
   * Positions to fill at most; the model's own limit when absent. A cache whose rows move together when it forgets never
   * gets there, and a text goes on for ever.
   */
  readonly maxPositions?: number;
  /** Whether a text prompt gets the tokenizer's special tokens (BOS); by default when the cache is empty. */
  readonly addSpecialTokens?: boolean;
  /** Whether pieces carry the log-probability of their token. */
  readonly logprobs?: boolean;
  /** Ends the run between two forwards. */
  readonly signal?: AbortSignal;
};

/** What one step adds. */
export type GeneratedPiece = {
  /** The new token; null for a last piece that only brings text that had been held back. */
  readonly tokenId: number | null;
  /** Text that is certain by now: incomplete characters and possible stop strings are held back; may be empty. */
  readonly text: string;
  /** Number of new tokens before this piece. */
  readonly index: number;
  /** Natural logarithm of the token's probability under the model, before any penalty, temperature or filter. */
  readonly logprob?: number;
};

/** What a run did. */
export type GenerationSummary = {
  /** Prompt and new text. */
  readonly text: string;
  /** New text alone. */
  readonly newText: string;
  /** Prompt and new tokens; no stop token, but the tokens of a stop string. */
  readonly tokenIds: readonly number[];
  /** Tokens of the prompt, special ones included. */
  readonly promptTokens: number;
  /** Tokens made. */
  readonly newTokens: number;
  /** Of `tokenIds`, how many the cache was given: all for a cache of the caller's, unless the prompt was cut short. */
  readonly cachedTokens: number;
  /** Time of the whole run, without the time its caller spent on the pieces. */
  readonly seconds: number;
  /** Time until the prompt was read. */
  readonly prefillSeconds: number;
  /** Tokens per second fed after the prompt; 0 when none was. */
  readonly tokensPerSecond: number;
  /** Bytes of the cache's keys and values at the end. */
  readonly cacheBytes: number;
  readonly stopReason: StopReason;
  /** The sampler's seed. */
  readonly seed: number;
};

/**
 * A text in the making. Iterate it for the pieces, or `await run.finish()`; the run starts with the first of them.
 *
 * However it ends (a stop, the signal, or leaving the loop), a cache given by the caller was then given exactly
 * `summary.tokenIds` (one with a policy has forgotten some of them), so that the next run can continue it; that takes one more forward for the last token. Two
 * exceptions: a run aborted while it read the prompt leaves the first `summary.cachedTokens` of them, and a run whose
 * model threw leaves those of the forwards before it.
 */
export interface GenerationRun extends AsyncIterable<GeneratedPiece> {
  /** Text of the prompt, as the tokens give it back. */
  readonly promptText: string;
  /** Prompt tokens, special ones included. */
  readonly promptTokenIds: readonly number[];
  /**
   * What the run did.
   *
   * @throws ConfigError before the run has ended
   */
  readonly summary: GenerationSummary;
  /** Runs to the end, without the pieces. */
  finish(): Promise<GenerationSummary>;
}

/**
 * Continues a prompt, token by token.
 *
 * The event loop gets a turn before every forward. Repetition penalties look at this run's prompt and new tokens.
 *
 * @param model - any model that satisfies {@link LanguageModel}
 * @param prompt - text, or token ids, of which there must be at least one
 * @returns the run, not yet started
 * @throws ConfigError for a bad option, an empty prompt, or text where the model has no tokenizer
 * @throws BudgetError when the prompt does not fit the context
 */
export function generate<Cache extends GenerationCache>(
  model: LanguageModel<Cache>,
  prompt: string | ArrayLike<number>,
  options: GenerateOptions<Cache> = {},
): GenerationRun {
  return new Run(model, prompt, options);
}

class Run<Cache extends GenerationCache> implements GenerationRun {
  readonly promptText: string;
  readonly promptTokenIds: readonly number[];
  readonly #model: LanguageModel<Cache>;
  readonly #options: GenerateOptions<Cache>;
  readonly #cache: Cache;
  readonly #maxPositions: number;
  readonly #stopTokens: ReadonlySet<number>;
  readonly #sampler: Sampler;
  readonly #stopStrings: StopStrings;
  readonly #decoding: DecodeStream | undefined;
  readonly #pieces: AsyncGenerator<GeneratedPiece, void, undefined>;

  /** Prompt and new tokens; the first `#fed` of them are in the cache. */
  readonly #tokenIds: number[];
  #fed = 0;
  #newText = "";
  #stopReason: StopReason | undefined;
  #prefillSeconds = 0;
  #decodeSeconds = 0;
  #summary: GenerationSummary | undefined;

  constructor(model: LanguageModel<Cache>, prompt: string | ArrayLike<number>, options: GenerateOptions<Cache>) {
    checkCount("maxNewTokens", options.maxNewTokens, 0);
    checkCount("prefillChunk", options.prefillChunk, 1);
    checkCount("maxPositions", options.maxPositions, 1);
    const { stopStrings = [], stopTokens = model.stopTokenIds } = options;
    if (stopStrings.length > 0 && !model.tokenizer) throw noTokenizer("a stop string");
    this.#model = model;
    this.#options = options;
    this.#cache = options.cache ?? model.createCache();
    this.#maxPositions = options.maxPositions ?? model.maxPositions;
    this.#stopTokens = new Set(stopTokens);
    this.#sampler = createSampler(options);
    this.#stopStrings = createStopStrings(stopStrings);

    const addSpecialTokens = options.addSpecialTokens ?? this.#cache.nextPosition === 0;
    this.#tokenIds = readPrompt(prompt, model, addSpecialTokens);
    this.#checkRoom();
    this.promptTokenIds = this.#tokenIds.slice();
    // The prompt goes through the same stream as the new tokens, which decide together where spaces stand.
    this.#decoding = model.tokenizer && createDecodeStream(model.tokenizer);
    this.promptText = this.#tokenIds.map((id) => this.#decode(id)).join("");
    this.#pieces = this.#generate();
  }

  get summary(): GenerationSummary {
    if (this.#summary) return this.#summary;
    throw new ConfigError(
      "generate",
      "the summary is there when the run has ended",
      {},
      "Finish the loop over the run, or await run.finish().",
    );
  }

  async finish(): Promise<GenerationSummary> {
    let piece = await this.#pieces.next();
    while (!piece.done) piece = await this.#pieces.next();
    return this.summary;
  }

  [Symbol.asyncIterator](): AsyncGenerator<GeneratedPiece, void, undefined> {
    return this.#pieces;
  }

  async *#generate(): AsyncGenerator<GeneratedPiece, void, undefined> {
    let failed = false;
    try {
      while (!this.#isFull()) {
        const logits = await this.#feed("last");
        if (logits === undefined) break;
        const piece = this.#next(logits);
        if (piece === undefined) break;
        yield piece;
        if (this.#stopReason) break;
      }
      const text = this.#releaseText();
      if (text !== "") yield { tokenId: null, text, index: this.#newTokens };
    } catch (error) {
      failed = true;
      throw error;
    } finally {
      if (!failed) await this.#end();
    }
  }

  get #newTokens(): number {
    return this.#tokenIds.length - this.promptTokenIds.length;
  }

  /** Whether as many tokens as allowed were made. */
  #isFull(): boolean {
    if (this.#newTokens < (this.#options.maxNewTokens ?? Infinity)) return false;
    this.#stopReason = "max-new-tokens";
    return true;
  }

  /**
   * Feeds the tokens that the cache does not hold yet.
   *
   * @returns the last token's logits, f32 [V]; undefined when the signal fired before all were fed
   */
  async #feed(wanted: "last" | "none"): Promise<Float32Array | undefined> {
    const { prefillChunk = Infinity, signal } = this.#options;
    const isPrefill = this.#fed < this.promptTokenIds.length;
    const count = this.#tokenIds.length;
    const sequenceLength = this.#cache.nextPosition + count - this.#fed;
    let logits: Float32Array | undefined;
    while (this.#fed < count) {
      await nextTask();
      if (signal?.aborted && (isPrefill || wanted === "last")) {
        this.#stopReason = "aborted";
        return undefined;
      }
      const start = performance.now();
      const end = Math.min(count, this.#fed + prefillChunk);
      const tokens = Int32Array.from(this.#tokenIds.slice(this.#fed, end));
      const logitsOf = end === count ? wanted : ("none" as const);
      const input = { tokens, cache: this.#cache, sequenceLength, logits: logitsOf };
      logits = (await this.#model.forward(input)).data;
      this.#fed = end;
      const seconds = (performance.now() - start) / 1000;
      if (isPrefill) this.#prefillSeconds += seconds;
      else this.#decodeSeconds += seconds;
    }
    return logits;
  }

  /** Chooses the next token; undefined when there is to be none. */
  #next(logits: Float32Array): GeneratedPiece | undefined {
    if (this.#cache.nextPosition >= this.#maxPositions) {
      this.#stopReason = "context-full";
      return undefined;
    }
    const start = performance.now();
    const tokenId = this.#sampler.sample(logits, this.#tokenIds);
    this.#decodeSeconds += (performance.now() - start) / 1000;
    if (this.#stopTokens.has(tokenId)) {
      this.#stopReason = "stop-token";
      return undefined;
    }
    const index = this.#newTokens;
    this.#tokenIds.push(tokenId);
    const { text, stopped } = this.#stopStrings.push(this.#decode(tokenId));
    if (stopped) this.#stopReason = "stop-string";
    this.#newText += text;
    const piece = { tokenId, text, index };
    return this.#options.logprobs ? { ...piece, logprob: logProbability(logits, tokenId) } : piece;
  }

  #decode(id: number): string {
    return this.#decoding?.push(id) ?? "";
  }

  /** Text held back that no further token will complete; "" after a stop string and when called again. */
  #releaseText(): string {
    if (this.#stopReason === "stop-string") return "";
    const { text, stopped } = this.#stopStrings.push(this.#decoding?.end() ?? "");
    const released = stopped ? text : text + this.#stopStrings.end();
    this.#newText += released;
    return released;
  }

  /** Settles the cache and writes the summary; also when the caller leaves the loop. */
  async #end(): Promise<void> {
    if (this.#stopReason === undefined) {
      this.#stopReason = "aborted";
      this.#releaseText();
    }
    if (this.#options.cache) await this.#feed("none");
    const tokensFed = Math.max(0, this.#fed - this.promptTokenIds.length);
    this.#summary = {
      text: this.promptText + this.#newText,
      newText: this.#newText,
      tokenIds: this.#tokenIds.slice(),
      promptTokens: this.promptTokenIds.length,
      newTokens: this.#newTokens,
      cachedTokens: this.#fed,
      seconds: this.#prefillSeconds + this.#decodeSeconds,
      prefillSeconds: this.#prefillSeconds,
      tokensPerSecond: this.#decodeSeconds > 0 ? tokensFed / this.#decodeSeconds : 0,
      cacheBytes: this.#cache.bytes,
      stopReason: this.#stopReason,
      seed: this.#sampler.seed,
    };
  }

  #checkRoom(): void {
    const used = this.#cache.nextPosition;
    const prompt = this.#tokenIds.length;
    if (this.#cache.closesGaps || used + prompt <= this.#maxPositions) return;
    throw new BudgetError(
      "generate",
      `the prompt must fit the context of ${this.#maxPositions} positions`,
      { promptTokens: prompt, cachedPositions: used },
      "Shorten the prompt, or raise maxPositions if the model can go further.",
    );
  }
}

function readPrompt(
  prompt: string | ArrayLike<number>,
  model: { readonly tokenizer?: TextCodec | undefined; readonly vocabSize: number },
  addSpecialTokens: boolean,
): number[] {
  if (typeof prompt === "string" && !model.tokenizer) throw noTokenizer("a text prompt");
  const ids = typeof prompt === "string" ? model.tokenizer?.encode(prompt, { addSpecialTokens }) : prompt;
  const tokenIds = Array.from(ids ?? []);
  if (tokenIds.length === 0) throw new ConfigError("generate", "the prompt must have at least one token");
  for (const [index, token] of tokenIds.entries()) {
    if (Number.isInteger(token) && token >= 0 && token < model.vocabSize) continue;
    throw new ConfigError("generate", `prompt tokens must be integers from 0 to ${model.vocabSize - 1}`, {
      token,
      index,
    });
  }
  return tokenIds;
}

function checkCount(name: string, value: number | undefined, least: number): void {
  if (value === undefined || (Number.isSafeInteger(value) && value >= least)) return;
  throw new ConfigError("generate", `${name} must be an integer of at least ${least}`, { [name]: value });
}

function noTokenizer(what: string): ConfigError {
  return new ConfigError("generate", `${what} needs a model with a tokenizer`, {}, "Give token ids instead.");
}
