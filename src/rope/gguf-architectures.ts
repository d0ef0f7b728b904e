/**
 * What GGUF does not say and llama.cpp knows by architecture: pairing, layers without rotation, layers with a
 * sliding window.
 *
 * @see https://github.com/ggml-org/llama.cpp/blob/master/src/llama-model.cpp (llama_model_rope_type)
 */

import type { Pairing } from "./layer.ts";
import type { MropeLayout } from "./mrope.ts";

/** Facts about one architecture; absent fields have the commonest value. */
export type GgufArchitecture = {
  readonly pairing: Pairing;
  readonly mrope?: MropeLayout;
  /** Layers that do not rotate: every n-th, or the full ones of a sliding pattern. */
  readonly nope?: { readonly every: number } | "full-layers";
  /** Every n-th layer is full and the others slide, unless the file has a pattern. */
  readonly slidingEvery?: number;
  /** Sliding layers have this base unless the file has one, and no scaling. */
  readonly slidingTheta?: number;
  /** Scaling applies to full layers only. */
  readonly plainSliding?: true;
  /** Multi-head latent attention; YaRN also scales the softmax. */
  readonly mla?: true;
  /** Which layers have a query temperature, if the file has its keys. */
  readonly temperature?: "nope-layers" | "all";
  /** YaRN's ramp is not rounded to whole pairs. */
  readonly exactRamp?: true;
  /** The rotated dims are the last of the head. */
  readonly rotatesLast?: true;
};

const INTERLEAVED = `arcee arctic bailingmoe baichuan chameleon chatglm command-r deci deepseek ernie4_5 ernie4_5-moe
glm4 granite granitehybrid granitemoe internlm2 llama llama-embed maincoder minicpm nanbeige olmo plm
starcoder xverse`;

const HALF = `apertus bailingmoe2 bitnet codeshell dbrx dots1 dream exaone falcon falcon-h1 gemma gemma2 glm4moe
gptneox grok grovemoe hunyuan-dense hunyuan-moe hy_v3 jais2 lfm2 lfm2moe llada-moe minicpm3 minimax-m2
nemotron olmoe openelm orion pangu-embedded phi2 phi3 phimoe plamo qwen qwen2 qwen2moe qwen3 qwen3moe qwen3next rnd1
seed_oss stablelm starcoder2`;

const SPECIAL: Readonly<Record<string, GgufArchitecture>> = {
  afmoe: { pairing: "half", nope: "full-layers", slidingEvery: 4 },
  cohere2: { pairing: "interleaved", nope: "full-layers", slidingEvery: 4 },
  deepseek2: { pairing: "interleaved", mla: true, rotatesLast: true, temperature: "all" },
  deepseek32: { pairing: "interleaved", mla: true, rotatesLast: true },
  exaone4: { pairing: "half", nope: "full-layers", slidingEvery: 4 },
  gemma3: { pairing: "half", slidingEvery: 6, slidingTheta: 10000, plainSliding: true },
  gemma3n: { pairing: "half", slidingEvery: 5, slidingTheta: 10000, plainSliding: true },
  "glm-dsa": { pairing: "interleaved", mla: true, rotatesLast: true },
  "gpt-oss": { pairing: "half", exactRamp: true },
  llama4: { pairing: "interleaved", nope: { every: 4 }, temperature: "nope-layers" },
  mistral3: { pairing: "interleaved", temperature: "all" },
  mistral4: { pairing: "interleaved", mla: true, rotatesLast: true, temperature: "all" },
  olmo2: { pairing: "half", slidingEvery: 4, plainSliding: true },
  qwen2vl: { pairing: "half", mrope: "chunked" },
  qwen35: { pairing: "half", mrope: "interleaved" },
  qwen35moe: { pairing: "half", mrope: "interleaved" },
  qwen3vl: { pairing: "half", mrope: "interleaved" },
  qwen3vlmoe: { pairing: "half", mrope: "interleaved" },
  smollm3: { pairing: "interleaved", nope: { every: 4 } },
};

/** The architecture of that name (`general.architecture`); `undefined` for an unknown one. */
export function ggufArchitecture(name: string): GgufArchitecture | undefined {
  if (Object.hasOwn(SPECIAL, name)) return SPECIAL[name];
  if (INTERLEAVED.split(/\s+/).includes(name)) return { pairing: "interleaved" };
  if (HALF.split(/\s+/).includes(name)) return { pairing: "half" };
  return undefined;
}
