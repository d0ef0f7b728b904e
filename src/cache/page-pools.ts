/**
 * Pages that the heads of all layers share, so that a layer may hold more rows than another while their sum is bounded.
 */

import { ConfigError } from "../errors.ts";
import type { KvMemory } from "./cache.ts";
import type { ResolvedLayer } from "./layer-spec.ts";
import { PagePool } from "./paged.ts";
import { RowBlock } from "./row-block.ts";

/** One pool for every shape of rows among the layers. */
export class PagePools {
  readonly #memory: KvMemory;
  readonly #layers: readonly ResolvedLayer[];
  readonly #pools = new Map<string, PagePool>();

  /** @throws ConfigError for a layer that is not in pages, or has no capacity to add to its pool */
  constructor(memory: KvMemory, layers: readonly ResolvedLayer[]) {
    this.#memory = memory;
    this.#layers = layers;
    const pages = new Map<string, number>();
    for (const [index, layer] of layers.entries()) {
      const shape = shapeOf(layer);
      pages.set(shape, (pages.get(shape) ?? 0) + pagesOf(layer, index));
    }
    for (const layer of layers) {
      const shape = shapeOf(layer);
      if (layer.layout.type !== "paged" || this.#pools.has(shape)) continue;
      const make = (rows: number): RowBlock => new RowBlock(memory, layer, 1, rows);
      this.#pools.set(shape, new PagePool(make, layer.layout.pageSize, pages.get(shape)));
    }
  }

  /** The pool of a layer's heads. */
  of(layer: ResolvedLayer): PagePool {
    return this.#pools.get(shapeOf(layer)) as PagePool;
  }

  /** Empty pools of the same sizes. */
  renewed(): PagePools {
    return new PagePools(this.#memory, this.#layers);
  }
}

/** What rows must have in common to lie in one pool, head by head. */
function shapeOf({ keyDim, valueDim, elements, pristineKeys, layout }: ResolvedLayer): string {
  return JSON.stringify([keyDim, valueDim, elements, pristineKeys, layout]);
}

function pagesOf({ kvHeads, capacity, layout }: ResolvedLayer, layer: number): number {
  if (layout.type === "paged" && capacity !== undefined) return kvHeads * Math.ceil(capacity / layout.pageSize);
  throw new ConfigError(
    "createKvCache",
    "a paged layout and a capacity in every layer, for heads that are pooled",
    { layout: layout.type, capacity, layer },
    "The pool has as many pages as the capacities come to.",
  );
}
