/** Compression policies, wrappers and re-rotation, from kvpress: scores, kept tokens, keys, values, logits after. */

import { join } from "node:path";
import { gatherKv } from "phasor/attention";
import {
  applyPlan,
  channelScores,
  type HeadRows,
  type HeadScores,
  headMajorRows,
  lastQueries,
  lazyScore,
  type Observation,
  type Policy,
  rerotated,
  visitAttention,
} from "phasor/compress";
import { createBackend, type DecoderBackendName } from "phasor/engine";
import {
  type DecoderModel,
  loadModel,
  type ModelCache,
  type ModelCacheOptions,
  openModelFolder,
  openSafetensors,
} from "phasor/model";
import type { RotaryLayer } from "phasor/rope";
import type { CaseInput, SuiteRunner, Values } from "../case.ts";
import { goldenPolicy, type PressParams, simLayerOptions } from "./compression-policies.ts";

type Outputs = Record<string, Values>;

/** Computes every tensor a compression case may expect. */
export const compression: SuiteRunner = async (input) => {
  const { kind, model: name } = input.params;
  if (kind === "rerotate") return onlyExpected(input, rerotation(input));
  const backend = await createBackend({ backend: input.backend as DecoderBackendName, threads: 0 });
  const model = await loadModel(join(input.folder, "models", name as string), { backend });
  try {
    switch (kind) {
      case "states":
        return onlyExpected(input, await states(input, model));
      case "policy":
        return onlyExpected(input, await policyCase(input, model));
      case "decoding":
        return onlyExpected(input, await decodingCase(input, model));
      default:
        throw new Error(`unknown kind ${kind}`);
    }
  } finally {
    model.dispose();
  }
};

/** Inputs of cases; every other tensor of a file must be computed. */
const INPUTS = /^(input_ids|cont_ids|decode_ids|phi|repeat_ids_\d+|keys|positions|inv_freq)$/;
const OUTPUTS = [
  ...["hidden", "q_pre", "k_pre", "q", "k", "v", "attn_last8", "logits_last", "cont_logits", "logits", "scores"],
  ...["scores_final", "kept_counts", "kept_flat", "kept_mask", "final_keys_flat", "final_values_flat"],
  ...["channels_dropped", "channel_scores", "lazy_scores", "final_positions", "final_keys"],
];

function onlyExpected({ has, params }: CaseInput, outputs: Outputs): Outputs {
  const inputs = params.kind === "rerotate" ? ["kept_counts", "kept_flat"] : [];
  const missing = OUTPUTS.filter((name) => has(name) && !(name in outputs) && !inputs.includes(name));
  if (missing.length > 0) throw new Error(`not computed: ${missing.join(", ")}`);
  return Object.fromEntries(Object.entries(outputs).filter(([name]) => has(name) && !INPUTS.test(name)));
}

/** A policy that keeps everything and looks at everything. */
const PROBE: Policy = {
  ...{ name: "probe", moments: ["prefill"], scope: "layer", amount: "own", ragged: false, effects: ["evicts"] },
  needs: { queries: Infinity, unrotatedQueries: Infinity, unrotatedKeys: true },
  plan: (layers) =>
    layers.map(({ keys }) => ({ kept: Array.from(keys.lengths, (T) => Int32Array.from({ length: T }, (_, t) => t)) })),
};

async function states(input: CaseInput, model: DecoderModel): Promise<Outputs> {
  const tokens = ids(input, "input_ids");
  const rows: Record<string, number[]> = { q_pre: [], k_pre: [], q: [], k: [], v: [], attn_last8: [] };
  const cache = model.createCache({
    policy: PROBE,
    onCompress: ({ observation }) => {
      const { queries, unrotatedQueries, unrotatedKeys, keys, values } = observation as Required<Observation>;
      const parts = { q_pre: unrotatedQueries.rows, k_pre: unrotatedKeys, q: queries.rows, k: keys, v: values };
      for (const [name, part] of Object.entries(parts)) append(rows[name], numbersOf(part));
      visitAttention(observation, lastQueries(queries, 8), (_head, _query, row) => append(rows.attn_last8, row));
    },
  });
  const residuals: Float32Array[] = [];
  const onLayer = (_: number, hidden: { data: Float32Array }): void => void residuals.push(hidden.data.slice());
  const logits = await model.forward({ tokens, cache, logits: "last", onLayer });
  return {
    ...rows,
    hidden: await attentionInputs(input, model, tokens, residuals),
    logits_last: logits.data,
    cont_logits: await continued(model, cache, ids(input, "cont_ids")),
  };
}

