/**
 * What a caller asks of attention, checked and with every default filled in. Everything behind this file may
 * rely on the sizes.
 */

import { holds } from "../dtype.ts";
import { BudgetError, ConfigError, ShapeError } from "../errors.ts";
import { causal, checkMaskInputs, full, type Mask, type MaskInputs } from "../mask/index.ts";
import { sizeOf, type Tensor } from "../tensor.ts";
import { checkDropout, type Dropout } from "./dropout.ts";
import type { KeyValues } from "./kv-view.ts";
import { checkScoreInputs } from "./score.ts";
import { ScoreExpression } from "./score-expression.ts";
import type { SelectRequest } from "./select.ts";

/** Most queries, and most keys, of one call over all batch entries: 256 MiB of positions each. */
export const MAX_TOKENS: number = 2 ** 26;

/** Real-valued input: stored as f32 or f64, computed in f64 by the reference. */
export type RealTensor = Tensor<"f32" | "f64">;

/** The optional inputs of masks; see {@link MaskInputs} for shapes. */
type MaskData = Partial<
  Pick<
    MaskInputs,
    "querySpans" | "keySpans" | "queryNodes" | "keyNodes" | "prefixLengths" | "lengths" | "tables" | "integerTables"
  >
>;

/** What attention is asked to compute: queries, options, and keys and values as tensors or as a view. */
export type AttentionRequest = DenseAttentionRequest | ViewAttentionRequest;

/** Keys and values as tensors. A leading batch axis may be absent from q, k and v together. */
export type DenseAttentionRequest = AttentionOptions & {
  /** [B, Tk, Hk, D] keys, rotated. Query head h reads key-value head floor(h / (H / Hk)). */
  k: RealTensor;
  /** [B, Tk, Hk, Dv] values. */
  v: RealTensor;
  /** i32 [B, Tk] true positions; default 0, 1, …. */
  keyPositions?: Int32Array;
  /** i32 [B, Tk] segments; −1 is padding, which nothing attends to. */
  keySegments?: Int32Array;
  kv?: undefined;
};

/** Keys and values as a view in any layout and element type, with their positions and segments. */
export type ViewAttentionRequest = AttentionOptions & {
  kv: KeyValues;
  /** i32 [B, Tq] true positions; a view may hold fewer or other positions than its length says, so no default. */
  queryPositions: Int32Array;
  k?: undefined;
  v?: undefined;
  keyPositions?: undefined;
  keySegments?: undefined;
};

/** Queries, masks and modifiers. */
export type AttentionOptions = MaskData & {
  /** [B, Tq, H, D] queries, rotated. */
  q: RealTensor;
  /** Who may attend to whom; everyone to everyone when absent. */
  mask?: Mask;
  /** i32 [B, Tq] true positions; default Tk − Tq, Tk − Tq + 1, … in every batch row. */
  queryPositions?: Int32Array;
  /** i32 [B, Tq] segments; −1 is padding, which attends to nothing. Given together with those of the keys. */
  querySegments?: Int32Array;
  /** Fewer keys: the best blocks (MoBA, then causal), an indexer's best keys, or what was chosen earlier. */
  select?: SelectRequest;
  /** Factor of q·k; default 1 / sqrt(D). */
  scale?: number;
  /** Soft cap c: scores become c·tanh(s / c), before every other modifier. */
  softcap?: number;
  /** What the capped score becomes, before ALiBi and bias; made by `scoreModifier`. */
  scoreModifier?: ScoreExpression;
  /** [H] slope of −slope·|query position − key position|. */
  alibiSlopes?: ArrayLike<number>;
  /** Added to the scores; broadcastable to [B, H, Tq, Tk]. */
  bias?: RealTensor;
  /** [H] one extra logit per head: enters the denominator once, carries no value, is never masked or capped. */
  sinks?: ArrayLike<number>;
  /** Seeded dropout of the normalised probabilities; lse and max logits are those without it. */
  dropout?: Dropout;
  /** Whether dropout is off; default false. */
  deterministic?: boolean;
  /**
   * Precision of dot products and sums: "f32" (default) lets a backend use f32, "f64" demands f64. The reference
   * always computes in f64.
   */
  accumulate?: Accumulation;
  /** What is returned beside `out` and `lse`. */
  outputs?: AttentionOutputs;
};

/** Precision of dot products and sums. */
export type Accumulation = "f32" | "f64";

/** What is returned beside `out` and `lse`, which are always there. */
export type AttentionOutputs = {
  /** Largest score of every head over its visible keys, after all modifiers, without sinks; default false. */
  readonly maxLogits?: boolean;
};

/** Sizes of one attention call, by the house's shape letters. */
export type AttentionDims = {
  readonly B: number;
  readonly Tq: number;
  readonly Tk: number;
  readonly H: number;
  readonly Hk: number;
  readonly D: number;
  readonly Dv: number;
};

