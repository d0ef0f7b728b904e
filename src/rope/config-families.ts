/**
 * What each Hugging Face model type says about positions when its config does not: pairing, defaults, and where
 * its rope parameters stand. An unknown model type is an error, because its pairing would be a guess.
 *
 * @see https://github.com/huggingface/transformers (configuration_*.py and modeling_*.py of each model)
 */

import type { Pairing } from "./layer.ts";
import type { MropeLayout } from "./mrope.ts";

/** Rope parameters of one layer as they stand in a config. */
export type RawParameters = Readonly<Record<string, unknown>>;

/** How the config tells the parameters of one layer. */
export type ParameterForm =
  /** One set for all layers, or one per layer type where the values are objects. */
  | { readonly kind: "shared" }
  /**
   * A set for `full_attention` and one for `sliding_attention`; old-form scaling belongs to the full layers only.
   * The keys are those of the old form's bases, with their defaults.
   */
  | {
      readonly kind: "full-and-sliding";
      readonly full: { readonly key: string; readonly theta: number };
      readonly sliding: { readonly key: string | null; readonly theta: number };
      /** ModernBERT scales its sliding layers too. */
      readonly scalesSliding?: true;
    }
  /** A set per layer type, new form only, with these sets where the config has none. */
  | {
      readonly kind: "per-type";
      readonly defaults: Readonly<Record<string, RawParameters>>;
      /** Top-level keys of the base that replace the defaults (MiMo-V2 as published). */
      readonly thetaKeys?: Readonly<Record<string, string>>;
    }
  /** DeepSeek-V4: `main` for sliding layers, `compress` for the others. */
  | { readonly kind: "main-and-compress" }
  /** Step-3.5: `rope_theta` and `partial_rotary_factors` may be lists by layer. */
  | { readonly kind: "per-layer-lists" };

/** Which layers rotate. */
export type RotatingLayers =
  | "all"
  /** Sliding layers only (Cohere 2). */
  | "sliding"
  /** Sliding layers only, or all where `sliding_window` is null (EXAONE 4). */
  | "sliding-if-any"
  /** `no_rope_layers`, or all but every `no_rope_layer_interval`-th (Llama 4, SmolLM3). */
  | "no-rope-list"
  /** All or none: `position_embedding_type` (Granite hybrid). */
  | "by-embedding-type";

/** The layer type of a layer when the config has no `layer_types`. */
export type LayerPattern =
  /** Every n-th layer is full, n from the key, the others sliding. `last`: the last layer is full too. */
  | { readonly kind: "every"; readonly key: string | null; readonly interval: number; readonly last?: true }
  /** Layers 0, n, 2n, ... are full (ModernBERT). */
  | { readonly kind: "first-of"; readonly key: string; readonly interval: number }
  /** MiMo-V2: layer 0 and every 6th. */
  | { readonly kind: "mimo" }
  /** DeepSeek-V4: `compress_ratios`. */
  | { readonly kind: "compress-ratios" }
  /** All layers are full. */
  | { readonly kind: "all-full" };

/** One model type. Absent fields have the commonest value. */
export type ConfigFamily = {
  /** `half` unless told; `by-flag` reads `rope_interleave` (interleaved unless false). */
  readonly pairing?: Pairing | "by-flag";
  /** Base when the config has none; 10000 unless told. */
  readonly theta?: number;
  /** Old name of the base. */
  readonly thetaKey?: string;
  /** Rotated fraction of the head when the config has none; 1 unless told. */
  readonly partial?: number;
  /** Old name of the fraction. */
  readonly partialKey?: string;
  /** Head width when the config has none; hidden_size / num_attention_heads unless told. */
  readonly headDim?: number;
  /** Key of the head width of full layers, with its default (Gemma 4). */
  readonly fullHeadDim?: { readonly key: string; readonly headDim: number };
  /** Multi-head latent attention: rotates `qk_rope_head_dim` dims (this many by default), last in the head. */
  readonly mlaRopeDim?: number;
  /** Rope parameters when the config has none. */
  readonly parameters?: RawParameters;
  /** Original context when the config has none at top level. */
  readonly originalLength?: number;
  readonly form?: ParameterForm;
  readonly rotates?: RotatingLayers;
  readonly pattern?: LayerPattern;
  readonly mrope?: { readonly layout: MropeLayout; readonly section: readonly number[] };
  /** Names of rope types that mean another type here. */
  readonly typeAliases?: Readonly<Record<string, string>>;
  /** Keys of the rope parameters that only this family understands. */
  readonly extraKeys?: readonly string[];
  /** Queries of layers without rotation have a temperature (Llama 4). */
  readonly nopeTemperature?: true;
};

