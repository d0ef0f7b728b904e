/** What a model predicts of a text with its full cache: computed once, compared with any number of smaller caches. */

import { ConfigError } from "../errors.ts";
import type { DecoderModel, ModelCache } from "../model/index.ts";

/** A text whose second part is to be predicted. */
export type PredictedText = {
  /** [N] tokens: a prefix that is prefilled, and what follows it. */
  readonly tokens: ArrayLike<number>;
  /** Tokens of the prefix; at least 1, and at least 2 fewer than N. */
  readonly prefixTokens: number;
  /** Tokens given at a time behind the prefix; 16 unless told. A cache may be compressed in between. */
  readonly stepTokens?: number;
};

/** How predictions are kept. */
export type FullPredictionsOptions = {
  /** Bytes of logits that are kept at most; the steps behind them are run again for every comparison. 2^28 unless told. */
  readonly maxBytes?: number;
  readonly signal?: AbortSignal;
};

/** Some tokens of the text and the logits of the full cache behind each of them. */
export type PredictedStep = {
  /** [T] */
  readonly tokens: Int32Array;
  /** [T] the tokens that really came next. */
  readonly targets: Int32Array;
  /** f32 [T, V] */
  readonly logits: Float32Array;
};

const MAX_BYTES = 2 ** 28;
const STEP_TOKENS = 16;

/** The logits of a full cache for a text. */
export class FullPredictions {
  readonly tokens: Int32Array;
  readonly prefixTokens: number;
  readonly #model: DecoderModel;
  readonly #stepTokens: number;
  /** Of the first steps. */
  readonly #logits: readonly Float32Array[];
  /** The full cache behind those steps; absent where they are all. */
  #cache: ModelCache | undefined;

  private constructor(
    model: DecoderModel,
    { tokens, prefixTokens, stepTokens = STEP_TOKENS }: PredictedText,
    logits: readonly Float32Array[],
    cache: ModelCache | undefined,
  ) {
    this.#model = model;
    this.tokens = Int32Array.from(tokens);
    this.prefixTokens = prefixTokens;
    this.#stepTokens = stepTokens;
    this.#logits = logits;
    this.#cache = cache;
  }

  /**
   * Reads a text with a full cache of f32.
   *
   * @throws ConfigError when the prefix leaves nothing to predict
   */
  static async create(
    model: DecoderModel,
    text: PredictedText,
    { maxBytes = MAX_BYTES, signal }: FullPredictionsOptions = {},
  ): Promise<FullPredictions> {
    checkPrefix(text);
    const steps = stepsOf(Int32Array.from(text.tokens), text.prefixTokens, text.stepTokens ?? STEP_TOKENS);
    const cache = model.createCache();
    const logits: Float32Array[] = [];
    let bytes = 0;
    try {
      await model.prefill(cache, Array.from(text.tokens).slice(0, text.prefixTokens), { ...(signal && { signal }) });
      for (const { tokens } of steps) {
        signal?.throwIfAborted();
        bytes += 4 * tokens.length * model.vocabSize;
        if (bytes > maxBytes) break;
        logits.push((await model.forward({ tokens, logits: "all", cache })).data);
      }
    } catch (error) {
      cache.dispose();
      throw error;
    }
    const isWhole = logits.length === steps.length;
    if (isWhole) cache.dispose();
    return new FullPredictions(model, text, logits, isWhole ? undefined : cache);
  }

  /** The steps behind the prefix, in order. */
  async *steps(): AsyncGenerator<PredictedStep> {
    const rest = this.#cache?.fork();
    try {
      for (const [n, step] of stepsOf(this.tokens, this.prefixTokens, this.#stepTokens).entries()) {
        const { tokens } = step;
        const kept = this.#logits.at(n);
        const logits =
          kept ?? (await this.#model.forward({ tokens, logits: "all", ...(rest && { cache: rest }) })).data;
        yield { ...step, logits };
      }
    } finally {
      rest?.dispose();
    }
  }

  dispose(): void {
    this.#cache?.dispose();
    this.#cache = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Refuses a prefix that leaves nothing to predict.
 *
 * @throws ConfigError when it does
 */
export function checkPrefix({ tokens, prefixTokens }: PredictedText): void {
  if (Number.isInteger(prefixTokens) && prefixTokens > 0 && prefixTokens < tokens.length - 1) return;
  throw new ConfigError("measureAgreement", "a prefix of at least 1 token, and at least 2 behind it", {
    prefixTokens,
    tokens: tokens.length,
  });
}

function stepsOf(tokens: Int32Array, from: number, stepTokens: number): Omit<PredictedStep, "logits">[] {
  const last = tokens.length - 1;
  return Array.from({ length: Math.ceil((last - from) / stepTokens) }, (_, n) => {
    const [start, end] = [from + n * stepTokens, Math.min(last, from + (n + 1) * stepTokens)];
    return { tokens: tokens.subarray(start, end), targets: tokens.subarray(start + 1, end + 1) };
  });
}
