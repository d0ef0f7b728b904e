/** Multi-head attention as a module, with whatever attention function is put into it. */

import type { Engine } from "../engine/index.ts";
import { CapabilityError, ConfigError, ShapeError } from "../errors.ts";
import { causal } from "../mask/index.ts";
import type { Tensor } from "../tensor.ts";
import {
  type AttentionDropout,
  type AttentionFunction,
  type AttentionFunctionOptions,
  dotProductAttention,
  type MaskRows,
} from "./attention-function.ts";
import { cutKeys, maskList } from "./attention-mask.ts";
import { DecodeCache, type DecodeCacheOptions } from "./decode-cache.ts";
import { checkCount } from "./features.ts";
import type { Initializer } from "./initializers.ts";
import { LinearGeneral } from "./linear.ts";
import { Module, type ParameterTree } from "./module.ts";
import { LayerNorm, RMSNorm } from "./norm.ts";
import type { RngStream, Rngs } from "./rngs.ts";

/** Sizes of a MultiHeadAttention, and how it starts. */
export type MultiHeadAttentionOptions = {
  /** H, query heads. */
  readonly numHeads: number;
  /** Size of the last axis of the queries' inputs. */
  readonly inFeatures: number;
  /** Hk, key-value heads, a divisor of H; H unless told. */
  readonly numKvHeads?: number;
  /** H·D; inFeatures unless told. */
  readonly qkvFeatures?: number;
  /** Size of the last axis of the output; inFeatures unless told. */
  readonly outFeatures?: number;
  /** Size of the last axis of the inputs of keys and values; inFeatures unless told. */
  readonly inKvFeatures?: number;
  /** Default true. */
  readonly useBias?: boolean;
  /** Normalise each head's query and key: "layer" is Flax's normalize_qk (a scale, no bias), "rms" Qwen 3's. */
  readonly qkNorm?: "layer" | "rms";
  /** `dotProductAttention` unless told. */
  readonly attentionFunction?: AttentionFunction;
  /** Share of attention weights that are dropped, from 0 to below 1; default 0. */
  readonly dropoutRate?: number;
  /** Drop the same weights in every head and batch entry; default true, as in Flax. */
  readonly broadcastDropout?: boolean;
  /** Whether calls that do not say drop nothing. Needed, here or in the call, with a dropout rate. */
  readonly deterministic?: boolean;
  /** Called with shapes [inputs, outputs]; `lecunNormal()` unless told. */
  readonly kernelInit?: Initializer;
  /** `kernelInit` unless told. */
  readonly outKernelInit?: Initializer;
  /** `zeros()` unless told. */
  readonly biasInit?: Initializer;
  /** `biasInit` unless told. */
  readonly outBiasInit?: Initializer;
  /** Where attention is computed; on the host, in f64, when absent. Projections are always computed on the host. */
  readonly engine?: Pick<Engine, "attention">;
  /** Keys of `params`, and of `dropout` where there is a rate. */
  readonly rngs: Rngs;
};

/** What one call of MultiHeadAttention may say. */
export type MultiHeadAttentionCall = MaskRows &
  Pick<AttentionFunctionOptions, "mask" | "queryPositions" | "keyPositions" | "captureWeights"> & {
    /** f32 [..., Tk, inKvFeatures], what keys are made of; the queries' inputs unless told. */
    readonly inputsK?: Tensor<"f32">;
    /** f32 [..., Tk, inKvFeatures], what values are made of; `inputsK` unless told. */
    readonly inputsV?: Tensor<"f32">;
    /** Tokens so far, of self-attention: these are added, and attend causally to all. */
    readonly cache?: DecodeCache;
    /** In place of the module's. */
    readonly deterministic?: boolean;
    /** In place of the module's; the next key of `dropout` is drawn. */
    readonly rngs?: Rngs;
  };

/** What a call gives. */
export type MultiHeadAttentionResult = {
  /** f32 [..., Tq, outFeatures]. */
  readonly out: Tensor<"f32">;
  /** f32 [..., H, Tq, Tk], after the softmax and before dropout; there if `captureWeights` asked. */
  readonly weights?: Tensor<"f32">;
};

type Attended = { readonly out: Tensor<"f32">; readonly weights?: Tensor<"f32"> };

/** In self-attention without a cache, keys are the queries' tokens, and so what is known of them. */
const SAME_TOKENS = [
  ["queryPositions", "keyPositions"],
  ["querySegments", "keySegments"],
  ["querySpans", "keySpans"],
  ["queryNodes", "keyNodes"],
] as const;

/**
 * Projects inputs to queries, keys and values, attends, and projects back: nnx.MultiHeadAttention.
 *
 * Parameters: query, key, value (kernel [in, heads, D], bias [heads, D]), query_ln and key_ln (scale [D]) with qkNorm,
 * out (kernel [H, D, out], bias [out]).
 *
 * @see https://arxiv.org/abs/1706.03762
 */
