/** The goldens' policies, by kvpress' names, as Phasor's. */

import {
  type Amount,
  adaptiveHeads,
  blockwise,
  type CurOptions,
  capKV,
  chunkKV,
  chunkwise,
  compactor,
  composed,
  criticalAdaptiveHeads,
  criticalKV,
  cur,
  dms,
  expectedAttention,
  finch,
  type HeadScores,
  keyDiff,
  knorm,
  kvCompose,
  kvzip,
  lagKV,
  leverageScore,
  merging,
  nonCausalAttention,
  type Observation,
  observedAttention,
  type Policy,
  perLayer,
  pyramidKV,
  rerotated,
  type ScorePolicy,
  simLayerKV,
  snapKV,
  streamingLLM,
  think,
  tova,
} from "phasor/compress";
import type { GoldenTensor } from "../case.ts";

/** Parameters of a policy by kvpress' names; wrappers nest `inner`. */
export type PressParams = { press: string; inner?: PressParams } & Record<string, unknown>;

/** A policy with what the case says about it. */
export type GoldenPolicy = {
  readonly policy: Policy;
  /** Absent where the policy's own parameters decide. */
  readonly amount: Amount | undefined;
  /** Raw scores of the innermost scorer. */
  readonly scores: ((observation: Observation) => HeadScores) | undefined;
  /** Scores after a wrapper rewrote them. */
  readonly finalScores: ((observation: Observation) => HeadScores) | undefined;
};

/** Builds the policy of a case; `sketch` is the case's tensor `phi` [L, Hk, D, k] where it has one. */
export function goldenPolicy(params: PressParams, sketch: GoldenTensor | undefined): GoldenPolicy {
  const ratio = params.compression_ratio as number | undefined;
  const amount = ratio === undefined ? undefined : { compressionRatio: ratio };
  if (params.inner !== undefined) return wrapped(params, goldenPolicy(params.inner, sketch));
  const policy = single(params, sketch);
  const scores =
    "score" in policy && amount !== undefined
      ? (o: Observation) => (policy as ScorePolicy).score(o, amount)
      : undefined;
  return { policy, amount, scores, finalScores: undefined };
}

function wrapped(params: PressParams, inner: GoldenPolicy): GoldenPolicy {
  const number = (name: string): number => params[name] as number;
  const critical = { epsilon: number("epsilon"), firstStage: number("first_stage_ratio") };
  const { policy, amount } = inner;
  switch (params.press) {
    case "KeyRerotation":
      return { ...inner, policy: rerotated(policy) };
    case "AdaKV":
      return { ...inner, policy: adaptiveHeads(policy, { safeguard: number("alpha_safeguard") }) };
    case "CriticalKV": {
      const outer = criticalKV(policy, critical);
      return { ...inner, policy: outer, finalScores: (o) => outer.score(o, amount as Amount) };
    }
    case "CriticalAdaKV":
      return {
        ...inner,
        policy: criticalAdaptiveHeads(policy, { ...critical, safeguard: number("alpha_safeguard") }),
      };
    case "PerLayer": {
      const ratios = params.compression_ratios as number[];
      const amounts = ratios.map((compressionRatio) => ({ compressionRatio }));
      return { ...inner, policy: perLayer(policy, amounts), amount: undefined };
    }
    case "Chunk": {
      const outer = chunkwise(policy, { chunkTokens: number("chunk_length") });
      return { ...inner, policy: outer, scores: (o) => outer.chunkScores(o, amount as Amount) };
    }
    case "ChunkKV":
      return { ...inner, policy: chunkKV(policy, { chunkTokens: number("chunk_length") }) };
    case "Block":
      return { ...inner, policy: blockwise(policy, { blockTokens: number("block_size") }) };
    case "Merging": {
      const options = { similarity: number("similarity_threshold"), fraction: number("merge_fraction") };
      return { ...inner, policy: merging(policy, options) };
    }
    case "DMS": {
      const options = { threshold: number("threshold"), window: number("sliding_window_size") };
      return { ...inner, policy: dms(policy, options), amount: undefined };
    }
    case "Composed":
      return { ...inner, policy: composed(policy, goldenPolicy(params.second as PressParams, undefined).policy) };
    default:
      throw new Error(`unknown wrapper ${params.press}`);
  }
}

