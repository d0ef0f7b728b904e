/** Multi-head attention as a module, with whatever attention function is put into it. */

import { CapabilityError, ConfigError, ShapeError } from "../errors.ts";
import { causal } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import {
  type AttentionDropout,
  type AttentionEngine,
  type AttentionFunction,
  type AttentionFunctionOptions,
  type AttentionFunctionResult,
  dotProductAttention,
  type MaskRows,
} from "./attention-function.ts";
import { cutKeys, maskList } from "./attention-mask.ts";
import { DecodeCache, type DecodeCacheOptions } from "./decode-cache.ts";
import { checkCount } from "./features.ts";
import type { Initializer } from "./initializers.ts";
import { LinearGeneral } from "./linear.ts";
import { Module, type ParameterTree, type Vjp } from "./module.ts";
import type { LayerNorm, RMSNorm } from "./norm.ts";
import { headNorm, project } from "./projection.ts";
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
  readonly engine?: AttentionEngine;
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

/** Gradients of a call. */
export type MultiHeadAttentionGradients = {
  /** f32 [..., Tq, inFeatures]; also of what keys and values are made of, where that is the same. */
  readonly dInputsQ: Tensor<"f32">;
  /** f32 [..., Tk, inKvFeatures], where `inputsK` was given; also of values, where they are made of it. */
  readonly dInputsK?: Tensor<"f32">;
  /** f32 [..., Tk, inKvFeatures], where `inputsV` was given. */
  readonly dInputsV?: Tensor<"f32">;
  /** A tree like that of `parameters()`. */
  readonly parameters: ParameterTree;
};

/** What a call gives, and the way back. */
export type MultiHeadAttentionVjp = MultiHeadAttentionResult & Vjp<Promise<MultiHeadAttentionGradients>>;

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
    const { out, weights } = (await this.#run(inputsQ, call)).attended;
    return { out: this.out.forward(out), ...(weights === undefined ? {} : { weights }) };
  }

  /**
   * `forward` with the way back; without a cache.
   *
   * @param inputsQ - f32 [..., Tq, inFeatures], any batch axes
   * @throws as `forward`, and CapabilityError when the attention function or the engine has no gradients
   */
  async vjp(inputsQ: Tensor<"f32">, call: Omit<MultiHeadAttentionCall, "cache"> = {}): Promise<MultiHeadAttentionVjp> {
    const { inputsK, inputsV } = call;
    const { query, key, value, attended } = await this.#run(inputsQ, call, { differentiate: true });
    const output = this.out.vjp(attended.out);
    const backward = async (dOut: Tensor<"f32">): Promise<MultiHeadAttentionGradients> => {
      const last = output.backward(dOut);
      const { dQuery, dKey, dValue } = await (attended as Required<AttentionFunctionResult>).backward(last.dx);
      const [q, k, v] = [query.backward(dQuery), key.backward(dKey), value.backward(dValue)];
      const parameters = {
        ...{ query: q.linear, key: k.linear, value: v.linear },
        ...(q.norm && k.norm ? { query_ln: q.norm, key_ln: k.norm } : {}),
        out: last.parameters,
      };
      if (inputsK === undefined) return { dInputsQ: sum(q.dx, k.dx, v.dx), parameters };
      if (inputsV === undefined) return { dInputsQ: q.dx, dInputsK: sum(k.dx, v.dx), parameters };
      return { dInputsQ: q.dx, dInputsK: k.dx, dInputsV: v.dx, parameters };
    };
    const { weights } = attended;
    return { out: output.out, backward, ...(weights === undefined ? {} : { weights }) };
  }

  /** Everything up to the last projection. */
  async #run(inputsQ: Tensor<"f32">, call: MultiHeadAttentionCall, extra: { readonly differentiate?: true } = {}) {
    const { inputsK, inputsV, cache, deterministic, rngs, ...options } = call;
    this.#checkInputs(inputsQ, call);
    if (cache !== undefined && extra.differentiate) {
      throw new ConfigError("MultiHeadAttention.vjp", "no cache", {}, "Pass all tokens at once, with mask: causal().");
    }
    const query = project(inputsQ, this.query, this.queryNorm);
    const key = project(inputsK ?? inputsQ, this.key, this.keyNorm);
    const value = project(inputsV ?? inputsK ?? inputsQ, this.value, null);
    const { engine } = this.#options;
    const known = given({ ...options, ...extra, engine, dropout: this.#dropout(deterministic, rngs) });
    const attended =
      cache === undefined
        ? await this.#attend(query.out, key.out, value.out, inputsK === undefined ? withKeyRows(known) : known)
        : await this.#attendCached(query.out, key.out, value.out, known, cache);
    return { query, key, value, attended };
  }

  async #attendCached(
    query: Tensor<"f32">,
    key: Tensor<"f32">,
    value: Tensor<"f32">,
    options: AttentionFunctionOptions,
    cache: DecodeCache,
  ): Promise<AttentionFunctionResult> {
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
  ): Promise<AttentionFunctionResult> {
    const attentionFunction = this.#options.attentionFunction ?? dotProductAttention;
    const { out, weights, backward } = await attentionFunction(query, key, value, options);
    if (out.shape.join() !== query.shape.join()) {
      throw new ShapeError("MultiHeadAttention", "the attention function must keep the shape of its queries", {
        query: query.shape,
        out: out.shape,
      });
    }
    const { captureWeights = false, differentiate = false } = options;
    const refuse = (result: string, asked: object): never => {
      const wanted = `an attention function that returns ${result}`;
      throw new CapabilityError("MultiHeadAttention", wanted, { ...asked }, "dotProductAttention does.");
    };
    return given({
      out,
      weights: captureWeights ? (weights ?? refuse("weights", { captureWeights })) : undefined,
      backward: differentiate ? (backward ?? refuse("backward", { differentiate })) : undefined,
    });
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

function withKeyRows(options: AttentionFunctionOptions): AttentionFunctionOptions {
  return given({
    ...options,
    ...Object.fromEntries(SAME_TOKENS.map(([ofQueries, ofKeys]) => [ofKeys, options[ofKeys] ?? options[ofQueries]])),
  });
}

function sum(first: Tensor<"f32">, ...others: readonly Tensor<"f32">[]): Tensor<"f32"> {
  const numbers = first.data.map((value, i) => others.reduce((total, { data }) => total + data[i], value));
  return tensor("f32", first.shape, numbers);
}

/** The properties that have a value. */
function given<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}
