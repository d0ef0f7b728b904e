/** Flax NNX and jax.random: random numbers, rotary positions, multi-head attention, decoding. */

import { type BackendName, createEngine, type Engine } from "phasor/engine";
import { causal } from "phasor/mask";
import {
  type AttentionFunction,
  type AttentionFunctionOptions,
  dotProductAttentionWithRope,
  initializers,
  Linear,
  MultiHeadAttention,
  type MultiHeadAttentionOptions,
  mhaRope,
  nestParameters,
  Rngs,
  RoPE,
} from "phasor/nn";
import type { CaseInput, GoldenTensor, SuiteRunner, Values } from "../case.ts";
import { nnxRngs, prng, threefry } from "./flax-random.ts";

type Outputs = Record<string, Values>;
type Dense = { readonly dtype: "f32"; readonly shape: readonly number[]; readonly data: Float32Array };

/** Parameters of a case with modules. */
type ModuleParams = {
  kind: string;
  num_heads: number;
  num_kv_heads?: number;
  in_features: number;
  qkv_features: number;
  out_features?: number;
  in_kv_features?: number;
  use_bias: boolean;
  normalize_qk?: boolean;
  is_causal?: boolean;
  params_from?: string;
  seed?: number;
  max_length: number;
  theta: number;
  d_model: number;
  base: number;
  pairing?: "half" | "interleaved";
};

const KINDS: Record<string, SuiteRunner> = {
  mha,
  mha_decode,
  mha_rope,
  prng,
  threefry,
  nnx_rngs: nnxRngs,
  rope,
  rope_mha,
};

/** Computes every tensor a Flax case may expect. */
export const flax: SuiteRunner = async (input) => {
  const { kind } = input.params as ModuleParams;
  const run = KINDS[kind];
  if (run === undefined) throw new Error(`unknown kind ${kind}`);
  return run(input);
};

async function mha(input: CaseInput): Promise<Outputs> {
  const params = input.params as ModuleParams;
  const fromSeed = params.params_from?.startsWith("nnx.Rngs") === true;
  const module = await moduleOf(input, { fromSeed });
  const call = {
    ...(input.has("inputs_k") ? { inputsK: dense(input.tensor("inputs_k")) } : {}),
    ...(input.has("inputs_v") ? { inputsV: dense(input.tensor("inputs_v")) } : {}),
    mask: [...(params.is_causal ? [causal()] : []), ...maskOf(input)],
  };
  const { out } = await module.forward(dense(input.tensor("inputs_q")), call);
  return { out: out.data, ...(fromSeed ? parametersOf(module) : {}) };
}

async function mha_decode(input: CaseInput): Promise<Outputs> {
  const module = await moduleOf(input, {});
  const inputs = dense(input.tensor("inputs"));
  const [B] = inputs.shape;
  const cache = module.initCache({ batch: [B], maxLength: (input.params as ModuleParams).max_length });
  return {
    out_steps: await stepByStep(inputs, async (x) => (await module.forward(x, { cache })).out),
    cached_key: cache.keys.data,
    cached_value: cache.values.data,
    cache_index: [cache.length],
  };
}

async function mha_rope(input: CaseInput): Promise<Outputs> {
  const { seed = 0, num_heads: heads, d_model: width, base } = input.params as ModuleParams;
  const rngs = new Rngs(seed);
  const parameters: Outputs = {};
  for (const name of ["q_proj", "k_proj", "v_proj", "out_proj"]) {
    const { kernel, bias } = new Linear(width, width, { rngs });
    parameters[`${name}.kernel`] = kernel.data;
    parameters[`${name}.bias`] = (bias as Dense).data;
  }
  const out = mhaRope(seed, dense(input.tensor("x")), heads, width, base);
  return { out_flat: out.data, ...parameters };
}

async function rope(input: CaseInput): Promise<Outputs> {
  const { theta, pairing = "half" } = input.params as ModuleParams;
  const [q, k, v] = ["q", "k", "v"].map((name) => dense(input.tensor(name)));
  const [queryPositions, keyPositions] = ["q_pos", "k_pos"].map((name) => input.tensor(name).data);
  const module = new RoPE({ headDim: q.shape.at(-1) as number, theta, pairing });
  const attend = dotProductAttentionWithRope({ rope: module });
  const engine = await engineOf(input.backend);
  const options: AttentionFunctionOptions = { queryPositions, keyPositions, mask: maskOf(input), ...engine };
  const { out } = await attend(q, k, v, options);
  return {
    q_rot: module.forward(q, { positions: queryPositions }).data,
    k_rot: module.forward(k, { positions: keyPositions }).data,
    out: out.data,
  };
}

