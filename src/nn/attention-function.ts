/**
 * What MultiHeadAttention calls to attend, and the plain one: softmax(q·k / sqrt(D)) · v.
 */

import {
  type AttentionGradients,
  type AttentionOptions,
  type DenseAttentionRequest,
  type Dropout as EngineDropout,
  referenceAttention,
  referenceAttentionGradients,
} from "../attention/index.ts";
import type { Engine } from "../engine/index.ts";
import { CapabilityError, ConfigError, ShapeError } from "../errors.ts";
import { reshape, sizeOf, type Tensor, tensor, toF32 } from "../tensor.ts";
import { type AttentionMask, readMask } from "./attention-mask.ts";
import { attentionWeights, droppedAttentionGradients, dropWeights, weighValues } from "./attention-weights.ts";
import { checkGradient } from "./features.ts";
import { bits } from "./random.ts";
import type { RandomKey } from "./threefry.ts";

/** Rows and tables that mask expressions read; shapes as in MaskInputs. */
export type MaskRows = Pick<
  DenseAttentionRequest,
  | "querySegments"
  | "keySegments"
  | "querySpans"
  | "keySpans"
  | "queryNodes"
  | "keyNodes"
  | "prefixLengths"
  | "lengths"
  | "tables"
  | "integerTables"
>;

/** Dropout of attention weights, after the softmax. */
export type AttentionDropout = {
  /** Share of weights that are dropped, 0 < rate < 1. */
  readonly rate: number;
  readonly key: RandomKey;
  /** Drop the same (query, key) pairs in every head and batch entry. */
  readonly broadcast: boolean;
};

/** What an attention function may be told beside queries, keys and values. */
export type AttentionFunctionOptions = MaskRows & {
  /** Who may attend to whom: all masks of a list must allow it. */
  readonly mask?: AttentionMask | readonly AttentionMask[];
  /** Added to the scaled scores; broadcastable to [B, H, Tq, Tk]. */
  readonly bias?: Tensor<"f32">;
  /** Factor of q·k; 1 / sqrt(D) unless told. */
  readonly scale?: number;
  /** [Tq] for all batch entries, or [B, Tq]. */
  readonly queryPositions?: ArrayLike<number>;
  /** [Tk] for all batch entries, or [B, Tk]. */
  readonly keyPositions?: ArrayLike<number>;
  readonly dropout?: AttentionDropout;
  /** Whether to return the weights. */
  readonly captureWeights?: boolean;
  /** Whether to return `backward`. */
  readonly differentiate?: boolean;
  /** Where to compute; on the host, in f64, when absent. */
  readonly engine?: AttentionEngine;
};

/** What is needed of an engine; `attentionGradients` only to differentiate. */
export type AttentionEngine = Pick<Engine, "attention"> & Partial<Pick<Engine, "attentionGradients">>;

/** What an attention function gives. */
export type AttentionFunctionResult = {
  /** f32 [..., Tq, H, Dv]. */
  readonly out: Tensor<"f32">;
  /** f32 [..., H, Tq, Tk], after the softmax and before dropout; there if `captureWeights` asked. */
  readonly weights?: Tensor<"f32">;
  /** From the gradient of `out` to those of the inputs; there if `differentiate` asked. Dropout is that of the call. */
  readonly backward?: (dOut: Tensor<"f32">) => AttentionFunctionGradients | Promise<AttentionFunctionGradients>;
};

/** Gradients of what attention was given, f32 of the same shapes; masks are constants. */
export type AttentionFunctionGradients = {
  readonly dQuery: Tensor<"f32">;
  readonly dKey: Tensor<"f32">;
  readonly dValue: Tensor<"f32">;
  /** Only with a bias. */
  readonly dBias?: Tensor<"f32">;
};

/**
 * Attends: query f32 [..., Tq, H, D], key f32 [..., Tk, Hk, D], value f32 [..., Tk, Hk, Dv]. What is not given is not a
 * property of `options`, so a function may ignore what it does not know.
 */