export class MultiHeadAttention extends Module {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly query: LinearGeneral;
  readonly key: LinearGeneral;
  readonly value: LinearGeneral;
  readonly queryNorm: LayerNorm | RMSNorm | null;
  readonly keyNorm: LayerNorm | RMSNorm | null;
  readonly out: LinearGeneral;
  readonly #options: MultiHeadAttentionOptions;
  readonly #dropoutKeys: RngStream | undefined;

  /** @throws ConfigError when a size is not a positive integer or does not divide, or the dropout rate is out of range */
  constructor(options: MultiHeadAttentionOptions) {
    super();
    const where = "MultiHeadAttention";
    const { rngs, inFeatures, qkNorm, dropoutRate = 0 } = options;
    const { qkvFeatures = inFeatures, outFeatures = inFeatures, inKvFeatures = inFeatures } = options;
    this.numHeads = checkCount(where, "numHeads", options.numHeads);
    this.numKvHeads = checkCount(where, "numKvHeads", options.numKvHeads ?? options.numHeads);
    checkCount(where, "qkvFeatures", qkvFeatures);
    const { numHeads, numKvHeads } = this;
    if (qkvFeatures % numHeads !== 0) {
      throw new ConfigError(where, "qkvFeatures must be a multiple of numHeads", { qkvFeatures, numHeads });
    }
    if (numHeads % numKvHeads !== 0) {
      throw new ConfigError(where, "numHeads must be a multiple of numKvHeads", { numHeads, numKvHeads });
    }
    if (!(dropoutRate >= 0 && dropoutRate < 1)) {
      throw new ConfigError(where, "dropoutRate must be from 0 to below 1", { dropoutRate });
    }
    this.headDim = qkvFeatures / numHeads;
    this.#options = options;

    // Flax draws keys in this order.
    const { useBias = true, kernelInit, biasInit, outKernelInit = kernelInit, outBiasInit = biasInit } = options;
    const inner = given({ rngs, useBias, kernelInit, biasInit });
    this.query = new LinearGeneral(inFeatures, [numHeads, this.headDim], inner);
    this.key = new LinearGeneral(inKvFeatures, [numKvHeads, this.headDim], inner);
    this.value = new LinearGeneral(inKvFeatures, [numKvHeads, this.headDim], inner);
    this.queryNorm = headNorm(qkNorm, this.headDim, rngs);
    this.keyNorm = headNorm(qkNorm, this.headDim, rngs);
    const outer = given({ rngs, useBias, kernelInit: outKernelInit, biasInit: outBiasInit });
    this.out = new LinearGeneral([numHeads, this.headDim], outFeatures, outer);
    this.#dropoutKeys = dropoutRate > 0 ? rngs.stream("dropout").fork() : undefined;
  }

  parameters(): ParameterTree {
    const { query, key, value, queryNorm, keyNorm, out } = this;
    return {
      query: query.parameters(),
      key: key.parameters(),
      value: value.parameters(),
      ...(queryNorm && keyNorm ? { query_ln: queryNorm.parameters(), key_ln: keyNorm.parameters() } : {}),
      out: out.parameters(),
    };
  }

  /**
   * A cache for decoding, with room for `maxLength` tokens of each sequence.
   *
   * @throws ConfigError or ShapeError for impossible sizes; BudgetError beyond 2^30 numbers
   */
  initCache(options: DecodeCacheOptions): DecodeCache {
    return new DecodeCache(options, this.numKvHeads, this.headDim);
  }