/** A request whose sizes fit together, with every default filled in. */
export type AttentionSpec = {
  readonly dims: AttentionDims;
  /** Whether the caller's tensors had the batch axis. */
  readonly batched: boolean;
  readonly q: RealTensor;
  readonly k: RealTensor;
  readonly v: RealTensor;
  readonly mask: Mask;
  readonly maskInputs: MaskInputs;
  readonly scale: number;
  readonly softcap: number | undefined;
  readonly scoreModifier: ScoreExpression | undefined;
  readonly alibiSlopes: Float64Array | undefined;
  /** Values of the bias and its stride on each of the axes B, H, Tq, Tk (0 where it is broadcast). */
  readonly bias: { readonly values: Float32Array | Float64Array; readonly strides: readonly number[] } | undefined;
  readonly sinks: Float64Array | undefined;
  /** Undefined when rate is 0 or the call is deterministic. */
  readonly dropout: Dropout | undefined;
  readonly accumulate: Accumulation;
  readonly outputs: Required<AttentionOutputs>;
  readonly select: SelectRequest | undefined;
};

/**
 * Checks a request and fills in its defaults.
 *
 * @throws ShapeError when sizes do not fit together
 * @throws ConfigError when a number is out of range or one of two paired inputs is missing
 * @throws BudgetError when there are more than 2^26 queries or keys
 */
export function normalizeAttention(request: DenseAttentionRequest): AttentionSpec {
  const { q, k, v } = request;
  const batched = q.shape.length === 4;
  const dims = readDims(q, k, v);
  const { B, Tq, Tk, H, D } = dims;
  for (const [name, t] of Object.entries({ q, k, v, bias: request.bias })) if (t) checkNumbers(name, t);

  const scale = request.scale ?? 1 / Math.sqrt(D);
  if (!Number.isFinite(scale)) throw new ConfigError("attention", "scale must be a finite number", { scale });
  const { softcap } = request;
  if (softcap !== undefined && !(softcap > 0 && Number.isFinite(softcap))) {
    throw new ConfigError("attention", "softcap must be a positive number", { softcap }, "Leave it out for no cap.");
  }
  if ((request.querySegments === undefined) !== (request.keySegments === undefined)) {
    throw new ConfigError(
      "attention",
      "querySegments and keySegments must be given together",
      { querySegments: request.querySegments !== undefined, keySegments: request.keySegments !== undefined },
      "A query and a key can only be compared when both know their segment.",
    );
  }

  const { select } = request;
  const byBlocks = select?.kind === "moba" || select?.kind === "blocks"; // of which later keys are never seen
  const mask = byBlocks ? causal().and(request.mask ?? full()) : (request.mask ?? full());
  const { querySpans, keySpans, queryNodes, keyNodes, prefixLengths, lengths, tables, integerTables } = request;
  const maskInputs: MaskInputs = {
    batch: B,
    queryLength: Tq,
    keyLength: Tk,
    heads: H,
    queryPositions: request.queryPositions ?? ranges(B, Tq, Tk - Tq),
    keyPositions: request.keyPositions ?? ranges(B, Tk, 0),
    querySegments: request.querySegments,
    keySegments: request.keySegments,
    querySpans,
    keySpans,
    queryNodes,
    keyNodes,
    prefixLengths,
    lengths,
    tables,
    integerTables,
  };
  checkMaskInputs("attention", mask, maskInputs);
  const { scoreModifier, dropout, accumulate = "f32" } = request;
  if (scoreModifier !== undefined) {
    if (!(scoreModifier instanceof ScoreExpression)) {
      throw new ConfigError("attention", "scoreModifier must be made by scoreModifier()", { scoreModifier });
    }
    checkScoreInputs("attention", scoreModifier, maskInputs);
  }
  if (dropout !== undefined) checkDropout("attention", dropout);
  if (accumulate !== "f32" && accumulate !== "f64") {
    throw new ConfigError("attention", 'accumulate must be "f32" or "f64"', { accumulate });
  }
  return {
    dims,
    batched,
    q,
    k,
    v,
    mask,
    maskInputs,
    scale,
    softcap,
    scoreModifier,
    alibiSlopes: readSlopes(request.alibiSlopes, H),
    bias: request.bias && { values: request.bias.data, strides: broadcastStrides(request.bias.shape, dims) },
    sinks: readSinks(request.sinks, H),
    dropout: dropout?.rate === 0 || request.deterministic === true ? undefined : dropout,
    accumulate,
    outputs: { maxLogits: request.outputs?.maxLogits ?? false },
    select,
  };
}