const EVERY_SIXTH: LayerPattern = { kind: "every", key: "sliding_window_pattern", interval: 6 };
const EVERY_FOURTH: LayerPattern = { kind: "every", key: "sliding_window_pattern", interval: 4 };

const GEMMA3: ConfigFamily = {
  headDim: 256,
  pattern: EVERY_SIXTH,
  form: {
    kind: "full-and-sliding",
    full: { key: "rope_theta", theta: 1e6 },
    sliding: { key: "rope_local_base_freq", theta: 1e4 },
  },
};
const GEMMA4: ConfigFamily = {
  headDim: 256,
  fullHeadDim: { key: "global_head_dim", headDim: 512 },
  pattern: { kind: "every", key: null, interval: 6, last: true },
  form: {
    kind: "per-type",
    defaults: {
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
      full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1e6 },
    },
  },
};
const MODERNBERT: ConfigFamily = {
  pattern: { kind: "first-of", key: "global_attn_every_n_layers", interval: 3 },
  form: {
    kind: "full-and-sliding",
    full: { key: "global_rope_theta", theta: 160000 },
    sliding: { key: "local_rope_theta", theta: 1e4 },
    scalesSliding: true,
  },
};
const GPT_OSS_PARAMETERS: RawParameters = {
  rope_type: "yarn",
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};
const mistralYarn = (factor: number, originalLength: number, theta: number): RawParameters => ({
  rope_type: "yarn",
  rope_theta: theta,
  factor,
  original_max_position_embeddings: originalLength,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 1,
  llama_4_scaling_beta: 0.1,
});
const PHI3: ConfigFamily = { originalLength: 4096, typeAliases: { yarn: "longrope" } };
const HUNYUAN: ConfigFamily = { extraKeys: ["alpha"] };
const chunked = (section: number[]): { layout: MropeLayout; section: number[] } => ({ layout: "chunked", section });
const interleaved = (section: number[]): { layout: MropeLayout; section: number[] } => ({
  layout: "interleaved",
  section,
});
const QWEN2_VL: ConfigFamily = { theta: 1e6, mrope: chunked([16, 24, 24]), typeAliases: { mrope: "default" } };
const QWEN3_VL: ConfigFamily = { theta: 500000, headDim: 128, mrope: interleaved([24, 20, 20]) };
const QWEN3_5: ConfigFamily = { partial: 0.25, headDim: 256, mrope: interleaved([11, 11, 10]) };
const mla = (pairing: Pairing | "by-flag", ropeDim = 64, more: ConfigFamily = {}): ConfigFamily => ({
  pairing,
  mlaRopeDim: ropeDim,
  ...more,
});