/** What goes into the attention of every layer: the norm of the residual stream before it. */
async function attentionInputs(
  input: CaseInput,
  { config }: DecoderModel,
  tokens: Int32Array,
  residuals: readonly Float32Array[],
): Promise<number[]> {
  const files = await openModelFolder(join(input.folder, "models", input.params.model as string));
  const weights = await openSafetensors(await files.open("model.safetensors"));
  const read = async (name: string): Promise<Float32Array> =>
    Float32Array.from((await weights.read(name)).data as Float32Array);
  const { hiddenSize: C, normEps } = config;
  const embedding = await read("model.embed_tokens.weight");
  const embedded = Float32Array.from(
    { length: tokens.length * C },
    (_, n) => embedding[tokens[Math.floor(n / C)] * C + (n % C)],
  );
  const normed: number[] = [];
  for (const [layer, x] of [embedded, ...residuals.slice(0, -1)].entries()) {
    const gain = await read(`model.layers.${layer}.input_layernorm.weight`);
    for (let at = 0; at < x.length; at += C) {
      const row = x.subarray(at, at + C);
      const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value ** 2, 0) / C + normEps);
      append(
        normed,
        row.map((value, c) => value * scale * gain[c]),
      );
    }
  }
  return normed;
}

async function policyCase(input: CaseInput, model: DecoderModel): Promise<Outputs> {
  const params = input.params.policy as PressParams;
  const { policy, amount, scores, finalScores } = goldenPolicy(
    params,
    input.has("phi") ? input.tensor("phi") : undefined,
  );
  const tokens = ids(input, "input_ids");
  const outputs: Record<string, number[]> = { kept_counts: [], kept_flat: [], kept_mask: [] };
  const add = (name: string, values: Iterable<number>): void => {
    outputs[name] ??= [];
    append(outputs[name], values);
  };
  const addScores = (name: string, rows: HeadScores): void => {
    for (const row of rows) add(name, row);
  };
  const cache = model.createCache({
    policy,
    ...(amount?.compressionRatio !== undefined && { compressionRatio: amount.compressionRatio }),
    repeat: repeatOptions(input, params),
    onCompress: ({ observation, plan }) => {
      if (scores && input.has("scores")) addScores("scores", scores(observation));
      if (finalScores) addScores("scores_final", finalScores(observation));
      if (params.press === "ThinK") {
        for (const row of plan.droppedChannels ?? []) add("channels_dropped", row);
        addScores("channel_scores", channelScores(observation, params.window_size as number));
      }
      if (params.press === "SimLayerKV") add("lazy_scores", [lazyScore(observation, simLayerOptions(params))]);
    },
  });
  const question = input.params.window_size as number | undefined;
  if (question === undefined) await model.prefill(cache, tokens);
  else {
    const asked = { question: tokens.subarray(-question), keepQuestion: true };
    await model.prefill(cache, tokens.subarray(0, -question), asked);
  }
  for (const [layer, heads] of cache.report().layers.entries()) {
    for (const head of heads.keys()) {
      const kept = cache.sources(layer, head);
      add("kept_counts", [kept.length]);
      add("kept_flat", kept);
      add("kept_mask", maskOf(kept, tokens.length));
    }
    const { keys, values } = rowsOf(cache, layer);
    add("final_keys_flat", keys);
    add("final_values_flat", values);
  }
  if (!input.has("cont_ids")) return outputs;
  const start = input.params.cont_position_start;
  if (cache.nextPosition !== start) throw new Error(`the next position is ${cache.nextPosition}, expected ${start}`);
  return { ...outputs, cont_logits: await continued(model, cache, ids(input, "cont_ids")) };
}

function repeatOptions(input: CaseInput, params: PressParams): NonNullable<ModelCacheOptions["repeat"]> {
  if (params.press !== "KVzip") return {};
  const tokensFor = ({ index }: { index: number }): Int32Array => ids(input, `repeat_ids_${index}`);
  return { chunkTokens: params.chunk_size as number, tokensFor };
}