/** The full pass must equal the golden output, and so must decoding one token at a time. */
async function rope_mha(input: CaseInput): Promise<Outputs> {
  const { num_heads: heads, qkv_features: width, theta, pairing = "half" } = input.params as ModuleParams;
  const attend = dotProductAttentionWithRope({ rope: new RoPE({ headDim: width / heads, theta, pairing }) });
  const module = await moduleOf(input, { attend });
  const inputs = dense(input.tensor("inputs"));
  const [B, T] = inputs.shape;
  const { out } = await module.forward(inputs, { mask: causal() });
  const cache = module.initCache({ batch: [B], maxLength: T });
  const steps = await stepByStep(inputs, async (x) => (await module.forward(x, { cache })).out);
  const worst = Math.max(...steps.map((value, i) => Math.abs(value - out.data[i])));
  if (!(worst < 1e-5)) throw new Error(`decoding differs from the full pass by ${worst}`);
  return { out: out.data };
}

async function moduleOf(
  input: CaseInput,
  { fromSeed = false, attend }: { fromSeed?: boolean; attend?: AttentionFunction },
): Promise<MultiHeadAttention> {
  const params = input.params as ModuleParams;
  const optional = {
    numKvHeads: params.num_kv_heads,
    outFeatures: params.out_features,
    inKvFeatures: params.in_kv_features,
    qkNorm: params.normalize_qk ? "layer" : undefined,
    attentionFunction: attend,
  };
  const module = new MultiHeadAttention({
    numHeads: params.num_heads,
    inFeatures: params.in_features,
    qkvFeatures: params.qkv_features,
    useBias: params.use_bias,
    rngs: new Rngs(params.seed ?? 0),
    ...(fromSeed ? {} : { kernelInit: initializers.zeros() }),
    ...(await engineOf(input.backend)),
    ...(Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)) as object),
  } as MultiHeadAttentionOptions);
  if (!fromSeed) {
    const names = input.names.filter((name) => name.includes("."));
    module.load(nestParameters(Object.fromEntries(names.map((name) => [name, dense(input.tensor(name))]))));
  }
  return module;
}

function parametersOf(module: MultiHeadAttention): Outputs {
  const outputs: Outputs = {};
  for (const [layer, group] of Object.entries(module.parameters())) {
    for (const [name, parameter] of Object.entries(group)) outputs[`${layer}.${name}`] = parameter.data;
  }
  return outputs;
}

/** Runs [B, T, C] one token at a time; the rows as [B, T, out]. */
async function stepByStep(inputs: Dense, step: (x: Dense) => Promise<Dense>): Promise<number[]> {
  const [B, T, C] = inputs.shape;
  const rows: number[][][] = Array.from({ length: B }, () => []);
  for (let t = 0; t < T; t++) {
    const data = new Float32Array(B * C);
    for (let b = 0; b < B; b++) data.set(inputs.data.subarray((b * T + t) * C, (b * T + t + 1) * C), b * C);
    const out = await step({ dtype: "f32", shape: [B, 1, C], data });
    const width = out.data.length / B;
    for (let b = 0; b < B; b++) rows[b].push([...out.data.subarray(b * width, (b + 1) * width)]);
  }
  return rows.flat(2);
}

function maskOf({ has, tensor }: CaseInput): { dtype: "u8"; shape: readonly number[]; data: Uint8Array }[] {
  if (!has("mask")) return [];
  const { shape, data } = tensor("mask");
  return [{ dtype: "u8", shape, data: Uint8Array.from(data) }];
}

const engines = new Map<string, Promise<Engine>>();

/** An engine where one is asked for; the reference is what the modules compute with themselves. */
async function engineOf(backend: string): Promise<{ engine?: Engine }> {
  if (backend === "reference") return {};
  const known = engines.get(backend) ?? createEngine({ backend: backend as BackendName });
  engines.set(backend, known);
  return { engine: await known };
}

function dense({ shape, data }: GoldenTensor): Dense {
  return { dtype: "f32", shape, data: Float32Array.from(data) };
}
