/**
 * A small decoder in f64 that shows everything compression looks at: the goldens' models are Llama-like and
 * Qwen3-like, and policies need queries and keys before and after rotation. Keys and values are f32, per head.
 */

import { join } from "node:path";
import { type HeadRows, headMajorRows } from "phasor/compress";
import { openModelFolder, openSafetensors } from "phasor/model";
import { positionsFromConfig, type RotaryLayer, rotaryTable, rotate } from "phasor/rope";

/** What one layer computed for T tokens, token by token. */
export type LayerStates = {
  /** [T, C] input of the projections, after the norm. */
  readonly hidden: Float32Array;
  /** [T, H, D]. */
  readonly queriesBefore: Float32Array;
  /** [T, Hk, D]. */
  readonly keysBefore: Float32Array;
  /** [T, H, D] rotated. */
  readonly queries: Float32Array;
  /** [T, Hk, D] rotated. */
  readonly keys: Float32Array;
  /** [T, Hk, D]. */
  readonly values: Float32Array;
};

/** Rows of one layer, each head with its own. */
export type LayerCache = { readonly keys: Float32Array[][]; readonly values: Float32Array[][]; positions: number[][] };

type Config = {
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  hidden_size: number;
  head_dim: number;
  intermediate_size: number;
  vocab_size: number;
  rms_norm_eps: number;
  tie_word_embeddings: boolean;
};

/** The decoder of one model folder. */
export class GoldenDecoder {
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly scale: number;
  readonly #config: Config;
  readonly #json: unknown;
  readonly #weights: ReadonlyMap<string, Float32Array>;

  private constructor(json: unknown, weights: ReadonlyMap<string, Float32Array>) {
    this.#json = json;
    this.#config = json as Config;
    this.#weights = weights;
    const config = this.#config;
    this.layers = config.num_hidden_layers;
    this.heads = config.num_attention_heads;
    this.kvHeads = config.num_key_value_heads;
    this.headDim = config.head_dim;
    this.hiddenSize = config.hidden_size;
    this.vocabSize = config.vocab_size;
    this.scale = this.#positions(0).softmaxScaleFactor / Math.sqrt(this.headDim);
  }

  /** Reads config.json and model.safetensors. */
  static async load(folder: string, name: string): Promise<GoldenDecoder> {
    const files = await openModelFolder(join(folder, "models", name));
    const opened = await openSafetensors(await files.open("model.safetensors"));
    const weights = new Map<string, Float32Array>();
    for (const tensor of opened.tensors.keys()) {
      weights.set(tensor, Float32Array.from((await opened.read(tensor)).data as Float32Array));
    }
    return new GoldenDecoder(await files.readJson("config.json", 2 ** 20), weights);
  }

  /** The rotation of a layer. */
  rotary(layer: number): RotaryLayer | null {
    return this.#positions(layer).rotary;
  }

  /** [C, H·D]. */
  outputProjection(layer: number): Float32Array {
    return this.#weight(`model.layers.${layer}.self_attn.o_proj.weight`);
  }

  /** An empty cache. */
  createCache(): LayerCache[] {
    const heads = (): never[][] => Array.from({ length: this.kvHeads }, () => []);
    return Array.from({ length: this.layers }, () => ({ keys: heads(), values: heads(), positions: heads() }));
  }