async function decodingCase(input: CaseInput, model: DecoderModel): Promise<Outputs> {
  const params = input.params.policy as PressParams;
  const { policy } = goldenPolicy(params.inner as PressParams, undefined);
  const ratio = params.target_compression_ratio as number | undefined;
  const cache = model.createCache({
    decoding: {
      policy,
      interval: params.compression_interval as number,
      ...(ratio === undefined ? { budget: params.target_size as number } : { compressionRatio: ratio }),
    },
  });
  await model.prefill(cache, ids(input, "input_ids"));
  const logits = await continued(model, cache, ids(input, "decode_ids"));
  const layers = Array.from({ length: cache.layers }, (_, layer) => layer);
  const heads = model.config.layers[0].kvHeads;
  return {
    logits,
    final_positions: layers.flatMap((layer) =>
      Array.from({ length: heads }, (_, head) => Array.from(cache.positions(layer, head))).flat(),
    ),
    final_keys: layers.flatMap((layer) => rowsOf(cache, layer).keys),
  };
}

function rerotation({ params, tensor }: CaseInput): Outputs {
  const {
    pairing,
    rotary_dim: rotaryDim,
    kv_heads: kvHeads,
    head_dim: headDim,
  } = params as {
    pairing: "half" | "interleaved";
    rotary_dim: number;
    kv_heads: number;
    head_dim: number;
  };
  const inverseFrequencies = Array.from(tensor("inv_freq").data);
  const schedule = { type: "explicit", dim: rotaryDim, inverseFrequencies } as const;
  const rotary: RotaryLayer = { headDim, rotaryDim, rotaryOffset: 0, pairing, schedule };
  const keys = headMajorRows(Float32Array.from(tensor("keys").data), kvHeads, headDim);
  const positions = Int32Array.from(tensor("positions").data);
  const slots = positions.length / kvHeads;
  const observation: Observation = {
    ...{ layer: 0, layers: 1, heads: kvHeads, scale: 1, nextPosition: slots, rotary, keys, values: keys },
    positions: Array.from({ length: kvHeads }, (_, head) => positions.subarray(head * slots, (head + 1) * slots)),
  };
  const counts = Array.from(tensor("kept_counts").data);
  const flat = Array.from(tensor("kept_flat").data);
  const kept = counts.map((count) => Int32Array.from(flat.splice(0, count)));
  const fixed: Policy = {
    ...{ name: "fixed", needs: {}, moments: ["prefill"], scope: "layer", amount: "own", ragged: true },
    effects: ["evicts"],
    plan: () => [{ kept }],
  };
  const [plan] = rerotated(fixed).plan([observation]);
  return { final_keys_flat: applyPlan(observation, plan).keys.data };
}

/** Logits of tokens decoded one by one. */
async function continued(model: DecoderModel, cache: ModelCache, tokens: Int32Array): Promise<number[]> {
  const logits: number[] = [];
  for (const token of tokens) append(logits, (await model.forward({ tokens: [token], cache })).data);
  return logits;
}

/** Keys and values of a layer, head by head. */
function rowsOf(cache: ModelCache, layer: number): { keys: number[]; values: number[] } {
  const rows = { keys: [] as number[], values: [] as number[] };
  for (const view of cache.wideViews(layer)) {
    const { k, v } = gatherKv(view);
    const [, , heads, D] = k.shape;
    append(rows.keys, headFirst(k.data as Float32Array, heads, D));
    append(rows.values, headFirst(v.data as Float32Array, heads, v.shape[3]));
  }
  return rows;
}

function ids({ tensor }: CaseInput, name: string): Int32Array {
  return Int32Array.from(tensor(name).data);
}

function append(list: number[], values: Iterable<number>): void {
  for (const value of values) list.push(value);
}

/** Rows of every head, one head after the other. */
function numbersOf({ data, dim, starts, stride, lengths }: HeadRows): number[] {
  return Array.from(starts, (start, head) =>
    Array.from({ length: lengths[head] }, (_, t) =>
      Array.from(data.subarray(start + t * stride, start + t * stride + dim)),
    ),
  ).flat(2);
}

function maskOf(slots: Int32Array, length: number): number[] {
  const mask = new Array<number>(length).fill(0);
  for (const slot of slots) mask[slot] = 1;
  return mask;
}

/** [T, heads, D] as [heads, T, D]. */
function headFirst(data: Float32Array, heads: number, D: number): number[] {
  const T = data.length / (heads * D);
  return Array.from(data, (_, n) => data[((Math.floor(n / D) % T) * heads + Math.floor(n / (D * T))) * D + (n % D)]);
}
