/**
 * What a policy may look at: one layer's cached keys and values, and, on request, what the decoder had in hand when
 * it made them. Nothing here has T × T elements.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import type { RotaryLayer } from "../rope/index.ts";

/** Rows of every head, wherever they lie: row t of head h starts at `starts[h] + t · stride`. Heads may be ragged. */
export type HeadRows = {
  readonly data: Float32Array;
  /** Elements of a row. */
  readonly dim: number;
  /** [heads] where each head's first row starts in `data`. */
  readonly starts: ArrayLike<number>;
  /** Elements from one row of a head to its next. */
  readonly stride: number;
  /** [heads] rows of each head. */
  readonly lengths: ArrayLike<number>;
};

/** Queries of recent tokens, oldest first. */
export type Queries = {
  /** [H][W, D]. */
  readonly rows: HeadRows;
  /** i32 [W] true positions. */
  readonly positions: Int32Array;
};

/** How much attention every slot was given, added up over queries. */
export type AttentionMass = {
  /** f64 [H][T] sums of attention probabilities. */
  readonly sums: readonly Float64Array[];
  /** f64 [Hk][T] how many queries could see each slot. */
  readonly counts: readonly Float64Array[];
};

/** What a query counts in a sum of attention: as much as every other, or as often as there are tokens before it. */
export type QueryWeights = "equal" | "slots";

/** Sums of the attention that slots get from the last queries. */
export type QuerySums = {
  /** How many queries. */
  readonly queries: number;
  readonly weights: QueryWeights;
  /** f64 [H][T]. */
  readonly sums: readonly Float64Array[];
};

/** Chunks whose tokens all look at each other. */
export type ChunkSumsNeed = {
  readonly chunkTokens: number;
  /** Tokens at the start and at the end that are left out. */
  readonly first: number;
  readonly last: number;
};

/** Sums of the attention that tokens get from all tokens of their chunk, unmasked and unscaled. */
export type ChunkSums = ChunkSumsNeed & {
  /** f64 [H][T − first − last]. */
  readonly sums: readonly Float64Array[];
};

/** How large values are behind the output projection. */
export type ProjectedNorms = {
  /** 1 for the sum of magnitudes, 2 for the Euclidean norm. */
  readonly order: 1 | 2;
  /** f64 [H][T]. */
  readonly rows: readonly Float64Array[];
};

/** The largest attention that repeated tokens pay to slots. */
export type RepeatPeaks = {
  /** First slots before the part that join the softmax. */
  readonly sinks: number;
  /** Whether a token's attention is divided by the norm of its input. */
  readonly normalized: boolean;
  /** f64 [H][end − start]. */
  readonly rows: readonly Float64Array[];
};

/** Tokens fed once more behind the cached ones, to see what they look at (KVzip, KVCompose). */
export type RepeatPass = {
  /** First slot that this pass reconstructs. */
  readonly start: number;
  /** The slot behind the last one. */
  readonly end: number;
  /** [H][Tr, D] rotated queries of the repeated tokens. */
  readonly queries: HeadRows;
  /** [Hk][Tr, D] their rotated keys. */
  readonly keys: HeadRows;
  /** f64 [Tr] norm of what each repeated token brings into the layer's projections; KVzip+ only. */
  readonly inputNorms?: Float64Array;
  /** What policies take of the pass, where whoever observes has computed it. */
  readonly peaks?: RepeatPeaks;
};