/** Model types that differ from Llama in something. */
const SPECIAL: Readonly<Record<string, ConfigFamily>> = {
  afmoe: {
    headDim: 128,
    rotates: "sliding",
    pattern: { kind: "every", key: "global_attn_every_n_layers", interval: 4 },
  },
  apertus: {
    theta: 12e6,
    parameters: {
      rope_type: "llama3",
      rope_theta: 12e6,
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    },
  },
  axk1: mla("by-flag"),
  bamba: { partial: 0.5 },
  bitnet: { theta: 500000 },
  codegen: { pairing: "interleaved" },
  cohere: { pairing: "interleaved", theta: 500000 },
  cohere2: { pairing: "interleaved", rotates: "sliding", pattern: EVERY_FOURTH },
  deepseek_v2: mla("interleaved"),
  deepseek_v3: mla("by-flag"),
  deepseek_v32: mla("interleaved"),
  deepseek_v4: {
    pairing: "interleaved",
    headDim: 512,
    form: { kind: "main-and-compress" },
    pattern: { kind: "compress-ratios" },
  },
  diffusion_gemma: GEMMA4,
  dots1: {},
  emu3: { theta: 1e6 },
  ernie4_5: { pairing: "interleaved", theta: 500000, headDim: 128 },
  ernie4_5_moe: { pairing: "interleaved", theta: 500000 },
  ernie4_5_vl_moe: {
    pairing: "interleaved",
    theta: 500000,
    mrope: { layout: "ernie", section: [22, 22, 20] },
  },
  exaone4: { rotates: "sliding-if-any", pattern: EVERY_FOURTH },
  exaone_moe: { rotates: "sliding-if-any", pattern: EVERY_FOURTH },
  flex_olmo: { theta: 500000 },
  fuyu: { partial: 0.5, theta: 25000 },
  gemma: { headDim: 256 },
  gemma2: { headDim: 256 },
  gemma3: GEMMA3,
  gemma3n: { ...GEMMA3, pattern: { kind: "every", key: null, interval: 5 } },
  gemma4: GEMMA4,
  gemma4_unified: GEMMA4,
  glm: { pairing: "interleaved", partial: 0.5, headDim: 128 },
  glm4: { pairing: "interleaved", partial: 0.5, headDim: 128 },
  glm4_moe: { partial: 0.5 },
  glm4_moe_lite: mla("by-flag"),
  glm4v: { pairing: "interleaved", mrope: chunked([8, 12, 12]) },
  glm4v_moe: { partial: 0.5, mrope: chunked([8, 12, 12]) },
  glm_moe_dsa: mla("interleaved"),
  glm_ocr: { pairing: "interleaved", mrope: chunked([8, 12, 12]) },
  gpt_neox: { thetaKey: "rotary_emb_base", partial: 0.25, partialKey: "rotary_pct" },
  gpt_neox_japanese: { thetaKey: "rotary_emb_base", partialKey: "rotary_pct" },
  gpt_oss: { theta: 150000, headDim: 64, parameters: GPT_OSS_PARAMETERS },
  gptj: { pairing: "interleaved" },
  granitemoehybrid: { rotates: "by-embedding-type" },
  gte: { theta: 160000 },
  helium: { pairing: "interleaved", theta: 100000, headDim: 128 },
  hunyuan_v1_dense: HUNYUAN,
  hunyuan_v1_moe: HUNYUAN,
  hy_v3: { theta: 11158840, headDim: 128 },
  hy_v4: mla("half"),
  jetmoe: { headDim: 128 },
  kimi_k2: mla("interleaved"),
  laguna: {
    headDim: 128,
    pattern: { kind: "all-full" },
    form: {
      kind: "per-type",
      defaults: {
        full_attention: { rope_type: "default", rope_theta: 500000, partial_rotary_factor: 0.5 },
        sliding_attention: { rope_type: "default", rope_theta: 1e4, partial_rotary_factor: 1 },
      },
    },
  },
  lfm2: { theta: 1e6 },
  lfm2_moe: { theta: 1e6 },
  llama4: { pairing: "interleaved", theta: 500000, headDim: 128, rotates: "no-rope-list", nopeTemperature: true },
  longcat_flash: mla("interleaved", 64, { theta: 1e7 }),
  mellum: {
    headDim: 128,
    pattern: { kind: "all-full" },
    form: {
      kind: "per-type",
      defaults: {
        full_attention: { rope_type: "default", rope_theta: 500000 },
        sliding_attention: { rope_type: "default", rope_theta: 1e4 },
      },
    },
  },
  mimo_v2_flash: {
    headDim: 192,
    partial: 0.334,
    pattern: { kind: "mimo" },
    form: {
      kind: "per-type",
      defaults: {
        full_attention: { rope_type: "default", rope_theta: 5e6, partial_rotary_factor: 0.334 },
        sliding_attention: { rope_type: "default", rope_theta: 1e4, partial_rotary_factor: 0.334 },
      },
      thetaKeys: { full_attention: "rope_theta", sliding_attention: "swa_rope_theta" },
    },
  },
  minicpm3: mla("half", 32),
  minimax: { theta: 1e6 },
  minimax_m2: { theta: 5e6, headDim: 128 },
  minimax_m3_vl: { theta: 5e6, headDim: 128 },
  ministral3: {
    headDim: 128,
    parameters: mistralYarn(16, 16384, 1e6),
    extraKeys: ["llama_4_scaling_beta", "max_position_embeddings"],
  },
  mistral4: mla("by-flag", 64, {
    parameters: mistralYarn(128, 8192, 1e4),
    extraKeys: ["llama_4_scaling_beta", "max_position_embeddings"],
  }),
  mixtral: { theta: 1e6 },
  mllama: { theta: 500000 },
  modernbert: MODERNBERT,
  "modernbert-decoder": MODERNBERT,
  nemotron: { partial: 0.5 },
  olmo3: {
    pattern: { kind: "every", key: null, interval: 4 },
    form: {
      kind: "full-and-sliding",
      full: { key: "rope_theta", theta: 500000 },
      sliding: { key: null, theta: 500000 },
    },
  },
  openai_privacy_filter: { pairing: "interleaved", theta: 150000, headDim: 64, parameters: GPT_OSS_PARAMETERS },
  paddleocr_vl: { theta: 500000, headDim: 128, mrope: chunked([16, 24, 24]) },
  persimmon: { partial: 0.5 },
  phi: { partial: 0.5 },
  phi3: PHI3,
  phi4_multimodal: PHI3,
  phimoe: { theta: 1e6, extraKeys: ["short_mscale", "long_mscale"] },
  qwen2_vl: QWEN2_VL,
  qwen2_5_vl: QWEN2_VL,
  qwen2_5_omni: QWEN2_VL,
  qwen3: { headDim: 128 },
  qwen3_5: QWEN3_5,
  qwen3_5_moe: QWEN3_5,
  qwen3_next: { partial: 0.25, headDim: 256 },
  qwen3_omni_moe: { theta: 1e6, mrope: interleaved([24, 20, 20]), extraKeys: ["interleaved"] },
  qwen3_vl: QWEN3_VL,
  qwen3_vl_moe: { theta: 500000, mrope: interleaved([24, 20, 20]) },
  recurrent_gemma: { partial: 0.5 },
  seed_oss: { headDim: 128 },
  smollm3: { theta: 2e6, rotates: "no-rope-list" },
  solar_open: { theta: 1e6, headDim: 128 },
  stablelm: { partial: 0.25 },
  step3p5: { headDim: 128, pattern: { kind: "all-full" }, form: { kind: "per-layer-lists" } },
  step3p7: { headDim: 128, pattern: { kind: "all-full" }, form: { kind: "per-layer-lists" } },
  t5gemma2: GEMMA3,
  t5gemma2_decoder: GEMMA3,
  vaultgemma: { headDim: 256 },
  youtu: mla("by-flag"),
};

/** Model types that are as Llama: half-split, whole head, base 10000. */
const LIKE_LLAMA: ReadonlySet<string> = new Set(
  `arcee aria baichuan chameleon dbrx deepseek diffllama doge exaone falcon falcon_h1 granite granitemoe
  granitemoeshared hyperclovax idefics internlm internlm2 internlm3 jais2 llama minicpm ministral mistral
  olmo olmo2 olmoe phi-msft qwen2 qwen2_moe qwen3_moe starcoder2 yi`.split(/\s+/),
);

/**
 * The family of a model type; `undefined` for an unknown one. Text parts of multimodal models (`*_text`) are as the
 * model itself.
 */
export function familyOf(modelType: string): ConfigFamily | undefined {
  for (const name of [modelType, modelType.replace(/_text(_model)?$/, "")]) {
    if (Object.hasOwn(SPECIAL, name)) return SPECIAL[name];
    if (LIKE_LLAMA.has(name)) return {};
  }
  return undefined;
}