export type AttentionFunction = (
  query: Tensor<"f32">,
  key: Tensor<"f32">,
  value: Tensor<"f32">,
  options?: AttentionFunctionOptions,
) => AttentionFunctionResult | Promise<AttentionFunctionResult>;

/**
 * Attention without rotation: nnx.dot_product_attention, also for fewer key-value heads.
 *
 * Queries stand at the end of the keys where positions are not given; a query that sees no key gives 0.
 *
 * @param query - f32 [..., Tq, H, D], any batch axes
 * @param key - f32 [..., Tk, Hk, D]; query head h reads head floor(h / (H / Hk))
 * @param value - f32 [..., Tk, Hk, Dv]
 * @throws ShapeError or ConfigError when something does not fit together
 * @throws CapabilityError when the engine cannot do it
 */
export async function dotProductAttention(
  query: Tensor<"f32">,
  key: Tensor<"f32">,
  value: Tensor<"f32">,
  options: AttentionFunctionOptions = {},
): Promise<AttentionFunctionResult> {
  const sizes = attentionSizes("dotProductAttention", query, key, value);
  const { axes, Tq, Tk, H } = sizes;
  const request = requestOf(sizes, query, key, value, options);
  const { dropout, captureWeights = false, differentiate = false, engine } = options;
  if (dropout !== undefined && engine !== undefined && dropout.broadcast) {
    throw new CapabilityError(
      "dotProductAttention",
      "dropout that is the same in every head and batch entry needs the host",
      { broadcast: true },
      "Set broadcastDropout to false, or leave out the engine.",
    );
  }
  if (differentiate && engine !== undefined && engine.attentionGradients === undefined) {
    throw new CapabilityError("dotProductAttention", "an engine with attentionGradients", { differentiate });
  }
  const onHost = dropout !== undefined && engine === undefined;
  const weights = captureWeights || onHost ? attentionWeights(request) : undefined;
  const captured = captureWeights && weights ? { weights: tensor("f32", [...axes, H, Tq, Tk], weights) } : {};
  const out = onHost
    ? weighValues(dropWeights(weights as Float32Array, request, dropout), request)
    : await attend(request, dropout, engine);
  const shape = [...axes, Tq, H, value.shape.at(-1) as number];
  const result = { out: tensor("f32", shape, out), ...captured };
  if (!differentiate) return result;
  const like = (gradient: Tensor, input: Tensor): Tensor<"f32"> => tensor("f32", input.shape, toF32(gradient));
  const backward = async (dOut: Tensor<"f32">): Promise<AttentionFunctionGradients> => {
    checkGradient("dotProductAttention", dOut, shape);
    const flat = reshape(dOut, [sizes.B, ...shape.slice(-3)]);
    const { dq, dk, dv, dbias } = onHost
      ? droppedAttentionGradients(request, weights as Float32Array, dropout, flat)
      : await gradients(request, flat, dropout, engine);
    const dBias = dbias && options.bias ? { dBias: like(dbias, options.bias) } : {};
    return { dQuery: like(dq, query), dKey: like(dk, key), dValue: like(dv, value), ...dBias };
  };
  return { ...result, backward };
}

async function attend(
  request: DenseAttentionRequest,
  dropout: AttentionDropout | undefined,
  engine: AttentionEngine | undefined,
): Promise<Float32Array> {
  if (engine === undefined) return referenceAttention(request).out.data as Float32Array;
  return (await engine.attention({ ...request, ...engineDropout(dropout) })).out.data as Float32Array;
}

async function gradients(
  request: DenseAttentionRequest,
  dOut: Tensor<"f32">,
  dropout: AttentionDropout | undefined,
  engine: AttentionEngine | undefined,
): Promise<AttentionGradients> {
  if (engine === undefined) return referenceAttentionGradients(request, dOut);
  const { attentionGradients } = engine as Required<AttentionEngine>;
  return attentionGradients.call(engine, { ...request, ...engineDropout(dropout) }, dOut);
}

/** The engine's own dropout, from the same key. */
function engineDropout(dropout: AttentionDropout | undefined): { dropout?: EngineDropout } {
  return dropout === undefined ? {} : { dropout: { rate: dropout.rate, seed: bits(dropout.key, [1])[0] } };
}