  /** Runs tokens, appends them to the cache, and gives each layer's states and all logits [T, V]. */
  forward(
    tokens: ArrayLike<number>,
    positions: ArrayLike<number>,
    cache: LayerCache[],
  ): { states: LayerStates[]; logits: Float64Array } {
    const { hiddenSize: C, vocabSize: V } = this;
    const embedding = this.#weight("model.embed_tokens.weight");
    const x = new Float64Array(tokens.length * C);
    for (let t = 0; t < tokens.length; t++) x.set(embedding.subarray(tokens[t] * C, (tokens[t] + 1) * C), t * C);
    const states = cache.map((layerCache, layer) => this.#layer(x, layer, positions, layerCache));
    const head = this.#config.tie_word_embeddings ? embedding : this.#weight("lm_head.weight");
    return { states, logits: linear(this.#norm(x, "model.norm.weight"), head, C, V) };
  }

  #layer(x: Float64Array, layer: number, positions: ArrayLike<number>, cache: LayerCache): LayerStates {
    const { hiddenSize: C, heads: H, kvHeads: Hk, headDim: D } = this;
    const at = `model.layers.${layer}`;
    const hidden = this.#norm(x, `${at}.input_layernorm.weight`);
    const project = (name: string, count: number): Float64Array => {
      const out = linear(hidden, this.#weight(`${at}.self_attn.${name}_proj.weight`), C, count * D);
      const bias = this.#weights.get(`${at}.self_attn.${name}_proj.bias`);
      if (bias) for (let n = 0; n < out.length; n++) out[n] += bias[n % bias.length];
      return this.#weights.has(`${at}.self_attn.${name}_norm.weight`)
        ? this.#norm(out, `${at}.self_attn.${name}_norm.weight`)
        : out;
    };
    const queriesBefore = Float32Array.from(project("q", H));
    const keysBefore = Float32Array.from(project("k", Hk));
    const values = Float32Array.from(project("v", Hk));
    const rotary = this.rotary(layer);
    const turn = (rows: Float32Array, heads: number): Float32Array =>
      rotary === null ? rows : rotate(rows, rotaryTable(rotary, positions), { heads, headDim: D });
    const queries = turn(queriesBefore, H);
    const keys = turn(keysBefore, Hk);
    for (let t = 0; t < positions.length; t++) {
      for (let head = 0; head < Hk; head++) {
        const row = (t * Hk + head) * D;
        cache.keys[head].push(keys.slice(row, row + D));
        cache.values[head].push(values.slice(row, row + D));
        cache.positions[head].push(positions[t]);
      }
    }
    addTo(x, linear(this.#attend(queries, positions, cache), this.outputProjection(layer), H * D, C));
    this.#feedForward(x, at);
    return { hidden: Float32Array.from(hidden), queriesBefore, keysBefore, queries, keys, values };
  }

  #attend(queries: Float32Array, positions: ArrayLike<number>, cache: LayerCache): Float64Array {
    const { heads: H, kvHeads: Hk, headDim: D } = this;
    const out = new Float64Array(queries.length);
    for (let row = 0; row < queries.length / D; row++) {
      const head = Math.floor(((row % H) * Hk) / H);
      const position = positions[Math.floor(row / H)];
      const visible = Array.from(cache.positions[head].keys()).filter((t) => cache.positions[head][t] <= position);
      const scores = visible.map((t) => {
        let score = 0;
        for (let d = 0; d < D; d++) score += queries[row * D + d] * cache.keys[head][t][d];
        return score * this.scale;
      });
      const max = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - max));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (const [n, t] of visible.entries()) {
        for (let d = 0; d < D; d++) out[row * D + d] += (weights[n] / total) * cache.values[head][t][d];
      }
    }
    return out;
  }

  #feedForward(x: Float64Array, at: string): void {
    const { hidden_size: C, intermediate_size: F } = this.#config;
    const normed = this.#norm(x, `${at}.post_attention_layernorm.weight`);
    const gate = linear(normed, this.#weight(`${at}.mlp.gate_proj.weight`), C, F);
    const up = linear(normed, this.#weight(`${at}.mlp.up_proj.weight`), C, F);
    const inner = gate.map((g, n) => (g / (1 + Math.exp(-g))) * up[n]);
    addTo(x, linear(inner, this.#weight(`${at}.mlp.down_proj.weight`), F, C));
  }

  /** RMS norm over rows as wide as the weight. */
  #norm(x: Float64Array, name: string): Float64Array {
    const weight = this.#weight(name);
    const width = weight.length;
    const out = new Float64Array(x.length);
    for (let row = 0; row < x.length; row += width) {
      let squares = 0;
      for (let n = 0; n < width; n++) squares += x[row + n] ** 2;
      const scale = 1 / Math.sqrt(squares / width + this.#config.rms_norm_eps);
      for (let n = 0; n < width; n++) out[row + n] = x[row + n] * scale * weight[n];
    }
    return out;
  }

  #positions(layerIndex: number): ReturnType<typeof positionsFromConfig> {
    return positionsFromConfig(this.#json, { layerIndex, headDim: this.#config.head_dim });
  }

  #weight(name: string): Float32Array {
    const weight = this.#weights.get(name);
    if (weight === undefined) throw new Error(`the model has no tensor ${name}`);
    return weight;
  }
}

/** A copy that can grow on its own. */
export function copyCache(cache: readonly LayerCache[]): LayerCache[] {
  return cache.map(({ keys, values, positions }) => ({
    keys: keys.map((rows) => rows.slice()),
    values: values.map((rows) => rows.slice()),
    positions: positions.map((rows) => rows.slice()),
  }));
}

/** Rows of every head as a policy sees them. */
export function rowsOf(heads: readonly Float32Array[][], dim: number): HeadRows {
  return headMajorRows(Float32Array.from(heads.flatMap((rows) => rows.flatMap((row) => [...row]))), heads.length, dim);
}

/** [T, N] = x [T, K] · weightᵀ [N, K]. */
function linear(x: Float64Array, weight: Float32Array, K: number, N: number): Float64Array {
  const T = x.length / K;
  const out = new Float64Array(T * N);
  for (let t = 0; t < T; t++) {
    for (let n = 0; n < N; n++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += x[t * K + k] * weight[n * K + k];
      out[t * N + n] = sum;
    }
  }
  return out;
}

function addTo(x: Float64Array, added: Float64Array): void {
  for (let n = 0; n < x.length; n++) x[n] += added[n];
}
