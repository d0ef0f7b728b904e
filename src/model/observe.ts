/**
 * What a policy is shown of a layer. Only what it declares it needs is computed, a layer at a time; rows are shared with
 * the cache where they lie as policies read them, and copied otherwise.
 */

import { gatherKv } from "../attention/index.ts";
import {
  type HeadRows,
  lastQueries,
  type Observation,
  type Policy,
  type PolicyTakes,
  type Queries,
  type RepeatPass,
  tokenMajorRows,
} from "../compress/index.ts";
import {
  type Positions,
  type RotaryLayer,
  type RotaryTable,
  rerotationTable,
  rotaryTable,
  rotateInto,
  temperatureAt,
} from "../rope/index.ts";
import { chunkSums, querySums } from "./attention-sums.ts";
import type { LayerConfig } from "./config.ts";
import type { Decoder } from "./decoder.ts";
import type { ModelCache } from "./model-cache.ts";
import { projectedNorms } from "./projected-norms.ts";
import type { QueryWindow } from "./query-window.ts";
import type { Scratch } from "./scratch.ts";

/** Where observations come from. */
export type Observed = {
  readonly decoder: Decoder;
  /** Where the backend computes for policies. */
  readonly scratch: Scratch;
  readonly cache: ModelCache;
  /** The queries that a policy looks from: of the last tokens, or of a question. */
  readonly queries: QueryWindow;
  /** Tokens of the question at the end of the cache. */
  readonly questionTokens: number;
  /** The question's first position, where it is forgotten afterwards. */
  readonly leavesFrom?: number | undefined;
  /** [L] the context fed once more. */
  readonly repeats?: readonly (readonly RepeatPass[])[] | undefined;
};

/** Observes one layer between two steps. */
export async function observeLayer(from: Observed, layer: number, { needs, takes = {} }: Policy): Promise<Observation> {
  const { decoder, scratch, cache, queries: window, questionTokens, leavesFrom, repeats } = from;
  const config = decoder.config.layers[layer];
  const base = observeRows(cache, config, layer, decoder.config.layers.length);
  const wanted = needs.queries === "question" ? questionTokens : needs.queries;
  const rotated = wanted === undefined ? undefined : lastQueries(windowQueries(window, config, layer, base), wanted);
  const unrotated = needs.unrotatedQueries;
  const observation: Observation = {
    ...base,
    ...(rotated && { queries: rotated }),
    ...(unrotated !== undefined && {
      unrotatedQueries: lastQueries(unrotatedQueries(window, config, layer, base), unrotated),
    }),
    ...(needs.unrotatedKeys && { unrotatedKeys: unrotatedKeys(cache, base) }),
    ...(needs.attentionMass && { attentionMass: cache.records.mass(layer) }),
    ...(needs.outputProjection && { outputProjection: decoder.outputProjection(layer) }),
    ...(needs.questionTokens && { questionTokens }),
    ...(leavesFrom !== undefined && { leavesFrom }),
    ...(needs.repeats && repeats && { repeats: repeats[layer] }),
  };
  const { outputProjection: weight } = observation;
  const order = takes.projectedNorms;
  const norms = order && weight && (await projectedNorms(scratch, observation, weight, order));
  return {
    ...observation,
    ...(rotated && (await sumsOf(scratch, observation, rotated, questionTokens, takes))),
    ...(order && norms && { projectedNorms: { order, rows: norms } }),
  };
}

/** The sums that a policy takes of its queries. */
async function sumsOf(
  scratch: Scratch,
  observation: Observation,
  queries: Queries,
  questionTokens: number,
  takes: PolicyTakes,
): Promise<Pick<Observation, "querySums" | "chunkSums">> {
  const { weights, queries: wanted = 0 } = takes.querySums ?? {};
  const last = lastQueries(queries, wanted === "question" ? questionTokens : wanted);
  const ofQueries = weights && (await querySums(scratch, observation, last, weights));
  const isWhole = queries.positions.length === observation.positions[0].length;
  const chunks = isWhole ? takes.chunkSums : undefined;
  const ofChunks = chunks && (await chunkSums(scratch, observation, queries, chunks));
  return {
    ...(weights && ofQueries && { querySums: { queries: last.positions.length, weights, sums: ofQueries } }),
    ...(chunks && ofChunks && { chunkSums: { ...chunks, sums: ofChunks } }),
  };
}

/** Keys, values and positions of a layer. */
export function observeRows(cache: ModelCache, config: LayerConfig, layer: number, layers: number): Observation {
  const { heads, kvHeads, scale, positions, slidingWindow } = config;
  return {
    ...{ layer, layers, heads, scale, nextPosition: cache.nextPosition, rotary: positions.rotary },
    ...(slidingWindow !== undefined && { slidingWindow }),
    ...(cache.scheduleLength > 0 && { scheduleLength: cache.scheduleLength }),
    ...keysAndValues(cache, layer, kvHeads),
    positions: Array.from({ length: kvHeads }, (_, head) => cache.positions(layer, head)),
  };
}