function single(params: PressParams, sketch: GoldenTensor | undefined): Policy {
  const number = (name: string): number => params[name] as number;
  const flag = (name: string): boolean => params[name] as boolean;
  const snap = { window: number("window_size"), kernel: number("kernel_size") };
  const future = { futurePositions: number("n_future_positions"), sinks: number("n_sink") };
  const leverage = {
    sketchColumns: number("sketch_dimension"),
    ...(sketch === undefined ? {} : { sketch: sketchOf(sketch) }),
  };
  switch (params.press) {
    case "Knorm":
      return knorm();
    case "KeyDiff":
      return keyDiff();
    case "StreamingLLM":
      return streamingLLM({ sinks: number("n_sink") });
    case "SnapKV":
      return snapKV(snap);
    case "TOVA":
      return tova();
    case "PyramidKV":
      return pyramidKV({ ...snap, beta: number("beta") });
    case "ObservedAttention":
      return observedAttention();
    case "ExpectedAttention":
      return expectedAttention({
        ...future,
        covariance: flag("use_covariance"),
        valueNorm: flag("use_vnorm"),
        epsilon: number("epsilon"),
      });
    case "LagKV":
      return lagKV({ sinks: number("n_sink"), lagTokens: number("lag_size"), crossScoring: flag("cross_scoring") });
    case "CUR": {
      if (params.use_random_leverage === true) throw new Error("random leverage depends on torch's random numbers");
      const names = { kv_product: "product", kv_avg: "average", key: "key", value: "value" } as const;
      const options: CurOptions = {
        sinks: number("num_sinks"),
        leverage: names[params.leverage_type as keyof typeof names],
        localWindow: flag("use_local_approximation") ? number("local_window_size") : Infinity,
      };
      return cur(options);
    }
    case "LeverageScore":
      return leverageScore(leverage);
    case "NonCausalAttn":
      return nonCausalAttention({ chunkTokens: number("chunk_size") });
    case "Compactor": {
      const blending = params.blending as number | null;
      return compactor({
        ...leverage,
        chunkTokens: number("chunk_size"),
        sinks: number("sink_size_start"),
        recent: number("sink_size_end"),
        ...(blending === null ? {} : { blending }),
      });
    }
    case "Cap":
      return capKV({ ...future, tau: number("tau"), epsilon: number("epsilon") });
    case "Finch": {
      const chunk = params.chunk_length as number | null;
      const base = finch({ normalize: flag("normalize_scores"), ...(chunk === null ? {} : { chunkTokens: chunk }) });
      return flag("rerotate_keys") ? Object.assign(rerotated(base), { score: base.score }) : base;
    }
    case "KVzip":
      return kvzip({
        sinks: number("n_sink"),
        layerwise: flag("layerwise"),
        normalize: flag("kvzip_plus_normalization"),
      });
    case "KVCompose":
      if (params.agg_task !== "max" || params.agg_group !== "mean" || params.agg_head !== "mean") {
        throw new Error("only max over queries and means over heads are supported");
      }
      return kvCompose({
        structured: flag("structured"),
        leastTokens: number("keep_token_lower_bound"),
        valueNorm: flag("add_v_norm"),
        addHeadMean: flag("add_mean_across_heads"),
      });
    case "ThinK":
      return think({ channelRatio: number("key_channel_compression_ratio"), window: number("window_size") });
    case "SimLayerKV":
      return simLayerKV(simLayerOptions(params));
    default:
      throw new Error(`unknown press ${params.press}`);
  }
}

/** SimLayerKV's options of a case. */
export function simLayerOptions(params: PressParams): Parameters<typeof simLayerKV>[0] {
  const number = (name: string): number => params[name] as number;
  return {
    threshold: number("lazy_threshold"),
    lastQueries: number("n_last"),
    recent: number("n_recent"),
    sinks: number("n_initial"),
  };
}

function sketchOf({ shape, data }: GoldenTensor): (layer: number, kvHead: number) => number[] {
  const [, kvHeads, D, columns] = shape;
  const size = D * columns;
  return (layer, kvHead) =>
    Array.from(data).slice((layer * kvHeads + kvHead) * size, (layer * kvHeads + kvHead + 1) * size);
}