/** One layer of a cache, observed. Slots of a head are in ascending order of position. */
export type Observation = {
  readonly layer: number;
  /** L, layers of the model. */
  readonly layers: number;
  /** H, query heads; a multiple of the key-value heads. */
  readonly heads: number;
  /** [Hk][T, D] as cached: rotated. */
  readonly keys: HeadRows;
  /** [Hk][T, Dv]. */
  readonly values: HeadRows;
  /** i32 [Hk][T] true positions. */
  readonly positions: readonly Int32Array[];
  /** The position of the next token. */
  readonly nextPosition: number;
  /** Softmax scale. */
  readonly scale: number;
  /** Where queries see a sliding window only: the keys it shows a query, its own included. */
  readonly slidingWindow?: number;
  /** The layer's rotation; null for a layer without. */
  readonly rotary: RotaryLayer | null;
  /** Length in tokens the rotary frequencies are resolved for; needed where the schedule depends on it. */
  readonly scheduleLength?: number;
  /** Rotated queries. */
  readonly queries?: Queries;
  /** Of `queries`: what policies take of them, where whoever observes has computed it. */
  readonly querySums?: QuerySums;
  readonly chunkSums?: ChunkSums;
  readonly projectedNorms?: ProjectedNorms;
  /** Queries before rotation (after a query norm). */
  readonly unrotatedQueries?: Queries;
  /** [Hk][T, D] keys before rotation (after a key norm). */
  readonly unrotatedKeys?: HeadRows;
  readonly attentionMass?: AttentionMass;
  /** f32 [C, H·Dv], the weight of the output projection. */
  readonly outputProjection?: Float32Array;
  /** Tokens of the question at the end of the prompt. */
  readonly questionTokens?: number;
  /** First position of tokens at the end that will be forgotten whatever is decided; they do not compete with the rest. */
  readonly leavesFrom?: number;
  readonly repeats?: readonly RepeatPass[];
};

/** Rows of an array [heads, T, dim]. */
export function headMajorRows(data: Float32Array, heads: number, dim: number): HeadRows {
  const T = rowsPerHead("headMajorRows", data, heads, dim);
  const starts = Array.from({ length: heads }, (_, head) => head * T * dim);
  return { data, dim, starts, stride: dim, lengths: new Array<number>(heads).fill(T) };
}

/** Rows of an array [T, heads, dim], as caches and projections have it. */
export function tokenMajorRows(data: Float32Array, heads: number, dim: number): HeadRows {
  const T = rowsPerHead("tokenMajorRows", data, heads, dim);
  const starts = Array.from({ length: heads }, (_, head) => head * dim);
  return { data, dim, starts, stride: heads * dim, lengths: new Array<number>(heads).fill(T) };
}

/** Hk, key-value heads. */
export function kvHeadsOf(observation: Observation): number {
  return observation.keys.starts.length;
}

/** G, query heads per key-value head. */
export function groupOf(observation: Observation): number {
  return observation.heads / kvHeadsOf(observation);
}

/**
 * T, the same for every head.
 *
 * @throws ConfigError when heads hold different numbers of tokens
 */
export function evenLength(where: string, { keys }: Observation): number {
  const lengths = Array.from(keys.lengths);
  if (lengths.some((length) => length !== lengths[0])) {
    throw new ConfigError(
      where,
      "every head must hold the same number of tokens",
      { lengths },
      "This policy compares tokens across heads; use one that scores each head alone.",
    );
  }
  return lengths[0];
}

/**
 * A part of the observation that a policy declared it needs.
 *
 * @throws ConfigError when whoever made the observation left it out
 */
export function observed<K extends keyof Observation>(
  where: string,
  observation: Observation,
  part: K,
): NonNullable<Observation[K]> {
  const found = observation[part];
  if (found === undefined || found === null) {
    throw new ConfigError(
      where,
      `the observation must hold ${part}`,
      { layer: observation.layer },
      "See policy.needs.",
    );
  }
  return found;
}

