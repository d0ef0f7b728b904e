/**
 * A loaded model: tokens in, logits out, with the cache kept consistent between calls.
 */

import type { Backend } from "../engine/index.ts";
import { ShapeError } from "../errors.ts";
import { dependsOnLength, planFrequencyChange, type RotaryLayer, rerotateFrequencies } from "../rope/index.ts";
import type { Tensor } from "../tensor.ts";
import type { DecoderConfig } from "./config.ts";
import { Decoder, type LayerListener, type TokenBatch } from "./decoder.ts";
import type { DecoderWeights } from "./decoder-weights.ts";
import type { GenerationConfig } from "./generation-config.ts";
import { ModelCache, type ModelCacheOptions } from "./model-cache.ts";
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
  readonly #decoder: Decoder;
  /** Resolves when the last call has ended. */
  #busy: Promise<unknown> = Promise.resolve();
  /** The layers whose frequencies change with length, each different one once. */
  readonly #changing: readonly RotaryLayer[];

  constructor({ config, weights, backend, tokenizer, generation }: DecoderModelParts) {
    this.config = config;
    this.backend = backend;
    this.tokenizer = tokenizer;
    this.generation = generation;
    this.#decoder = new Decoder(config, weights, backend);
    const rotaries = new Set(shareEqual(config.layers.map((layer) => layer.positions.rotary)));
    this.#changing = [...rotaries].filter(
      (rotary) => rotary !== null && dependsOnLength(rotary.schedule),
    ) as RotaryLayer[];
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

  /** An empty cache for this model. */
  createCache(options: ModelCacheOptions = {}): ModelCache {
    return new ModelCache(this.config, this.backend, options);
  }

  /**
   * Runs tokens through the model.
   *
   * Padding (segment −1) attends to nothing and its logits mean nothing.
   *
   * @returns f32 logits: [1, V] for "last", [T, V] for "all", [0, V] for "none"
   * @throws ShapeError when the inputs' lengths differ, there is no token, or an id is outside the vocabulary
   * @throws ConfigError when the rotary frequencies change under a filled cache that was given no choice
   */
  forward(input: ForwardInput): Promise<Tensor<"f32">> {
    // One at a time: the activations of a step are shared by all.
    const result = this.#busy.then(() => this.#forward(input));
    this.#busy = result.catch(() => {});
    return result;
  }

  async #forward(input: ForwardInput): Promise<Tensor<"f32">> {
    const cache = input.cache ?? this.createCache();
    const added = this.#readBatch(input, cache.nextPosition);
    const { batch, scheduleLength } = this.#keepFrequencies(added, cache, input.sequenceLength);
    const T = batch.tokens.length;
    const wanted = { last: 1, all: added.tokens.length, none: 0 }[input.logits ?? "last"];
    const logits = await this.#decoder.run(batch, cache, scheduleLength, T - wanted, input.onLayer);
    cache.scheduleLength = scheduleLength;
    cache.remember(batch);
    return logits;
  }

  /** Ends the backend's threads and gives its memory back; the model cannot run afterwards. */
  dispose(): void {
    this.backend.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #readBatch({ tokens, positions, segments, sequenceLength = 1 }: ForwardInput, next: number): TokenBatch {
    const T = tokens.length;
    if (T === 0) throw new ShapeError("forward", "at least one token", { tokens: 0 });
    if (!(Number.isSafeInteger(sequenceLength) && sequenceLength > 0)) {
      throw new ShapeError("forward", "sequenceLength must be a positive integer", { sequenceLength });
    }
    for (let t = 0; t < T; t++) {
      if (!(Number.isInteger(tokens[t]) && tokens[t] >= 0 && tokens[t] < this.vocabSize)) {
        throw new ShapeError("forward", `token ids must be integers from 0 to ${this.vocabSize - 1}`, {
          token: tokens[t],
          index: t,
        });
      }
    }
    for (const [name, values] of Object.entries({ positions, segments })) {
      if (values !== undefined && values.length !== T) {
        throw new ShapeError("forward", `${name} must have one entry per token`, { length: values.length, tokens: T });
      }
    }
    return {
      tokens: Int32Array.from(tokens),
      positions: positions?.slice() ?? Int32Array.from({ length: T }, (_, t) => next + t),
      segments: segments?.slice() ?? new Int32Array(T),
    };
  }

  /**
   * Settles which length the schedules are resolved for, and carries out the cache's choice where that changes the
   * frequencies its keys were rotated with.
   */
  #keepFrequencies(
    added: TokenBatch,
    cache: ModelCache,
    sequenceLength = 1,
  ): { batch: TokenBatch; scheduleLength: number } {
    const newLength = Math.max(sequenceLength, cache.nextPosition, lengthOf(added.positions));
    if (cache.length() === 0) {
      return { batch: added, scheduleLength: cache.pinnedLength ?? newLength };
    }
    const choice = cache.onFrequencyChange;
    const cachedLength = cache.scheduleLength;
    if (choice === "pin") return { batch: added, scheduleLength: cachedLength };
    const actions = this.#changing.map(
      (layer) => planFrequencyChange({ layer, cachedLength, newLength, choice }).action,
    );
    if (actions.includes("reprefill")) {
      return { batch: concatenate([...cache.takeHistory(), added]), scheduleLength: newLength };
    }
    if (actions.includes("rerotate")) this.#rerotate(cache, cachedLength, newLength);
    return { batch: added, scheduleLength: newLength };
  }

  #rerotate(cache: ModelCache, fromLength: number, toLength: number): void {
    for (const [index, { positions, kvHeads, headDim }] of this.config.layers.entries()) {
      const { rotary } = positions;
      if (rotary === null || !dependsOnLength(rotary.schedule)) continue;
      const view = cache.view(index);
      rerotateFrequencies(view.keys.data, rotary, view.positions, { fromLength, toLength, heads: kvHeads, headDim });
    }
    cache.scheduleLength = toLength;
  }
}

function lengthOf(positions: Int32Array): number {
  let length = 0;
  for (const position of positions) length = Math.max(length, position + 1);
  return length;
}

function concatenate(batches: readonly TokenBatch[]): TokenBatch {
  const join = (pick: (batch: TokenBatch) => Int32Array): Int32Array =>
    Int32Array.from(batches.flatMap((batch) => Array.from(pick(batch))));
  return { tokens: join((b) => b.tokens), positions: join((b) => b.positions), segments: join((b) => b.segments) };
}