function readDims(q: RealTensor, k: RealTensor, v: RealTensor): AttentionDims {
  const rank = q.shape.length;
  if ((rank !== 4 && rank !== 3) || k.shape.length !== rank || v.shape.length !== rank) {
    throw new ShapeError(
      "attention",
      "q, k and v must all be [B, T, H, D] or all be [T, H, D]",
      { q: q.shape, k: k.shape, v: v.shape },
      "Add or drop the batch axis.",
    );
  }
  for (const [name, { shape }] of Object.entries({ q, k, v })) {
    if (!shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0)) {
      throw new ShapeError("attention", `every extent of ${name} must be a non-negative integer`, { [name]: shape });
    }
  }
  const [B, Tq, H, D] = withBatch(q.shape);
  const [Bk, Tk, Hk, Dk] = withBatch(k.shape);
  const [Bv, Tv, Hv, Dv] = withBatch(v.shape);
  if (Bk !== B || Bv !== B) {
    throw new ShapeError("attention", "q, k and v must have the same batch size", { q: B, k: Bk, v: Bv });
  }
  if (Tv !== Tk) throw new ShapeError("attention", "k and v must have the same length", { k: Tk, v: Tv });
  if (Hv !== Hk) throw new ShapeError("attention", "k and v must have the same number of heads", { k: Hk, v: Hv });
  if (Dk !== D) throw new ShapeError("attention", "q and k must have the same head dim", { q: D, k: Dk });
  if (D === 0) throw new ShapeError("attention", "the head dim must be at least 1", { q: q.shape });
  if (Hk === 0 || H % Hk !== 0) {
    throw new ShapeError(
      "attention",
      "numHeads must be a multiple of numKvHeads",
      { numHeads: H, numKvHeads: Hk },
      "Check num_key_value_heads in config.json.",
    );
  }
  if (H === 0) throw new ShapeError("attention", "there must be at least 1 head", { q: q.shape });
  if (Math.max(B, 1) * Math.max(Tq, Tk) > MAX_TOKENS) {
    throw new BudgetError("attention", `at most ${MAX_TOKENS} queries and as many keys`, { B, Tq, Tk });
  }
  return { B, Tq, Tk, H, Hk, D, Dv };
}

/** Refuses a tensor whose numbers do not fit its shape or type; a plan is made of shapes, without numbers. */
function checkNumbers(name: string, t: RealTensor): void {
  const { dtype, shape, data } = t as Partial<RealTensor> & Pick<RealTensor, "shape">;
  const isReal = dtype === "f32" || dtype === "f64";
  if (!isReal || (data !== undefined && !holds(dtype, data))) {
    throw new ShapeError("attention", `${name} must be f32 or f64, in an array of that type`, { dtype });
  }
  if (data !== undefined && data.length !== sizeOf(shape)) {
    throw new ShapeError("attention", `the data of ${name} must have the size of its shape`, {
      length: data.length,
      shape,
    });
  }
}

function withBatch(shape: readonly number[]): [number, number, number, number] {
  return (shape.length === 4 ? [...shape] : [1, ...shape]) as [number, number, number, number];
}

function ranges(batch: number, length: number, start: number): Int32Array {
  const values = new Int32Array(batch * length);
  for (let i = 0; i < values.length; i++) values[i] = start + (i % length);
  return values;
}

function perHead(name: string, values: ArrayLike<number> | undefined, heads: number): Float64Array | undefined {
  if (values === undefined) return undefined;
  if (values.length !== heads) {
    throw new ShapeError("attention", `${name} must have one entry per query head`, { length: values.length, heads });
  }
  return Float64Array.from(values);
}

function readSlopes(values: ArrayLike<number> | undefined, heads: number): Float64Array | undefined {
  const slopes = perHead("alibiSlopes", values, heads);
  const head = slopes?.findIndex((slope) => !Number.isFinite(slope)) ?? -1;
  if (head < 0) return slopes;
  throw new ConfigError("attention", "alibiSlopes must be finite numbers", { head, slope: slopes?.[head] });
}

function readSinks(values: ArrayLike<number> | undefined, heads: number): Float64Array | undefined {
  const sinks = perHead("sinks", values, heads);
  const head = sinks?.findIndex((sink) => !(sink < Infinity)) ?? -1;
  if (head < 0) return sinks;
  throw new ConfigError("attention", "sinks must be numbers below Infinity", { head, sink: sinks?.[head] });
}

/** Strides over [B, H, Tq, Tk]; 0 on axes of extent 1, as NumPy broadcasts. Missing leading axes count as 1. */
function broadcastStrides(shape: readonly number[], { B, H, Tq, Tk }: AttentionDims): number[] {
  const target = [B, H, Tq, Tk];
  const padded = [...Array<number>(Math.max(0, 4 - shape.length)).fill(1), ...shape];
  if (padded.length !== 4 || padded.some((extent, axis) => extent !== 1 && extent !== target[axis])) {
    throw new ShapeError("attention", "bias must be broadcastable to [B, H, Tq, Tk]", { bias: shape, target });
  }
  return padded.map((extent, axis) => (extent === 1 ? 0 : sizeOf(padded.slice(axis + 1))));
}
