/**
 * How many tokens a number of bytes holds, known before anything is allocated.
 */

import { BudgetError, ConfigError } from "../errors.ts";
import { columnCount } from "./lane.ts";
import { headRowBytes, type KvLayerSpec, type ResolvedLayer, resolveLayer } from "./layer-spec.ts";
import { arrayBytes } from "./row-array.ts";

/** What a cache is planned for. */
export type CacheBudgetRequest = {
  /** One entry per layer; capacities are what is planned, so none may be given. */
  readonly layers: readonly KvLayerSpec[];
  /** Bytes that the cache may take at most. */
  readonly maxBytes: number;
  /** Tokens that must fit; 1 unless told. */
  readonly minTokens?: number;
  /** Tokens that are enough: no more memory is planned than they take. */
  readonly maxTokens?: number;
  /** As in `createKvCache`. */
  readonly axes?: number;
  /** Whether heads will keep different rows, so that each has positions of its own; false unless told. */
  readonly ragged?: boolean;
};

/** A plan. */
export type CacheBudget = {
  /** Rows of every layer that is no ring; per head, on average over the heads. */
  readonly tokens: number;
  /** Bytes that the whole cache takes: `allocatedBytes` reaches this and never passes it. */
  readonly bytes: number;
  /** Bytes that one more token takes, rounded up. */
  readonly bytesPerToken: number;
  /** Bytes that rings take whatever the number of tokens. */
  readonly fixedBytes: number;
  /** The layers with their capacities, for `createKvCache`. */
  readonly layers: readonly KvLayerSpec[];
};

const MOST_TOKENS = 2 ** 31 - 1;

/**
 * Plans a cache that never takes more than `maxBytes`: rows, scales, positions and segments. Every layer takes its
 * memory once, at its first append.
 *
 * Not counted: the second copy of one layer while its heads become ragged or a fork first writes, and what an engine
 * rounds blocks up by (63 bytes each).
 *
 * @returns tokens that fit, and the layers to create the cache with
 * @throws BudgetError when `minTokens` do not fit; `got.neededBytes` says what they take
 * @throws ConfigError for numbers that are not counts, or a capacity given
 */
export function planCacheBudget(request: CacheBudgetRequest): CacheBudget {
  const { maxBytes, minTokens = 1, maxTokens = MOST_TOKENS, axes = 0, ragged = false } = request;
  for (const [name, count] of Object.entries({ maxBytes, minTokens, maxTokens })) {
    if (Number.isSafeInteger(count) && count > 0) continue;
    throw new ConfigError("planCacheBudget", `${name} must be a positive integer`, { [name]: count });
  }
  if (minTokens > maxTokens) {
    throw new ConfigError("planCacheBudget", "minTokens must not pass maxTokens", { minTokens, maxTokens });
  }
  const layers = request.layers.map((layer, index) => {
    if (layer.capacity === undefined) return resolveLayer("planCacheBudget", layer, index);
    throw new ConfigError("planCacheBudget", "the capacity is what is planned", {
      capacity: layer.capacity,
      layer: index,
    });
  });
  const bytesOf = (tokens: number): number =>
    layers.reduce((sum, layer) => sum + layerBytes(layer, tokens, axes, ragged), 0);

  if (bytesOf(minTokens) > maxBytes) {
    throw new BudgetError(
      "planCacheBudget",
      "maxBytes must hold minTokens",
      { maxBytes, minTokens, neededBytes: bytesOf(minTokens) },
      "Raise maxBytes, ask for fewer tokens, or choose int8 or int4 elements.",
    );
  }
  const tokens = mostThatFit(minTokens, maxTokens, (count) => bytesOf(count) <= maxBytes);
  const perToken = layers.reduce((sum, layer) => {
    if (layer.layout.type === "ring") return sum;
    return sum + layer.kvHeads * headRowBytes(layer) + columnBytes(layer, axes, ragged);
  }, 0);
  return {
    tokens,
    bytes: bytesOf(tokens),
    bytesPerToken: perToken,
    fixedBytes: bytesOf(0),
    layers: request.layers.map((layer) => (layer.layout?.type === "ring" ? layer : { ...layer, capacity: tokens })),
  };
}

/** Bytes that a layer takes when it has room for so many tokens. */
function layerBytes(layer: ResolvedLayer, tokens: number, axes: number, ragged: boolean): number {
  const { layout, elements, kvHeads, keyDim, valueDim, pristineKeys } = layer;
  const rows = roomFor(layout, tokens);
  // Heads on their own have arrays of their own, but share the pages of one pool.
  const arrays = ragged && layout.type !== "paged" ? kvHeads : 1;
  const dims = [keyDim, valueDim, ...(pristineKeys ? [keyDim] : [])];
  const units = (rows * kvHeads) / arrays;
  const rowBytes = dims.reduce((sum, dim) => sum + arrays * arrayBytes(elements, units, dim), 0);
  return rowBytes + rows * columnBytes(layer, axes, ragged);
}

function roomFor(layout: ResolvedLayer["layout"], tokens: number): number {
  if (layout.type === "ring") return layout.window + layout.maxChunk - 1;
  return layout.type === "paged" ? layout.pageSize * Math.ceil(tokens / layout.pageSize) : tokens;
}

/** Bytes of the positions and segments of one row. */
function columnBytes(layer: ResolvedLayer, axes: number, ragged: boolean): number {
  return (ragged ? layer.kvHeads : 1) * columnCount(layer, axes) * Int32Array.BYTES_PER_ELEMENT;
}

/** The largest count from `least` to `most` that fits; `least` does. */
function mostThatFit(least: number, most: number, fits: (count: number) => boolean): number {
  let [low, high] = [least, most];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}
