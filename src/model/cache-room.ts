/**
 * How full a cache is.
 */

import type { CachePlan } from "./cache-plan.ts";
import type { ModelCache } from "./model-cache.ts";

const PAGE_SIZE = 16;

/** Tokens that may come in one step. */
export function roomOf(cache: ModelCache): number {
  const { capacity, chunk } = cache.plan;
  if (capacity === undefined) return chunk;
  if (cache.plan.heads !== "pooled") return Math.min(chunk, capacity - cache.length());
  const rows = cache.plan.layers.map(({ kvHeads }, layer) =>
    Array.from({ length: kvHeads }, (_, head) => cache.length(layer, head)),
  );
  const holds = (more: number): boolean => {
    return holdsRows(
      cache.plan,
      rows.map((heads) => heads.map((count) => count + more)),
    );
  };
  let [low, high] = [0, chunk];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (holds(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
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

/** Whether heads of a layer hold unequal numbers of rows. */
export function hasUnevenHeads(cache: ModelCache): boolean {
  return cache.plan.layers.some(({ kvHeads }, layer) =>
    Array.from({ length: kvHeads }).some((_, head) => cache.length(layer, head) !== cache.length(layer, 0)),
  );
}

/** Rows that the window of queries has from the start, where bytes are promised. */
export function queryRoom(cache: ModelCache): number | undefined {
  const { aside } = cache.plan;
  if (!aside?.promptQueryRows || hasForgotten(cache)) return aside?.queryRows;
  return Math.max(aside.promptQueryRows, aside.queryRows);
}

/**
 * Whether rows find room.
 *
 * @param rows - [L][Hk]
 */
export function holdsRows({ capacity, heads, layers }: CachePlan, rows: readonly (readonly number[])[]): boolean {
  if (capacity === undefined) return true;
  if (heads !== "pooled") return rows.flat().every((count) => count <= capacity);
  const pools = new Map<number, number>(); // pages left, by the width of a row
  for (const [layer, { kvHeads, keyDim }] of layers.entries()) {
    const taken = rows[layer].reduce((sum, count) => sum + pagesFor(count), 0);
    pools.set(keyDim, (pools.get(keyDim) ?? 0) + kvHeads * pagesFor(capacity) - taken);
  }
  return [...pools.values()].every((left) => left >= 0);
}

function pagesFor(rows: number): number {
  return Math.ceil(rows / PAGE_SIZE);
}