function keysAndValues(cache: ModelCache, layer: number, kvHeads: number): Pick<Observation, "keys" | "values"> {
  const { kv } = cache;
  const wide = kv.isNarrowed(layer) ? kv.wideViews(layer) : undefined;
  if (!kv.isRagged(layer)) {
    const view = wide?.[0] ?? kv.view(layer);
    const { k, v } = view.layout === undefined ? { k: view.keys, v: view.values } : gatherKv(view);
    const [D, Dv] = [k.shape.at(-1) as number, v.shape.at(-1) as number];
    return {
      keys: tokenMajorRows(k.data as Float32Array, kvHeads, D),
      values: tokenMajorRows(v.data as Float32Array, kvHeads, Dv),
    };
  }
  const heads = (wide ?? kv.headViews(layer)).map((view) => {
    const { k, v } = view.layout === undefined ? { k: view.keys, v: view.values } : gatherKv(view);
    return { keys: k.data as Float32Array, values: v.data as Float32Array };
  });
  const { keyDim, valueDim } = cache.plan.layers[layer];
  return {
    keys: joinHeads(
      heads.map((head) => head.keys),
      keyDim,
    ),
    values: joinHeads(
      heads.map((head) => head.values),
      valueDim,
    ),
  };
}

/** Heads of unequal length, one after the other. */
function joinHeads(heads: readonly Float32Array[], dim: number): HeadRows {
  const starts: number[] = [];
  let total = 0;
  for (const rows of heads) {
    starts.push(total);
    total += rows.length;
  }
  const data = new Float32Array(total);
  heads.forEach((rows, head) => {
    data.set(rows, starts[head]);
  });
  return { data, dim, starts, stride: dim, lengths: heads.map((rows) => rows.length / dim) };
}

/** The queries of a window as they attend now. */
export function windowQueries(
  window: QueryWindow,
  { heads, headDim }: LayerConfig,
  layer: number,
  { rotary, scheduleLength }: Observation,
): Queries {
  const { positions, rotatedAt } = window;
  let data = window.layer(layer).data as Float32Array;
  if (rotary !== null && positions.some((position, i) => position !== rotatedAt[i])) {
    const length = scheduleLength === undefined ? {} : { length: scheduleLength };
    const table = rerotationTable(rotary, { positions: rotatedAt, ...length }, { positions, ...length });
    data = data.slice();
    rotateInto(data, data, table, { heads, headDim });
  }
  return { rows: tokenMajorRows(data, heads, headDim), positions };
}

/** The queries of a window before rotation and temperature. */
function unrotatedQueries(
  window: QueryWindow,
  { heads, headDim, positions: { queryTemperature } }: LayerConfig,
  layer: number,
  { rotary, scheduleLength }: Observation,
): Queries {
  const { positions, rotatedAt } = window;
  const data = window.layer(layer).data.slice() as Float32Array;
  if (rotary !== null) unrotate(data, tableAt(rotary, rotatedAt, scheduleLength), heads, headDim);
  if (queryTemperature) {
    const width = heads * headDim;
    for (let n = 0; n < data.length; n++) data[n] /= temperatureAt(queryTemperature, rotatedAt[Math.floor(n / width)]);
  }
  return { rows: tokenMajorRows(data, heads, headDim), positions };
}

/** Keys as they were before rotation: [Hk][T, D], copied. */
function unrotatedKeys(cache: ModelCache, { layer, keys, positions, rotary, scheduleLength }: Observation): HeadRows {
  const { dim } = keys;
  const tableOf = (head: number): RotaryTable | undefined => {
    if (rotary === null) return undefined;
    const axes = cache.kv.axisPositions(layer, head);
    return tableAt(rotary, rotary.pairAxes && axes.length > 0 ? axes : positions[head], scheduleLength);
  };
  const shared = cache.kv.isRagged(layer) ? undefined : tableOf(0);
  const heads = positions.map((own, head) => {
    const rows = new Float32Array(own.length * dim);
    for (let t = 0; t < own.length; t++) {
      const from = keys.starts[head] + t * keys.stride;
      rows.set(keys.data.subarray(from, from + dim), t * dim);
    }
    const table = shared ?? tableOf(head);
    if (table) unrotate(rows, table, 1, dim);
    return rows;
  });
  return joinHeads(heads, dim);
}

function tableAt(rotary: RotaryLayer, positions: Positions, scheduleLength: number | undefined): RotaryTable {
  return rotaryTable(rotary, positions, scheduleLength === undefined ? {} : { length: scheduleLength });
}

function unrotate(rows: Float32Array, table: RotaryTable, heads: number, headDim: number): void {
  rotateInto(rows, rows, table, { heads, headDim, direction: "inverse" });
}
