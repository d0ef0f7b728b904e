/** Compression policies, wrappers and re-rotation, from kvpress: scores, kept tokens, keys, values, logits after. */

import {
  applyPlan,
  attentionMassOf,
  type CompressedLayer,
  channelScores,
  decodingCompression,
  type HeadScores,
  headMajorRows,
  type LayerPlan,
  lastQueries,
  lazyScore,
  type Observation,
  type Policy,
  type PolicyNeeds,
  type Queries,
  type RepeatPass,
  rerotated,
  tokenMajorRows,
  visitAttention,
} from "phasor/compress";
import type { RotaryLayer } from "phasor/rope";
import type { CaseInput, SuiteRunner, Values } from "../case.ts";
import { copyCache, GoldenDecoder, type LayerCache, type LayerStates, rowsOf } from "./compression-decoder.ts";
import { goldenPolicy, type PressParams, simLayerOptions } from "./compression-policies.ts";

type Outputs = Record<string, Values>;

/** A prompt that the model has seen. */
type Prompt = {
  readonly input: CaseInput;
  readonly model: GoldenDecoder;
  readonly tokens: number[];
  readonly cache: LayerCache[];
  readonly states: LayerStates[];
  readonly logits: Float64Array;
};

/** Computes every tensor a compression case may expect. */
export const compression: SuiteRunner = async (input) => {
  const { kind } = input.params;
  if (kind === "rerotate") return onlyExpected(input, rerotation(input));
  const prompt = await prefill(input);
  switch (kind) {
    case "states":
      return onlyExpected(input, states(prompt));
    case "policy":
      return onlyExpected(input, policyCase(prompt));
    case "decoding":
      return onlyExpected(input, decodingCase(prompt));
    default:
      throw new Error(`unknown kind ${kind}`);
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

async function prefill(input: CaseInput): Promise<Prompt> {
  const model = await GoldenDecoder.load(input.folder, input.params.model as string);
  const tokens = Array.from(input.tensor("input_ids").data);
  const cache = model.createCache();
  return { input, model, tokens, cache, ...model.forward(tokens, Array.from(tokens.keys()), cache) };
}

function states(prompt: Prompt): Outputs {
  const { model, tokens, cache, input } = prompt;
  const { heads, kvHeads, headDim } = model;
  const all = (pick: (layer: LayerStates) => Float32Array, count: number): number[] =>
    prompt.states.flatMap((layer) => headFirst(pick(layer), count, headDim));
  const last8 = prompt.states.flatMap((_, layer) => {
    const rows: number[] = [];
    const seen = observe(prompt, layer, { queries: 8 });
    visitAttention(seen, seen.queries as Queries, (_head, _query, row) => rows.push(...row));
    return rows;
  });
  return {
    hidden: prompt.states.flatMap(({ hidden }) => Array.from(hidden)),
    q_pre: all((s) => s.queriesBefore, heads),
    k_pre: all((s) => s.keysBefore, kvHeads),
    q: all((s) => s.queries, heads),
    k: all((s) => s.keys, kvHeads),
    v: all((s) => s.values, kvHeads),
    attn_last8: last8,
    logits_last: prompt.logits.subarray(-model.vocabSize),
    cont_logits: continued(model, cache, Array.from(input.tensor("cont_ids").data), tokens.length),
  };
}

function policyCase(prompt: Prompt): Outputs {
  const { input, model } = prompt;
  const params = input.params.policy as PressParams;
  const { policy, amount, scores, finalScores } = goldenPolicy(
    params,
    input.has("phi") ? input.tensor("phi") : undefined,
  );
  const observations = prompt.states.map((_, layer) => observe(prompt, layer, policy.needs));
  const plans = policy.plan(observations, amount);
  const applied = plans.map((plan, layer) => applyPlan(observations[layer], plan));
  const perLayer = (score: (observation: Observation) => HeadScores): number[] =>
    observations.flatMap((observation) => score(observation).flatMap((row) => [...row]));
  const kept = plans.flatMap((plan) => plan.kept);
  const outputs: Outputs = {
    ...(scores && input.has("scores") ? { scores: perLayer(scores) } : {}),
    ...(finalScores ? { scores_final: perLayer(finalScores) } : {}),
    kept_counts: kept.map((slots) => slots.length),
    kept_flat: kept.flatMap((slots) => [...slots]),
    kept_mask: kept.flatMap((slots) => maskOf(slots, prompt.tokens.length)),
    final_keys_flat: applied.flatMap(({ keys }) => [...keys.data]),
    final_values_flat: applied.flatMap(({ values }) => [...values.data]),
    ...ofOnePress(params, plans, observations),
  };
  if (!input.has("cont_ids")) return outputs;
  const cache = applied.map((layer) => cacheOf(layer));
  const start = input.params.cont_position_start as number;
  return { ...outputs, cont_logits: continued(model, cache, Array.from(input.tensor("cont_ids").data), start) };
}

/** What only ThinK and SimLayerKV give. */
function ofOnePress(params: PressParams, plans: readonly LayerPlan[], observations: readonly Observation[]): Outputs {
  if (params.press === "ThinK") {
    const window = params.window_size as number;
    return {
      channels_dropped: plans.flatMap(({ droppedChannels = [] }) => droppedChannels.flatMap((row) => [...row])),
      channel_scores: observations.flatMap((one) => channelScores(one, window).flatMap((row) => [...row])),
    };
  }
  if (params.press !== "SimLayerKV") return {};
  return { lazy_scores: observations.map((observation) => lazyScore(observation, simLayerOptions(params))) };
}

/** One layer after the prefill, with exactly what the policy says it needs. */
function observe(prompt: Prompt, layer: number, needs: PolicyNeeds): Observation {
  const { model, tokens, states: all, input } = prompt;
  const { heads, kvHeads, headDim, layers, scale } = model;
  const { queriesBefore, keysBefore, queries, keys, values } = all[layer];
  const positions = Int32Array.from(tokens.keys());
  const base: Observation = {
    ...{ layer, layers, heads, scale, nextPosition: tokens.length, rotary: model.rotary(layer) },
    keys: tokenMajorRows(keys, kvHeads, headDim),
    values: tokenMajorRows(values, kvHeads, headDim),
    positions: Array.from({ length: kvHeads }, () => positions),
  };
  const question = input.params.window_size as number;
  const rotated: Queries = { rows: tokenMajorRows(queries, heads, headDim), positions };
  const unrotated: Queries = { rows: tokenMajorRows(queriesBefore, heads, headDim), positions };
  const wanted = needs.queries === "question" ? question : needs.queries;
  return {
    ...base,
    ...(wanted === undefined ? {} : { queries: lastQueries(rotated, wanted) }),
    ...(needs.unrotatedQueries === undefined
      ? {}
      : { unrotatedQueries: lastQueries(unrotated, needs.unrotatedQueries) }),
    ...(needs.unrotatedKeys ? { unrotatedKeys: tokenMajorRows(keysBefore, kvHeads, headDim) } : {}),
    ...(needs.attentionMass ? { attentionMass: attentionMassOf(base, rotated) } : {}),
    ...(needs.outputProjection ? { outputProjection: model.outputProjection(layer) } : {}),
    ...(needs.questionTokens ? { questionTokens: question } : {}),
    ...(needs.repeats ? { repeats: repeatPasses(prompt, layer, needs) } : {}),
  };
}

/** The context fed once more behind the cache, in the case's parts or as a whole. */
function repeatPasses({ input, model, tokens, cache }: Prompt, layer: number, needs: PolicyNeeds): RepeatPass[] {
  const { heads, kvHeads, headDim, hiddenSize } = model;
  const n = tokens.length;
  const whole = needs.repeats === "whole";
  const parts = whole ? [[0, n]] : ((input.params.policy as PressParams).parts as number[][]);
  return parts.map(([start, end], part) => {
    const ids = whole ? tokens : Array.from(input.tensor(`repeat_ids_${part}`).data);
    const positions = ids.map((_, i) => n + i);
    const { hidden, queries, keys } = model.forward(ids, positions, copyCache(cache)).states[layer];
    return {
      ...{ start, end },
      queries: tokenMajorRows(queries, heads, headDim),
      keys: tokenMajorRows(keys, kvHeads, headDim),
      ...(needs.inputNorms
        ? {
            inputNorms: Float64Array.from(ids, (_, i) =>
              Math.hypot(...hidden.subarray(i * hiddenSize, (i + 1) * hiddenSize)),
            ),
          }
        : {}),
    };
  });
}

function decodingCase({ input, model, cache: start, tokens }: Prompt): Outputs {
  const params = input.params.policy as PressParams;
  const inner = goldenPolicy(params.inner as PressParams, undefined);
  const ratio = params.target_compression_ratio as number | undefined;
  const schedule = decodingCompression(inner.policy, {
    intervalTokens: params.compression_interval as number,
    ...(ratio === undefined ? { targetTokens: params.target_size as number } : { compressionRatio: ratio }),
  });
  const { heads, headDim, layers, scale } = model;
  let cache = start;
  let since = 0;
  const logits: number[] = [];
  for (const [step, token] of Array.from(input.tensor("decode_ids").data).entries()) {
    const position = tokens.length + step;
    logits.push(...model.forward([token], [position], cache).logits);
    since++;
    if (!schedule.isDue(since)) continue;
    since = 0;
    const observations = cache.map(
      ({ keys, values, positions }, layer): Observation => ({
        ...{ layer, layers, heads, scale, nextPosition: position + 1, rotary: model.rotary(layer) },
        keys: rowsOf(keys, headDim),
        values: rowsOf(values, headDim),
        positions: positions.map((row) => Int32Array.from(row)),
      }),
    );
    const plans = schedule.policy.plan(observations, schedule.amount(position + 1));
    cache = plans.map((plan, layer) => cacheOf(applyPlan(observations[layer], plan)));
  }
  return {
    logits,
    final_positions: cache.flatMap(({ positions }) => positions.flat()),
    final_keys: cache.flatMap(({ keys }) => keys.flatMap((rows) => rows.flatMap((row) => [...row]))),
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
function continued(model: GoldenDecoder, cache: LayerCache[], tokens: readonly number[], start: number): number[] {
  return tokens.flatMap((token, i) => [...model.forward([token], [start + i], cache).logits]);
}

function cacheOf({ keys, values, positions }: CompressedLayer): LayerCache {
  const rows = ({ data, dim, starts, stride, lengths }: typeof keys): Float32Array[][] =>
    Array.from(starts, (start, head) =>
      Array.from({ length: lengths[head] }, (_, t) => data.slice(start + t * stride, start + t * stride + dim)),
    );
  return { keys: rows(keys), values: rows(values), positions: positions.map((row) => [...row]) };
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
