/** The attention operator, from MaxText and jax.nn: masks, modifiers, selection, layouts, quantisation, merges. */

import {
  type AttentionOptions,
  type AttentionRequest,
  type AttentionState,
  attendShards,
  dequantizeKv,
  finishState,
  indexerScores,
  joinTokens,
  type KeyValues,
  loadBalancedOrder,
  mergeStates,
  type QuantizedKv,
  quantizeKv,
  referenceState,
  ringSchedule,
  type ScaleAxis,
  type SelectRequest,
  selectionFromTable,
  selectionTable,
  selectKeys,
  sinkState,
  splitTokens,
  stateFromOutput,
  unpackInt4,
} from "phasor/attention";
import { type BackendName, createEngine, type Engine } from "phasor/engine";
import {
  and,
  causal,
  chunked,
  full,
  lengths,
  type Mask,
  type MaskInputs,
  maskPredicate,
  not,
  or,
  prefix,
  sameSegment,
  slidingWindow,
  table,
  variable,
} from "phasor/mask";
import type { CaseInput, GoldenTensor, SuiteRunner, Values } from "../case.ts";

type Outputs = Record<string, Values>;
type Dense = { readonly dtype: "f32"; readonly shape: readonly number[]; readonly data: Float32Array };

/** A mask of the goldens. */
type MaskParams = {
  op: string;
  args?: MaskParams[];
  arg?: MaskParams;
  size?: number;
  left?: number;
  right?: number;
};

type SelectParams = {
  kind: string;
  chunk?: number;
  topk?: number;
  produce?: boolean;
  weight_scale?: number;
};

/** Parameters of an attention case. */
type AttentionParams = {
  op: string;
  scale: number;
  softcap?: number | null;
  mask: MaskParams;
  select?: SelectParams | null;
  kv_layout?: { kind: string } | null;
  kv_quant?: { dtype: string; axis: ScaleAxis } | null;
  load_balance?: { cp: number } | null;
  parts?: [number, number][];
  gradients?: string[];
  dims: { B: number; Tq: number; Tk: number; H: number; Hk: number };
};

/** A case read into what the library takes. */
type Case = {
  readonly input: CaseInput;
  readonly params: AttentionParams;
  readonly options: AttentionOptions & { queryPositions: Int32Array };
  readonly k: Dense;
  readonly v: Dense;
  readonly keyPositions: Int32Array;
  readonly keySegments: Int32Array | undefined;
};

/** Outputs that must not be passed over where a case has them. */
const EXPECTED = [
  ...["out", "lse", "max_logits", "mask", "perm", "moba_blocks", "idx_scores", "indexer_keep_expected"],
  ...["k_q", "k_scale", "k_deq", "v_q", "v_scale", "v_deq", "m0", "l0", "o0", "lse0", "out0"],
];

/** Computes every tensor an attention case may expect. */
export const attention: SuiteRunner = async (input) => {
  const one = readCase(input);
  const outputs: Outputs = {
    ...(input.has("mask") ? { mask: maskTable(one) } : {}),
    ...(one.params.op === "merge" ? await mergedParts(one) : await attend(one)),
    ...(one.params.gradients ? await gradients(one) : {}),
  };
  const missing = [...EXPECTED, ...(one.params.gradients ?? [])].filter(
    (name) => input.has(name) && !(name in outputs),
  );
  if (missing.length > 0) throw new Error(`not computed: ${missing.join(", ")}`);
  return Object.fromEntries(Object.entries(outputs).filter(([name]) => input.has(name)));
};

