/** Keys and values that remember their positions. */

export type { KvCache, KvMemory, KvRows } from "./cache.ts";
export { createContiguousCache, type KvLayerShape } from "./contiguous.ts";
