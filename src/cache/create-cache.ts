/**
 * Makes caches.
 */

import type { KvView } from "../attention/index.ts";
import { ConfigError } from "../errors.ts";
import type { KvMemory } from "./cache.ts";
import { HOST_MEMORY } from "./host-memory.ts";
import { type KvLayerSpec, resolveLayer } from "./layer-spec.ts";
import { PagePools } from "./page-pools.ts";
import { PositionedCache } from "./positioned-cache.ts";
import { checkMemory } from "./row-block.ts";

/** See {@link KvCacheOptions}. */
export type KvCacheHeads = "together" | "apart" | "pooled";

/** How a cache is made. */
export type KvCacheOptions = {
  /** Where rows are kept; the JavaScript heap when absent. */
  readonly memory?: KvMemory;
  /** Positions per slot for M-RoPE (3: t, h, w), beside the one that masks compare; 0 unless told. */
  readonly axes?: number;
  /**
   * Whose rows the heads' are.
   *
   * - `together` (unless told): heads of a layer share positions until they keep different rows; then the layer is copied
   * - `apart`: every head has rows of its own from the start, so that nothing is copied
   * - `pooled`: apart, and the heads of all layers draw pages from one pool (one for each shape of rows), as large as the
   *   layers' capacities come to: a layer may hold more than its capacity while others hold less
   */
  readonly heads?: KvCacheHeads;
};

/**
 * A cache of any layout and element type.
 *
 * @param layers - one entry per layer
 * @returns an empty cache; memory is taken at the first append
 * @throws ConfigError or CapabilityError for a layer that cannot be
 */
export function createKvCache(layers: readonly KvLayerSpec[], options: KvCacheOptions = {}): PositionedCache {
  return newCache("createKvCache", layers, options);
}

/**
 * A cache of f32 rows in one run per layer, which grow by doubling.
 *
 * @param layers - one entry per layer; their layout and elements are set
 * @param memory - where rows are kept; the JavaScript heap when absent
 * @returns an empty cache
 */
export function createContiguousCache(layers: readonly KvLayerSpec[], memory?: KvMemory): PositionedCache<KvView> {
  const plain = layers.map((layer) => ({ ...layer, layout: { type: "contiguous" }, elements: "f32" }) as const);
  return newCache("createContiguousCache", plain, { ...(memory && { memory }) }) as PositionedCache<KvView>;
}

function newCache(where: string, layers: readonly KvLayerSpec[], options: KvCacheOptions): PositionedCache {
  const { memory = HOST_MEMORY, axes = 0, heads = "together" } = options;
  if (!(Number.isInteger(axes) && axes >= 0 && axes <= 8)) {
    throw new ConfigError(where, "axes must be an integer from 0 to 8", { axes });
  }
  if (!["together", "apart", "pooled"].includes(heads)) {
    throw new ConfigError(where, 'heads must be "together", "apart" or "pooled"', { heads });
  }
  const specs = layers.map((layer, index) => resolveLayer(where, layer, index));
  for (const spec of specs) {
    checkMemory(where, memory, spec);
    const { pairAxes = [] } = spec.rotary ?? {};
    if (axes === 0 || pairAxes.every((axis) => axis < axes)) continue;
    throw new ConfigError(where, "axes must count every axis that a layer rotates by", { axes, pairAxes });
  }
  const pools = heads === "pooled" ? new PagePools(memory, specs) : undefined;
  return new PositionedCache({ memory, axes, headsApart: heads !== "together", pools }, specs);
}
