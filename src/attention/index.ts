/**
 * The attention operator: what is asked, the reference that defines the answer, the states that merge, and what may
 * stand around it: views of keys and values, selection of keys, shards.
 */

export {
  allGatherSchedule,
  attendShards,
  inverseOrder,
  joinTokens,
  loadBalancedOrder,
  ringSchedule,
  type ShardSchedule,
  type SplitOptions,
  shardSlices,
  splitTokens,
  stripedOrder,
  type TokenRows,
} from "./context-parallel.ts";
export { type IndexerInputs, type IndexerSelect, indexerScores } from "./indexer.ts";
export { checkKeyValues, type KvDims } from "./kv-check.ts";
export { type DenseKv, gatherKv, storedRow } from "./kv-gather.ts";
export type { ContiguousKv, KeyValues, KvStore, KvView, PagedKv, RingKv } from "./kv-view.ts";
export type { MobaSelect } from "./moba.ts";
export {
  dequantizeKv,
  type QuantizedBits,
  type QuantizedKv,
  quantizationLimit,
  quantizeKv,
  type ScaleAxis,
  unpackInt4,
} from "./quantize.ts";
export { type ReferenceOutput, referenceAttention, referenceState } from "./reference.ts";
export { type SelectRequest, selectKeys } from "./select.ts";
export {
  type BlockSelection,
  type KeySelection,
  type Selection,
  selectionFromTable,
  selectionPredicate,
  selectionTable,
} from "./selection.ts";
export type {
  AttentionDims,
  AttentionOptions,
  AttentionRequest,
  DenseAttentionRequest,
  RealTensor,
  ViewAttentionRequest,
} from "./spec.ts";
export {
  type AttentionOutput,
  type AttentionState,
  emptyState,
  finishState,
  mergeStates,
  sinkState,
  stateFromOutput,
} from "./state.ts";
