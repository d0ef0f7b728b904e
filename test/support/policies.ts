/** Policies and wrappers with parameters for texts of a few tokens, for tests that cross them all. */

import type { Policy } from "../../src/compress/index.ts";
import * as compress from "../../src/compress/index.ts";

/** Every policy by name. */
export const SMALL_POLICIES: Readonly<Record<string, Policy>> = {
  randomTokens: compress.randomTokens({ seed: 5 }),
  knorm: compress.knorm(),
  keyDiff: compress.keyDiff(),
  streamingLLM: compress.streamingLLM(),
  snapKV: compress.snapKV({ window: 3 }),
  tova: compress.tova(),
  pyramidKV: compress.pyramidKV({ window: 2, beta: 4 }),
  observedAttention: compress.observedAttention(),
  expectedAttention: compress.expectedAttention({ futurePositions: 7 }),
  lagKV: compress.lagKV({ lagTokens: 4 }),
  lagKVAcross: compress.lagKV({ lagTokens: 4, crossScoring: true }),
  cur: compress.cur(),
  leverageScore: compress.leverageScore({ sketchColumns: 3 }),
  nonCausalAttention: compress.nonCausalAttention({ chunkTokens: 8 }),
  compactor: compress.compactor({ sinks: 3, recent: 2, chunkTokens: 8, sketchColumns: 3 }),
  capKV: compress.capKV({ futurePositions: 7 }),
  dropKV: compress.dropKV({ window: 4 }),
  finch: compress.finch(),
  kvzip: compress.kvzip(),
  kvCompose: compress.kvCompose({ structured: false }),
  think: compress.think({ window: 4 }),
  simLayerKV: compress.simLayerKV({ threshold: 0.01, sinks: 2, recent: 6 }),
  duoAttention: compress.duoAttention({ sinks: 2, recent: 4, distances: 9 }),
};

/** Every wrapper by name but `composed`; `perLayer` is for three layers. */
export const SMALL_WRAPPERS: Readonly<Record<string, (policy: Policy) => Policy>> = {
  alone: (policy) => policy,
  rerotated: compress.rerotated,
  adaptiveHeads: compress.adaptiveHeads,
  criticalKV: compress.criticalKV,
  criticalAdaptiveHeads: compress.criticalAdaptiveHeads,
  perLayer: (policy) => compress.perLayer(policy, [{ budget: 9 }, { budget: 8 }, { compressionRatio: 0.5 }]),
  chunkwise: (policy) => compress.chunkwise(policy, { chunkTokens: 11 }),
  chunkKV: (policy) => compress.chunkKV(policy, { chunkTokens: 4 }),
  blockwise: (policy) => compress.blockwise(policy, { blockTokens: 5 }),
  merging: compress.merging,
  dms: (policy) => compress.dms(policy, { threshold: 0, window: 5 }),
};
