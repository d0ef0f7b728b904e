/** Keys and values that remember their positions. */

export { type CacheBudget, type CacheBudgetRequest, planCacheBudget } from "./budget.ts";
export type { KvCache, KvMemory, KvRows } from "./cache.ts";
export { type ContextShift, shiftContext } from "./context-shift.ts";
export { createContiguousCache, createKvCache, type KvCacheHeads, type KvCacheOptions } from "./create-cache.ts";
export { HOST_MEMORY } from "./host-memory.ts";
export type { CacheElements, CacheLayout, KvLayerShape, KvLayerSpec } from "./layer-spec.ts";
export { dropKeyChannels } from "./narrow.ts";
export { PositionedCache, type SlotPositions } from "./positioned-cache.ts";
export { clearKeyChannels, replaceValues } from "./rewrite.ts";
export { restoreSnapshot, type SnapshotChunks, type SnapshotFingerprint, saveSnapshot } from "./snapshot.ts";