function readCase(input: CaseInput): Case {
  const params = input.params as AttentionParams;
  if (params.op !== "attention" && params.op !== "merge") throw new Error(`unknown op ${params.op}`);
  const row = (name: string): Int32Array | undefined =>
    input.has(name) ? Int32Array.from(input.tensor(name).data) : undefined;
  const numbers = (name: string): Dense | undefined => (input.has(name) ? dense(input.tensor(name)) : undefined);
  const options = withoutUndefined({
    q: dense(input.tensor("q")),
    mask: readMask(params.mask),
    queryPositions: Int32Array.from(input.tensor("q_pos").data),
    querySegments: row("q_seg"),
    querySpans: row("q_img"),
    keySpans: row("kv_img"),
    prefixLengths: row("prefix_len"),
    lengths: row("lengths"),
    tables: input.has("mask_in") ? { mask_in: Uint8Array.from(input.tensor("mask_in").data) } : undefined,
    scale: params.scale,
    softcap: params.softcap ?? undefined,
    alibiSlopes: numbers("alibi_slopes")?.data,
    bias: numbers("bias"),
    sinks: numbers("sinks")?.data,
  }) as Case["options"];
  return {
    input,
    params,
    options,
    k: dense(input.tensor("k")),
    v: dense(input.tensor("v")),
    keyPositions: Int32Array.from(input.tensor("kv_pos").data),
    keySegments: row("kv_seg"),
  };
}

function readMask(node: MaskParams): Mask {
  const { op, args = [], arg, size = 0, left = 0, right = 0 } = node;
  switch (op) {
    case "full":
      return full();
    case "causal":
      return causal();
    case "window":
      return slidingWindow(size);
    case "window_bidir":
      return slidingWindow({ left, right });
    case "chunk":
      return chunked(size);
    case "segment":
      return sameSegment();
    case "prefix":
      return prefix();
    case "image": // without the cut at segments that bidirectionalSpans() makes
      return variable("querySpan")
        .gt(0)
        .and(variable("querySpan").eq(variable("keySpan")));
    case "length":
      return lengths();
    case "table":
      return table("mask_in");
    case "and":
      return and(...args.map(readMask));
    case "or":
      return or(...args.map(readMask));
    case "not":
      return not(readMask(arg as MaskParams));
    default:
      throw new Error(`unknown mask ${op}`);
  }
}

/** The mask pair by pair, before any selection. */
function maskTable({ params, options, keyPositions, keySegments }: Case): Uint8Array {
  const { B, Tq, Tk, H } = params.dims;
  const inputs = { ...options, batch: B, queryLength: Tq, keyLength: Tk, heads: H, keyPositions, keySegments };
  const visible = maskPredicate(options.mask as Mask, inputs as MaskInputs);
  const pairs = new Uint8Array(B * Tq * Tk);
  for (let n = 0; n < pairs.length; n++) {
    const row = Math.floor(n / Tk);
    pairs[n] = Number(visible(Math.floor(row / Tq), 0, row % Tq, n % Tk));
  }
  return pairs;
}

/** Plain attention, over whatever holds the keys and with whatever chooses among them. */
async function attend(one: Case): Promise<Outputs> {
  const { params, options, input } = one;
  if (params.load_balance) return attendSharded(one, params.load_balance.cp);
  const chosen: Outputs = {};
  const select = params.select ? readSelect(one, params.select, chosen) : undefined;
  const quantized: Outputs = {};
  const kv = keyValues(one, quantized);
  const all = { ...options, ...(select === undefined ? {} : { select }) };
  const request = kv === undefined ? { ...all, ...denseKeys(one) } : { ...all, kv };
  const engine = await engineOf(input.backend);
  const { out, lse, maxLogits } = await engine.attention({
    ...request,
    outputs: { maxLogits: input.has("max_logits") },
  });
  const max = maxLogits === undefined ? {} : { max_logits: maxLogits.data };
  return { out: out.data, lse: lse.data, ...max, ...chosen, ...quantized };
}

const engines = new Map<string, Promise<Engine>>();

/** The engine of a backend; one serves all cases. */
function engineOf(backend: string): Promise<Engine> {
  const known = engines.get(backend);
  if (known !== undefined) return known;
  const made = createEngine({ backend: backend as BackendName });
  engines.set(backend, made);
  return made;
}

/**
 * The state over some keys. The reference's is made of its sums; those of other backends are what is behind a result,
 * (lse, 1, out), which merges the same.
 */
async function stateOf(one: Case, request: AttentionRequest): Promise<AttentionState> {
  const { backend } = one.input;
  if (backend === "reference") return referenceState(request);
  return stateFromOutput(await (await engineOf(backend)).attention(request));
}

