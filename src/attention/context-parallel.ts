/**
 * Context parallelism: one sequence over several shards, as orders of tokens, splits and schedules. Nothing here
 * computes attention. Positions and segments travel with the tokens, so that masks mean the same on every shard;
 * every rank attends its queries to the keys of one shard after the other, and the states merge in any order.
 *
 *     order     = loadBalancedOrder(T, shards)            which token stands where
 *     queries   = splitTokens({ q, positions }, options)  one record per rank
 *     keys      = splitTokens({ k, v, positions }, options)
 *     state     = attendShards(ringSchedule(shards), rank, (shard) => attend(queries[rank], keys[shard]))
 *     out       = joinTokens(outs of all ranks, options)
 */

import { BudgetError, ConfigError, ShapeError } from "../errors.ts";
import { reshape, sizeOf, type Tensor, tensor, zeros } from "../tensor.ts";
import { MAX_TOKENS } from "./spec.ts";
import { type AttentionState, mergeStates } from "./state.ts";

/**
 * The order that gives every shard the same share of causal work: 2 · shards groups, paired first with last, second
 * with last but one.
 *
 * @param length - tokens, a multiple of 2 · shards
 * @returns i32 [length], the original index of the token that stands at each place
 * @throws ShapeError when the length is no such multiple
 * @see https://arxiv.org/abs/2407.21783 The Llama 3 Herd of Models, section 3.3.2
 */
export function loadBalancedOrder(length: number, shards: number): Int32Array {
  const group = groupSize("loadBalancedOrder", length, shards, 2);
  return Int32Array.from({ length }, (_, place) => {
    const pair = Math.floor(place / group);
    const from = pair % 2 === 0 ? pair / 2 : 2 * shards - 1 - (pair - 1) / 2;
    return from * group + (place % group);
  });
}

/**
 * The order that deals tokens out one by one: shard r holds tokens r, r + shards, r + 2 · shards, ….
 *
 * @param length - tokens, a multiple of shards
 * @returns i32 [length], the original index of the token that stands at each place
 * @throws ShapeError when the length is no such multiple
 * @see https://arxiv.org/abs/2311.09431 Striped Attention
 */
export function stripedOrder(length: number, shards: number): Int32Array {
  const group = groupSize("stripedOrder", length, shards, 1);
  return Int32Array.from({ length }, (_, place) => (place % group) * shards + Math.floor(place / group));
}

/**
 * The order that undoes an order.
 *
 * @param order - each of 0 to length − 1 once
 * @returns i32 [length], the place at which each original token stands
 * @throws ConfigError when an index is out of range or repeated
 */
export function inverseOrder(order: Int32Array): Int32Array {
  const inverse = new Int32Array(order.length).fill(-1);
  order.forEach((from, place) => {
    if (from < 0 || from >= order.length || inverse[from] !== -1) {
      throw new ConfigError("inverseOrder", `the order must have each of 0 to ${order.length - 1} once`, {
        index: place,
        value: from,
      });
    }
    inverse[from] = place;
  });
  return inverse;
}

/**
 * The places of every shard in the new order.
 *
 * @param length - tokens, a multiple of shards
 * @returns first place and the one after the last, by shard
 * @throws ShapeError when the length is no such multiple
 */
export function shardSlices(length: number, shards: number): (readonly [start: number, end: number])[] {
  const size = groupSize("shardSlices", length, shards, 1);
  return Array.from({ length: shards }, (_, shard) => [shard * size, (shard + 1) * size] as const);
}

/** What is known of tokens: tensors [B, T, ...], or [T, ...] without batch, and i32 rows [B, T]. */
export type TokenRows = { readonly [name: string]: Tensor | Int32Array | undefined };

/** How tokens are spread over shards. */
export type SplitOptions = {
  /** i32 [T], the original index of the token at each place; its length is T. */
  readonly order: Int32Array;
  readonly shards: number;
  /** B; absent: tensors have no batch axis. */
  readonly batch?: number;
};

/**
 * Reorders tokens and gives every shard its part.
 *
 * @param tokens - every tensor and row that belongs to the tokens, under any names
 * @returns one record of the same names per shard, copied
 * @throws ShapeError when a field does not have B · T tokens or T is no multiple of shards
 * @throws ConfigError when the order is not one
 */
export function splitTokens<T extends TokenRows>(tokens: T, { order, shards, batch }: SplitOptions): T[] {
  inverseOrder(order); // refuses what is not an order
  return shardSlices(order.length, shards).map(([start, end]) =>
    gatherTokens("splitTokens", [tokens], { batch, size: order.length, places: order.subarray(start, end) }),
  );
}

/**
 * Puts the parts of all shards back into the original order.
 *
 * @param parts - one record per shard, in order of shards, each with T / shards tokens
 * @returns one record with T tokens, copied
 * @throws ShapeError when sizes do not fit
 * @throws ConfigError when the order is not one
 */
export function joinTokens<T extends TokenRows>(parts: readonly T[], { order, shards, batch }: SplitOptions): T {
  const places = inverseOrder(order);
  const [[, size]] = shardSlices(order.length, shards);
  if (parts.length !== shards) {
    throw new ShapeError("joinTokens", "one part per shard", { parts: parts.length, shards });
  }
  return gatherTokens("joinTokens", parts, { batch, size, places });
}

/** Where tokens are taken from: parts of `size` tokens that stand one after the other. */
type Places = { readonly batch: number | undefined; readonly size: number; readonly places: Int32Array };