  /**
   * @param inputsQ - f32 [..., Tq, inFeatures], any batch axes
   * @throws ShapeError or ConfigError when inputs do not fit together
   * @throws BudgetError when the cache is full
   * @throws CapabilityError when the engine or the attention function cannot do what is asked
   */
  async forward(
    inputsQ: Tensor<"f32">,
    call: MultiHeadAttentionCall & { readonly captureWeights: true },
  ): Promise<Required<MultiHeadAttentionResult>>;
  async forward(inputsQ: Tensor<"f32">, call?: MultiHeadAttentionCall): Promise<MultiHeadAttentionResult>;
  async forward(inputsQ: Tensor<"f32">, call: MultiHeadAttentionCall = {}): Promise<MultiHeadAttentionResult> {
    const { inputsK, inputsV, cache, deterministic, rngs, ...options } = call;
    this.#checkInputs(inputsQ, call);
    const query = normalized(this.query.forward(inputsQ), this.queryNorm);
    const key = normalized(this.key.forward(inputsK ?? inputsQ), this.keyNorm);
    const value = this.value.forward(inputsV ?? inputsK ?? inputsQ);
    const { engine } = this.#options;
    const known = given({ ...options, engine, dropout: this.#dropout(deterministic, rngs) });
    const attended =
      cache === undefined
        ? await this.#attend(query, key, value, inputsK === undefined ? withKeyRows(known) : known)
        : await this.#attendCached(query, key, value, known, cache);
    const { out, weights } = attended;
    return { out: this.out.forward(out), ...(weights === undefined ? {} : { weights }) };
  }

  async #attendCached(
    query: Tensor<"f32">,
    key: Tensor<"f32">,
    value: Tensor<"f32">,
    options: AttentionFunctionOptions,
    cache: DecodeCache,
  ): Promise<Attended> {
    const tokens = { key, value, positions: options.queryPositions, segments: options.querySegments };
    return cache.add(tokens, ({ key: keys, value: values, ...rows }) => {
      const length = keys.shape.at(-3) as number;
      const masks = maskList(options.mask).map((mask) => cutKeys(mask, cache.maxLength, length));
      return this.#attend(query, keys, values, { ...options, ...rows, mask: [causal(), ...masks] });
    });
  }

  async #attend(
    query: Tensor<"f32">,
    key: Tensor<"f32">,
    value: Tensor<"f32">,
    options: AttentionFunctionOptions,
  ): Promise<Attended> {
    const attentionFunction = this.#options.attentionFunction ?? dotProductAttention;
    const { out, weights } = await attentionFunction(query, key, value, options);
    if (out.shape.join() !== query.shape.join()) {
      throw new ShapeError("MultiHeadAttention", "the attention function must keep the shape of its queries", {
        query: query.shape,
        out: out.shape,
      });
    }
    if (options.captureWeights !== true) return { out };
    if (weights !== undefined) return { out, weights };
    throw new CapabilityError(
      "MultiHeadAttention",
      "an attention function that returns weights",
      { captureWeights: true },
      "dotProductAttention does.",
    );
  }

  #dropout(
    deterministic: boolean | undefined = this.#options.deterministic,
    rngs: Rngs | undefined,
  ): AttentionDropout | undefined {
    const { dropoutRate: rate = 0, broadcastDropout: broadcast = true } = this.#options;
    if (rate === 0 || deterministic === true) return undefined;
    if (deterministic === undefined) {
      throw new ConfigError(
        "MultiHeadAttention.forward",
        "deterministic must be given, to the module or the call, with a dropout rate",
        { dropoutRate: rate },
        "Pass true to drop nothing.",
      );
    }
    const keys = rngs?.stream("dropout") ?? (this.#dropoutKeys as RngStream);
    return { rate, key: keys.next(), broadcast };
  }

  #checkInputs(inputsQ: Tensor<"f32">, call: MultiHeadAttentionCall): void {
    const where = "MultiHeadAttention.forward";
    const { inputsK, inputsV, cache } = call;
    if (inputsV !== undefined && inputsK === undefined) {
      throw new ConfigError(
        where,
        "inputsK must be given with inputsV",
        {},
        "Pass inputs that keys and values share as inputsK.",
      );
    }
    if (cache !== undefined) {
      const unwanted = (["inputsK", "keyPositions", "keySegments"] as const).find((name) => call[name] !== undefined);
      if (unwanted !== undefined) {
        throw new ConfigError(
          where,
          "with a cache, keys must be those of the queries' own tokens",
          { given: unwanted },
          "The cache knows the positions and segments of earlier tokens.",
        );
      }
    }
    const sides = { inputsQ, inputsK: inputsK ?? inputsQ, inputsV: inputsV ?? inputsK ?? inputsQ };
    for (const [name, { shape }] of Object.entries(sides)) {
      const [features] = (name === "inputsQ" ? this.query : this.key).inFeatures;
      if (shape.length < 2 || shape.at(-1) !== features) {
        throw new ShapeError(where, `${name} must be [..., T, ${features}]`, { shape });
      }
    }
    const lengths = [sides.inputsK.shape.slice(0, -1), sides.inputsV.shape.slice(0, -1)];
    if (lengths[0].join() !== lengths[1].join()) {
      throw new ShapeError(where, "inputsK and inputsV must have the same batch axes and length", {
        inputsK: sides.inputsK.shape,
        inputsV: sides.inputsV.shape,
      });
    }
  }
}

function headNorm(kind: "layer" | "rms" | undefined, headDim: number, rngs: Rngs): LayerNorm | RMSNorm | null {
  if (kind === undefined) return null;
  if (kind === "layer") return new LayerNorm(headDim, { useBias: false, rngs });
  if (kind === "rms") return new RMSNorm(headDim, { rngs });
  throw new ConfigError("MultiHeadAttention", 'qkNorm must be "layer" or "rms"', { qkNorm: kind });
}

function normalized(x: Tensor<"f32">, norm: LayerNorm | RMSNorm | null): Tensor<"f32"> {
  return norm === null ? x : norm.forward(x);
}

function withKeyRows(options: AttentionFunctionOptions): AttentionFunctionOptions {
  return given({
    ...options,
    ...Object.fromEntries(SAME_TOKENS.map(([ofQueries, ofKeys]) => [ofKeys, options[ofKeys] ?? options[ofQueries]])),
  });
}

/** The properties that have a value. */
function given<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}