/** Sizes of one call; `axes` are the batch axes and B their product. */
export type AttentionSizes = {
  readonly axes: readonly number[];
  readonly B: number;
  readonly Tq: number;
  readonly Tk: number;
  readonly H: number;
};

/**
 * The sizes of a call.
 *
 * @throws ShapeError when q, k and v have different batch axes or too few axes
 */
export function attentionSizes(where: string, query: Tensor, key: Tensor, value: Tensor): AttentionSizes {
  const given = { query: query.shape, key: key.shape, value: value.shape };
  for (const [name, t] of Object.entries({ query, key, value })) {
    if (t.dtype !== "f32") throw new ShapeError(where, `${name} must be f32`, { dtype: t.dtype });
    if (t.shape.length < 3) throw new ShapeError(where, "query, key and value must be [..., T, H, D]", given);
  }
  const axes = query.shape.slice(0, -3);
  if ([key, value].some(({ shape }) => shape.slice(0, -3).join() !== axes.join())) {
    throw new ShapeError(where, "query, key and value must have the same batch axes", given);
  }
  const [Tq, H] = query.shape.slice(-3);
  return { axes, B: sizeOf(axes), Tq, Tk: key.shape.at(-3) as number, H };
}

/**
 * Positions as i32 [B, T].
 *
 * @throws ShapeError when there are neither T nor B·T of them; ConfigError when one is no integer below 2^30
 */
export function positionRow(
  where: string,
  name: string,
  positions: ArrayLike<number>,
  B: number,
  T: number,
): Int32Array {
  if (positions.length !== T && positions.length !== B * T) {
    throw new ShapeError(where, `${name} must be [T] or [B, T]`, { length: positions.length, T, B });
  }
  return Int32Array.from({ length: B * T }, (_, i) => {
    const position = positions[positions.length === T ? i % T : i];
    if (Number.isInteger(position) && Math.abs(position) < 2 ** 30) return position;
    throw new ConfigError(where, `${name} must be integers below 2^30 in magnitude`, { index: i, position });
  });
}

/** The call as a request of [B, T, H, D] tensors, without dropout. */
function requestOf(
  sizes: AttentionSizes,
  query: Tensor<"f32">,
  key: Tensor<"f32">,
  value: Tensor<"f32">,
  options: AttentionFunctionOptions,
): DenseAttentionRequest {
  const { B, Tq, Tk } = sizes;
  const { mask, bias, scale, queryPositions, keyPositions, dropout, captureWeights, differentiate, engine, ...rows } =
    options;
  const where = "dotProductAttention";
  const flat = (t: Tensor<"f32">): Tensor<"f32"> => reshape(t, [B, ...t.shape.slice(-3)]);
  const optional: Partial<AttentionOptions> & { keyPositions?: Int32Array } = {
    ...rows,
    ...(scale === undefined ? {} : { scale }),
    ...(bias === undefined ? {} : { bias: flatBias(bias, sizes) }),
    ...(queryPositions && { queryPositions: positionRow(where, "queryPositions", queryPositions, B, Tq) }),
    ...(keyPositions && { keyPositions: positionRow(where, "keyPositions", keyPositions, B, Tk) }),
  };
  const masks = readMask(where, mask, sizes, rows.tables);
  return { q: flat(query), k: flat(key), v: flat(value), ...optional, ...masks };
}

/** A bias with all batch axes as one; `attention` itself broadcasts the others. */
function flatBias(bias: Tensor<"f32">, { axes }: AttentionSizes): Tensor<"f32"> {
  if (bias.shape.length <= 3 || axes.length === 1) return bias;
  const batch = bias.shape.slice(0, -3);
  const fits = sizeOf(batch) === 1 || batch.join() === axes.join();
  if (fits) return reshape(bias, [sizeOf(batch), ...bias.shape.slice(-3)]);
  throw new ShapeError("dotProductAttention", "bias must have all batch axes or none", { bias: bias.shape, axes });
}