function denseKeys({ k, v, keyPositions, keySegments }: Case): {
  k: Dense;
  v: Dense;
  keyPositions: Int32Array;
  keySegments?: Int32Array;
} {
  return { k, v, keyPositions, ...(keySegments === undefined ? {} : { keySegments }) };
}

/** The keys and values as a view, where the case stores them in another way than q, k, v. */
function keyValues(one: Case, outputs: Outputs): KeyValues | undefined {
  const { params, input, options, keyPositions } = one;
  const slots = {
    positions: keyPositions,
    segments: one.keySegments ?? new Int32Array(keyPositions.length),
    ...(options.lengths === undefined ? {} : { lengths: options.lengths }),
  };
  if (params.kv_layout) {
    if (params.kv_layout.kind !== "paged") throw new Error(`unknown kv_layout ${params.kv_layout.kind}`);
    const pageTable = input.tensor("page_table");
    return {
      layout: "paged",
      keys: dense(input.tensor("k_pages")),
      values: dense(input.tensor("v_pages")),
      pageTable: { dtype: "i32", shape: pageTable.shape, data: Int32Array.from(pageTable.data) },
      ...slots,
    };
  }
  if (params.kv_quant) {
    const { dtype, axis } = params.kv_quant;
    const bits = ({ int8: 8, int4: 4, fp8: "fp8" } as const)[dtype];
    if (bits === undefined) throw new Error(`unknown kv_quant ${dtype}`);
    const [keys, values] = [quantizeKv(one.k, { bits, axis }), quantizeKv(one.v, { bits, axis })];
    for (const [name, side] of [["k", keys] as const, ["v", values] as const]) {
      outputs[`${name}_q`] = codes(side);
      outputs[`${name}_scale`] = side.scales.data;
      outputs[`${name}_deq`] = dequantizeKv(side).data;
    }
    return { layout: "contiguous", keys, values, ...slots };
  }
  return undefined;
}

function codes(x: QuantizedKv): Values {
  if (x.codes.dtype === "i8" || x.bits === "fp8") return x.codes.data;
  return unpackInt4(x.codes, x.shape.at(-1) as number).data;
}

function readSelect(one: Case, params: SelectParams, outputs: Outputs): SelectRequest {
  const { options, input } = one;
  const { topk = 0, chunk = 0, weight_scale: weightScale = 1 } = params;
  const { Tk } = one.params.dims;
  if (params.kind === "moba") {
    // These cases count padding in the means of blocks, so the choice is made without segments.
    const { q, queryPositions, lengths: rows } = options;
    const { k, v } = one;
    const existing = rows === undefined ? {} : { lengths: rows };
    const select = { kind: "moba", chunk, topk } as const;
    // Their blocks are runs of slots, ours of positions.
    const keyPositions = Int32Array.from({ length: one.keyPositions.length }, (_, n) => n % Tk);
    const chosen = selectKeys({ q, k, v, queryPositions, keyPositions, ...existing, select });
    outputs.moba_blocks = widened(selectionTable(chosen), Math.ceil(Tk / chunk));
    return chosen;
  }
  if (params.kind !== "indexer") throw new Error(`unknown selection ${params.kind}`);
  if (params.produce !== true) {
    const { shape, data } = input.tensor("indexer_keep");
    return selectionFromTable({ dtype: "u8", shape, data: Uint8Array.from(data) });
  }
  const select = {
    kind: "indexer",
    queries: dense(input.tensor("idx_q")),
    keys: dense(input.tensor("idx_k")),
    weights: dense(input.tensor("idx_w")),
    weightScale,
    topk,
  } as const;
  outputs.idx_scores = indexerScores(select).data;
  // The goldens keep masked keys too where there are no more than topk.
  const kept = selectionTable(selectKeys({ ...options, ...denseKeys(one), select })).data;
  outputs.indexer_keep_expected = Tk <= topk ? new Uint8Array(kept.length).fill(1) : kept;
  return select;
}