/** The tokens at the given places, field by field. */
function gatherTokens<T extends TokenRows>(where: string, parts: readonly T[], from: Places): T {
  const result: Record<string, Tensor | Int32Array | undefined> = {};
  for (const name of Object.keys(parts[0])) {
    const tensors = parts.map((part) => fieldTensor(where, name, part[name], from)).filter((t) => t !== undefined);
    if (tensors.length === 0) result[name] = undefined;
    else if (tensors.length < parts.length || tensors.some((t) => t.shape.join() !== tensors[0].shape.join())) {
      throw new ShapeError(where, `${name} must be alike in all parts`, { shapes: tensors.map((t) => t.shape) });
    } else result[name] = fieldLike(parts[0][name] as Tensor | Int32Array, gatherField(tensors, from), from);
  }
  return result as T;
}

/** A field as a tensor [B, size, ...]. */
function fieldTensor(
  where: string,
  name: string,
  field: Tensor | Int32Array | undefined,
  { batch, size }: Places,
): Tensor | undefined {
  if (field === undefined) return undefined;
  const B = batch ?? 1;
  const isRow = ArrayBuffer.isView(field);
  const shape = isRow ? [B, field.length / B] : batch === undefined ? [1, ...field.shape] : field.shape;
  if (shape[0] !== B || shape[1] !== size) {
    throw new ShapeError(where, `${name} must have ${B} x ${size} tokens`, {
      shape: isRow ? [field.length] : field.shape,
    });
  }
  return isRow ? tensor("i32", shape, field) : reshape(field, shape);
}

function gatherField(parts: readonly Tensor[], { size, places }: Places): Tensor {
  const { dtype, shape } = parts[0];
  const [B, , ...rest] = shape;
  const width = sizeOf(rest);
  const gathered = zeros(dtype, [B, places.length, ...rest]);
  for (let b = 0; b < B; b++) {
    places.forEach((place, t) => {
      const part = parts[Math.floor(place / size)];
      copyRow(gathered, b * places.length + t, part, b * size + (place % size), width);
    });
  }
  return gathered;
}

/** Copies row `from` of one tensor over row `to` of another of the same element type. */
function copyRow(target: Tensor, to: number, source: Tensor, from: number, width: number): void {
  const row = source.data.subarray(from * width, (from + 1) * width);
  (target.data as Float64Array).set(row as Float64Array, to * width);
}

/** [B, T, ...] in the form that the caller's field had. */
function fieldLike(field: Tensor | Int32Array, gathered: Tensor, { batch }: Places): Tensor | Int32Array {
  if (ArrayBuffer.isView(field)) return gathered.data as Int32Array;
  return batch === undefined ? reshape(gathered, gathered.shape.slice(1)) : gathered;
}

/** Whose keys each rank attends to: `steps[step][rank]` lists shards. */
export type ShardSchedule = {
  readonly kind: "ring" | "all-gather";
  readonly shards: number;
  readonly steps: readonly (readonly (readonly number[])[])[];
};

/**
 * Keys go around: at step s rank r has those of shard r − s, and between steps every rank sends what it holds to
 * rank r + 1 (both modulo shards).
 *
 * @see https://arxiv.org/abs/2310.01889 Ring Attention with Blockwise Transformers
 */
export function ringSchedule(shards: number): ShardSchedule {
  checkShards("ringSchedule", shards);
  const ranks = Array.from({ length: shards }, (_, rank) => rank);
  return {
    kind: "ring",
    shards,
    steps: ranks.map((step) => ranks.map((rank) => [(rank - step + shards) % shards])),
  };
}

/** Every rank gets the keys of all shards first, and attends to them in one step. */
export function allGatherSchedule(shards: number): ShardSchedule {
  checkShards("allGatherSchedule", shards);
  const ranks = Array.from({ length: shards }, (_, rank) => rank);
  return { kind: "all-gather", shards, steps: [ranks.map(() => ranks)] };
}

/**
 * The state of one rank's queries over the keys of all shards.
 *
 * @param attend - the state of the rank's queries over the keys of one shard, without sinks
 * @throws ConfigError when the rank is not in the schedule
 */
export function attendShards(
  schedule: ShardSchedule,
  rank: number,
  attend: (shard: number) => AttentionState,
): AttentionState {
  if (!Number.isSafeInteger(rank) || rank < 0 || rank >= schedule.shards) {
    throw new ConfigError("attendShards", `rank must be from 0 to ${schedule.shards - 1}`, { rank });
  }
  return mergeStates(...schedule.steps.flatMap((step) => step[rank].map(attend)));
}

/** A schedule has an entry for every two of them. */
const MAX_SHARDS = 1024;

function checkShards(where: string, shards: number): void {
  if (!Number.isSafeInteger(shards) || shards < 1 || shards > MAX_SHARDS) {
    throw new ConfigError(where, `shards must be an integer from 1 to ${MAX_SHARDS}`, { shards });
  }
}

/** Tokens of each of `perShard` · shards equal groups. */
function groupSize(where: string, length: number, shards: number, perShard: number): number {
  checkShards(where, shards);
  const groups = perShard * shards;
  if (length > MAX_TOKENS) throw new BudgetError(where, `at most ${MAX_TOKENS} tokens`, { length });
  if (!Number.isSafeInteger(length) || length < 0 || length % groups !== 0) {
    throw new ShapeError(
      where,
      `length must be a multiple of ${perShard === 1 ? "" : `${perShard} * `}shards`,
      { length, shards },
      "Pad with tokens of segment -1.",
    );
  }
  return length / groups;
}
