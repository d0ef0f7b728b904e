/**
 * The attention operator: what is asked, the reference that defines the answer, the states that merge, and what may
 * stand around it: views of keys and values, selection of keys, shards.
 */

export {
  type Capabilities,
  type ElementType,
  FEATURE_NAMES,
  type FeatureName,
  type KernelCapabilities,
  type KernelName,
  type KvLayout,
  type Needs,
  REFERENCE_CAPABILITIES,
} from "./capabilities.ts";
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
export { type Dropout, dropoutBits } from "./dropout.ts";
export { type IndexerInputs, type IndexerSelect, indexerScores } from "./indexer.ts";
export { checkKeyValues, type KvDims } from "./kv-check.ts";
export { type DenseKv, gatherKv, storedRow } from "./kv-gather.ts";
export type {
  ContiguousKv,
  KeyValues,
  KvStore,
  KvView,
  KvViews,
  NarrowedKv,
  PagedKv,
  RingKv,
  SlotOrder,
} from "./kv-view.ts";
export type { MobaSelect } from "./moba.ts";
export { parseScore } from "./parse-score.ts";
export {
  type AttentionPlan,
  checkPlanFits,
  type PlanCost,
  type PlanMerges,
  type PlanOptions,
  type PlanRequest,
  planAttention,
  type TensorShape,
  type WorkPlan,
} from "./plan.ts";
export type { PlanBits } from "./plan-tiles.ts";
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
export { type AttentionGradients, referenceAttentionGradients } from "./reference-backward.ts";
export {
  ScoreExpression,
  type ScoreLike,
  type ScoreNode,
  type ScoreVocabulary,
  scoreModifier,
} from "./score-expression.ts";
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
  Accumulation,
  AttentionDims,
  AttentionOptions,
  AttentionOutputs,
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
export { type RunOptions, runPlan } from "./tile-loop.ts";
export { type PlanReport, validateAttentionPlan } from "./validate-plan.ts";
