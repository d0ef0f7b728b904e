/** What to forget: policies that score tokens, wrappers around them, and plans for a cache to carry out. */

export { type AdaptiveHeadsOptions, adaptiveHeads } from "./adaptive-heads.ts";
export { type Amount, keptCount } from "./amount.ts";
export { applyPlan, applyPlanToCache, type CompressedLayer } from "./apply-plan.ts";
export { type BlockwiseOptions, blockwise } from "./blockwise.ts";
export { type CapKVOptions, capKV } from "./cap-kv.ts";
export { type ChunkKVOptions, chunkKV } from "./chunk-kv.ts";
export { type ChunkwiseOptions, type ChunkwisePolicy, chunkwise } from "./chunkwise.ts";
export { type CompactorOptions, compactor } from "./compactor.ts";
export { composed } from "./composed.ts";
export {
  type CriticalAdaptiveHeadsOptions,
  type CriticalKVOptions,
  criticalAdaptiveHeads,
  criticalKV,
} from "./critical-kv.ts";
export { type CurOptions, cur } from "./cur.ts";
export {
  type DecodingCompression,
  type DecodingCompressionOptions,
  decodingCompression,
} from "./decoding-compression.ts";
export { type DmsOptions, dms } from "./dms.ts";
export { type DropKVOptions, dropKV } from "./drop-kv.ts";
export { type DuoAttentionOptions, duoAttention, reachScores } from "./duo-attention.ts";
export { type ExpectedAttentionOptions, expectedAttention } from "./expected-attention.ts";
export { type FinchOptions, finch } from "./finch.ts";
export { keyDiff } from "./key-diff.ts";
export { knorm } from "./knorm.ts";
export { type KVComposeOptions, kvCompose } from "./kv-compose.ts";
export { type KVzipOptions, kvzip } from "./kvzip.ts";
export { type LagKVOptions, lagKV } from "./lag-kv.ts";
export { type LeverageOptions, leverageScore } from "./leverage-score.ts";
export { type MergingOptions, merging } from "./merging.ts";
export { type NonCausalOptions, nonCausalAttention } from "./non-causal-attention.ts";
export {
  type AttentionMass,
  type ChunkSums,
  type ChunkSumsNeed,
  type HeadRows,
  headMajorRows,
  type Observation,
  type ProjectedNorms,
  type Queries,
  type QuerySums,
  type QueryWeights,
  type RepeatPass,
  type RepeatPeaks,
  tokenMajorRows,
} from "./observation.ts";
export { observedAttention } from "./observed-attention.ts";
export { POLICY_NAMES, parsePolicy } from "./parse-policy.ts";
export { perLayer } from "./per-layer.ts";
export {
  type Effect,
  type HeadScores,
  type LayerPlan,
  type Moment,
  type Policy,
  type PolicyNeeds,
  type PolicyTakes,
  type ScoreDefinition,
  type ScorePolicy,
  scorePolicy,
} from "./policy.ts";
export { type CompressionSchedule, type PrefillCompression, prefillDecoding } from "./prefill-decoding.ts";
export { type PyramidKVOptions, pyramidKV } from "./pyramid-kv.ts";
export {
  type AttentionVisitor,
  attentionMassOf,
  lastQueries,
  queryWeight,
  visibleSlots,
  visitAttention,
} from "./query-attention.ts";
export { type RandomTokensOptions, randomTokens } from "./random-tokens.ts";
export { rerotated } from "./rerotated.ts";
export { lazyScore, type SimLayerKVOptions, simLayerKV } from "./sim-layer-kv.ts";
export { type SnapKVOptions, snapKV } from "./snap-kv.ts";
export { type StreamingLLMOptions, streamingLLM } from "./streaming-llm.ts";
export { channelScores, type ThinkOptions, think } from "./think.ts";
export type { ProtectedEnds } from "./top-slots.ts";
export { tova } from "./tova.ts";
