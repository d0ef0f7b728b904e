/**
 * How full a cache is.
 */

import type { ModelCache } from "./model-cache.ts";

const DEFAULT_PAGE_SIZE = 16;

/** Tokens that may come in one step. */
export function roomOf(cache: ModelCache): number {
  const { capacity, chunk } = cache.plan;
  if (capacity === undefined) return chunk;
  let room = chunk;
  for (let layer = 0; layer < cache.layers; layer++) room = Math.min(room, roomOfLayer(cache, layer, capacity));
  return room;
}

/** Rows of a head, on average over all heads of all layers. */
export function meanLength(cache: ModelCache): number {
  let rows = 0;
  let heads = 0;
  for (const [layer, { kvHeads }] of cache.plan.layers.entries()) {
    for (let head = 0; head < kvHeads; head++) rows += cache.length(layer, head);
    heads += kvHeads;
  }
  return rows / heads;
}

/** Whether a token that was given is gone from some head. */
export function hasForgotten(cache: ModelCache): boolean {
  return cache.plan.layers.some(({ kvHeads }, layer) =>
    Array.from({ length: kvHeads }).some((_, head) => cache.length(layer, head) < cache.tokensSeen),
  );
}

function roomOfLayer(cache: ModelCache, layer: number, capacity: number): number {
  const { layout, kvHeads } = cache.plan.layers[layer];
  if (!cache.isRagged(layer) || layout?.type !== "paged") return capacity - cache.length(layer);
  // Heads share the pages, and each may leave most of one unused.
  const { pageSize = DEFAULT_PAGE_SIZE } = layout;
  const pages = kvHeads * Math.ceil(capacity / pageSize);
  const pagesFor = (more: number): number => {
    let sum = 0;
    for (let head = 0; head < kvHeads; head++) sum += Math.ceil((cache.length(layer, head) + more) / pageSize);
    return sum;
  };
  let room = cache.plan.chunk;
  while (room > 0 && pagesFor(room) > pages) room--;
  return room;
}