/** Slots `start` to `end` of every head, sharing memory, with the queries at their positions; heads must be even. */
export function sliceObservation(where: string, observation: Observation, start: number, end: number): Observation {
  evenLength(where, observation);
  const { keys, values, positions, unrotatedKeys, queries, unrotatedQueries } = observation;
  const cut = (rows: HeadRows): HeadRows => sliceRows(rows, start, end);
  const own = positions.map((row) => row.subarray(start, end));
  const within = (all: Queries): Queries => {
    const inside = Array.from(
      all.positions,
      (p) => own[0].length > 0 && p >= own[0][0] && p <= own[0][end - start - 1],
    );
    const first = Math.max(0, inside.indexOf(true));
    const last = inside.lastIndexOf(true) + 1;
    return { rows: sliceRows(all.rows, first, last), positions: all.positions.subarray(first, last) };
  };
  const { layer, layers, heads, nextPosition, scale, rotary, scheduleLength, outputProjection } = observation;
  return {
    ...{ layer, layers, heads, nextPosition, scale, rotary },
    ...windowOf(observation),
    ...leavingOf(observation),
    ...{ keys: cut(keys), values: cut(values), positions: own },
    ...(scheduleLength === undefined ? {} : { scheduleLength }),
    ...(outputProjection === undefined ? {} : { outputProjection }),
    ...(unrotatedKeys === undefined ? {} : { unrotatedKeys: cut(unrotatedKeys) }),
    ...(queries === undefined ? {} : { queries: within(queries) }),
    ...(unrotatedQueries === undefined ? {} : { unrotatedQueries: within(unrotatedQueries) }),
  };
}

/** The keys, values and positions of chosen slots (ascending, per head), copied; nothing else of the observation. */
export function gatherObservation(observation: Observation, slots: readonly ArrayLike<number>[]): Observation {
  const { layer, layers, heads, nextPosition, scale, rotary, keys, values, positions } = observation;
  return {
    ...{ layer, layers, heads, nextPosition, scale, rotary },
    ...windowOf(observation),
    ...leavingOf(observation),
    keys: gatherRows(keys, slots),
    values: gatherRows(values, slots),
    positions: slots.map((chosen, head) => Int32Array.from(chosen, (slot) => positions[head][slot])),
  };
}

function windowOf({ slidingWindow }: Observation): Pick<Observation, "slidingWindow"> {
  return slidingWindow === undefined ? {} : { slidingWindow };
}

function leavingOf({ leavesFrom }: Observation): Pick<Observation, "leavesFrom"> {
  return leavesFrom === undefined ? {} : { leavesFrom };
}

/** Tokens at the end of every head that will be forgotten whatever is decided. */
export function leavingTokens({ leavesFrom, positions }: Observation): number {
  if (leavesFrom === undefined) return 0;
  const first = positions[0].findIndex((position) => position >= leavesFrom);
  return first < 0 ? 0 : positions[0].length - first;
}

/** Chosen rows of every head, copied one head after the other. */
export function gatherRows(rows: HeadRows, slots: readonly ArrayLike<number>[]): HeadRows {
  const { data, dim, starts, stride } = rows;
  const lengths = slots.map((chosen) => chosen.length);
  const firsts = lengths.map((_, head) => dim * lengths.slice(0, head).reduce((sum, length) => sum + length, 0));
  const out = new Float32Array(dim * lengths.reduce((sum, length) => sum + length, 0));
  for (const [head, chosen] of slots.entries()) {
    for (let i = 0; i < chosen.length; i++) {
      const from = starts[head] + chosen[i] * stride;
      out.set(data.subarray(from, from + dim), firsts[head] + i * dim);
    }
  }
  return { data: out, dim, starts: firsts, stride: dim, lengths };
}

function sliceRows(rows: HeadRows, start: number, end: number): HeadRows {
  return {
    ...rows,
    starts: Array.from(rows.starts, (first) => first + start * rows.stride),
    lengths: Array.from(rows.starts, () => Math.max(0, end - start)),
  };
}

function rowsPerHead(where: string, data: Float32Array, heads: number, dim: number): number {
  const T = data.length / (heads * dim);
  if (!Number.isInteger(T)) {
    throw new ShapeError(where, "data must hold whole rows of heads * dim numbers", {
      length: data.length,
      heads,
      dim,
    });
  }
  return T;
}