/** Rows padded with zeros to a width. */
function widened({ shape, data }: { shape: readonly number[]; data: Uint8Array }, width: number): Uint8Array {
  const from = shape.at(-1) as number;
  const rows = from === 0 ? shape.slice(0, -1).reduce((a, b) => a * b, 1) : data.length / from;
  const wide = new Uint8Array(rows * width);
  for (let row = 0; row < rows; row++) wide.set(data.subarray(row * from, (row + 1) * from), row * width);
  return wide;
}

/** The gradients of Σ d_out · out. */
async function gradients(one: Case): Promise<Outputs> {
  const request = { ...one.options, ...denseKeys(one) };
  const engine = await engineOf(one.input.backend);
  const dOut = dense(one.input.tensor("d_out"));
  const { dq, dk, dv, dsinks, dbias, dslopes } = await engine.attentionGradients(request, dOut);
  const all = { dq, dk, dv, dsink: dsinks, dbias, dslopes };
  return Object.fromEntries(Object.entries(all).flatMap(([name, value]) => (value ? [[name, value.data]] : [])));
}

/** The state over each part of the keys, and what they merge to. */
async function mergedParts(one: Case): Promise<Outputs> {
  const { params, options } = one;
  const { B, Tq, Tk } = params.dims;
  const { sinks, ...rest } = options;
  const outputs: Outputs = {};
  const states: AttentionState[] = [];
  for (const [n, [start, end]] of (params.parts ?? []).entries()) {
    const part = Uint8Array.from({ length: B * Tq * Tk }, (_, at) => Number(at % Tk >= start && at % Tk < end));
    const request = {
      ...rest,
      ...denseKeys(one),
      mask: (options.mask as Mask).and(table("part")),
      tables: { ...options.tables, part },
    };
    const { max, sum, weighted } = referenceState(request); // the parts of a state, which only the reference shows
    const state = await stateOf(one, request);
    const { out, lse } = finishState(state, "f32");
    const named = { m: max, l: sum, o: weighted, lse: lse.data, out: out.data };
    for (const [name, values] of Object.entries(named)) outputs[`${name}${n}`] = values;
    states.push(state);
  }
  const merged = withSinks(mergeStates(...states), sinks);
  const { out, lse } = finishState(merged, "f32");
  return { ...outputs, out: out.data, lse: lse.data };
}

/** Every rank's queries over the keys of all shards in turn; the case's rows are in load-balanced order already. */
async function attendSharded(one: Case, shards: number): Promise<Outputs> {
  const { options, params } = one;
  const { B, Tq, Tk } = params.dims;
  const {
    q,
    queryPositions,
    querySegments,
    querySpans,
    keySpans,
    bias,
    tables,
    lengths: rows,
    sinks,
    ...rest
  } = options;
  if (bias || tables || rows || params.select)
    throw new Error("a sharded case with bias, tables, lengths or selection");
  const asTheyStand = (length: number): Int32Array => Int32Array.from({ length }, (_, i) => i);
  const split = { order: asTheyStand(Tq), shards, batch: B };
  const queries = splitTokens(withoutUndefined({ q, queryPositions, querySegments, querySpans }), split);
  const keys = splitTokens(withoutUndefined({ ...denseKeys(one), keySpans }), { ...split, order: asTheyStand(Tk) });
  const parts = await Promise.all(
    queries.map(async (own, rank) => {
      const requests = keys.map((shard) => ({ ...rest, ...own, ...shard }) as AttentionRequest);
      const states = await Promise.all(requests.map((request) => stateOf(one, request)));
      const state = attendShards(ringSchedule(shards), rank, (shard) => states[shard]);
      return finishState(withSinks(state, sinks), "f32");
    }),
  );
  const { out, lse } = joinTokens(parts, split);
  return { out: out.data, lse: lse.data, perm: loadBalancedOrder(Tq, shards) };
}

function withSinks(state: AttentionState, sinks: ArrayLike<number> | undefined): AttentionState {
  return sinks === undefined ? state : mergeStates(state, sinkState(sinks, state.shape));
}

function dense({ shape, data }: GoldenTensor): Dense {
  return { dtype: "f32", shape, data: Float32Array.from(data) };
}

function withoutUndefined<T extends object>(record: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined)) as never;
}
