/**
 * The block loop every family shares: embed, then per layer norm, project, rotate, attend, feed forward; then the
 * final norm and the output head. Families differ in their config and weights, not here.
 */

import { type Backend, type RotationTable, weightsToF32 } from "../engine/index.ts";
import { type Mask, sameSegment } from "../mask/index.ts";
import { type RotaryLayer, rotaryTable, temperatureScales } from "../rope/index.ts";
import { f32, reshape, rows, type Tensor, zeros } from "../tensor.ts";
import type { DecoderConfig, LayerConfig } from "./config.ts";
import type { DecoderWeights, LayerWeights, LinearWeights } from "./decoder-weights.ts";
import type { ModelCache } from "./model-cache.ts";
import { shareEqual } from "./share-equal.ts";

/** Tokens with their positions and segments; all three have one entry per token. */
export type TokenBatch = {
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  /** −1 is padding. */
  readonly segments: Int32Array;
};

/** Called after each layer with the residual stream f32 [T, C], which the next layer overwrites. */
export type LayerListener = (layer: number, hidden: Tensor<"f32">) => void;

/** Looks at a step as it is issued; what it wants to keep it must have copied by the backend, in order. */
export type StepObserver = {
  /** The queries f32 [T, H, D] of a layer, as attention uses them. */
  queries?(layer: number, queries: Tensor<"f32">): void;
  /** What goes into the projections of a layer, f32 [T, C]. */
  inputs?(layer: number, inputs: Tensor<"f32">): void;
};

/** Who looks at a step. */
export type StepListeners = {
  readonly onLayer?: LayerListener | undefined;
  readonly observer?: StepObserver | undefined;
};

/** Weights and config on a backend; the cache comes with each call. */
export class Decoder {
  readonly config: DecoderConfig;
  readonly #weights: DecoderWeights;
  readonly #backend: Backend;
  /** The layers' masks, kept inside the segments. */
  readonly #masks: readonly Mask[];
  /** The layers' rotations; equal ones are one object. */
  readonly #rotaries: readonly (RotaryLayer | null)[];
  #scratch: Scratch | undefined;

  constructor(config: DecoderConfig, weights: DecoderWeights, backend: Backend) {
    this.config = config;
    this.#masks = shareEqual(config.layers.map((layer) => layer.mask.and(sameSegment())));
    this.#rotaries = shareEqual(config.layers.map((layer) => layer.positions.rotary));
    this.#weights = weights;
    this.#backend = backend;
  }

  /**
   * Runs tokens through all layers, appending their keys and values to the cache.
   *
   * @param batch - T tokens
   * @param cache - holds the keys and values of earlier tokens
   * @param scheduleLength - the length that length-dependent rotary schedules are resolved for
   * @param logitsFrom - first token whose logits are wanted; T for none
   * @returns f32 [T − logitsFrom, V], the caller's own
   */
  async run(
    batch: TokenBatch,
    cache: ModelCache,
    scheduleLength: number,
    logitsFrom: number,
    { onLayer, observer }: StepListeners = {},
  ): Promise<Tensor<"f32">> {
    const { layers, normEps, vocabSize } = this.config;
    const { embedding, finalNorm, head } = this.#weights;
    const backend = this.#backend;
    const T = batch.tokens.length;
    const scratch = this.#scratchFor(T);
    const tableOf = this.#rotationTables(batch.positions, scheduleLength);

    const x = scratch.residual; // [T, C]
    backend.embed(x, embedding, batch.tokens);
    for (const [index, layer] of layers.entries()) {
      this.#attention(index, layer, this.#weights.layers[index], batch, cache, scratch, tableOf, observer);
      this.#feedForward(layer, this.#weights.layers[index], scratch);
      if (onLayer) {
        await backend.flush();
        onLayer(index, x);
      }
    }

    const wanted = T - logitsFrom;
    if (wanted === 0) {
      await backend.flush();
      return zeros("f32", [0, vocabSize]);
    }
    const logits = backend.allocate([wanted, vocabSize]);
    try {
      const normed = rows(scratch.normed, 0, wanted);
      backend.rmsNorm(normed, rows(x, logitsFrom, T), finalNorm, normEps);
      backend.linear(logits, normed, head);
      await backend.flush();
      return f32(logits.shape, logits.data);
    } finally {
      backend.release(logits);
    }
  }

  /** f32 [C, H·D], the weight of a layer's output projection; a copy where it is kept in another type. */
  outputProjection(layer: number): Float32Array {
    return weightsToF32(this.#weights.layers[layer].output.weight);
  }

  /** The gains of the norms, which tell one checkpoint from another. */
  *normWeights(): Generator<Float32Array> {
    for (const { attentionNorm, feedForwardNorm } of this.#weights.layers) {
      yield attentionNorm.data;
      yield feedForwardNorm.data;
    }
    yield this.#weights.finalNorm.data;
  }

  /** The first numbers of the weights of queries, in the type they are kept in. */
  *querySamples(): Generator<ArrayBufferView> {
    for (const { query } of this.#weights.layers) yield query.weight.data.subarray(0, 1024);
  }

  /** residual += attention(norm(residual)). */
  #attention(
    index: number,
    layer: LayerConfig,
    weights: LayerWeights,
    { positions, segments }: TokenBatch,
    cache: ModelCache,
    scratch: Scratch,
    tableOf: (rotary: RotaryLayer) => RotationTable,
    observer: StepObserver | undefined,
  ): void {
    const backend = this.#backend;
    const { heads, kvHeads, headDim } = layer;
    const T = positions.length;
    const x = scratch.residual;
    const normed = scratch.normed;
    backend.rmsNorm(normed, x, weights.attentionNorm, this.config.normEps);
    observer?.inputs?.(index, normed);

    const q = scratch.take("query", [T, heads, headDim]);
    const k = scratch.take("key", [T, kvHeads, headDim]);
    const v = scratch.take("value", [T, kvHeads, headDim]);
    this.#linear(q, normed, weights.query);
    this.#linear(k, normed, weights.key);
    this.#linear(v, normed, weights.value);
    if (weights.queryNorm) backend.rmsNorm(q, q, weights.queryNorm, this.config.normEps);
    if (weights.keyNorm) backend.rmsNorm(k, k, weights.keyNorm, this.config.normEps);

    const { queryTemperature } = layer.positions;
    const rotary = this.#rotaries[index];
    if (rotary) {
      const table = tableOf(rotary);
      backend.rotate(q, table);
      backend.rotate(k, table);
    }
    if (queryTemperature) backend.scaleRows(q, temperatureScales(queryTemperature, positions));
    observer?.queries?.(index, q);

    cache.append(index, { keys: k, values: v, positions, segments });
    const attended = scratch.take("attended", [T, heads, headDim]);
    backend.attend(attended, {
      q,
      kv: cache.attended(index),
      queryPositions: positions,
      querySegments: segments,
      mask: this.#masks[index],
      scale: layer.scale,
    });
    this.#linear(normed, attended, weights.output);
    backend.add(x, x, normed);
  }

  /** residual += down(activation(gate(norm(residual))) · up(norm(residual))). */
  #feedForward(layer: LayerConfig, weights: LayerWeights, scratch: Scratch): void {
    const backend = this.#backend;
    const x = scratch.residual;
    const normed = scratch.normed;
    const T = x.shape[0];
    backend.rmsNorm(normed, x, weights.feedForwardNorm, this.config.normEps);
    const gate = scratch.take("gate", [T, layer.intermediateSize]);
    const up = scratch.take("up", [T, layer.intermediateSize]);
    this.#linear(gate, normed, weights.gate);
    this.#linear(up, normed, weights.up);
    backend.gate(gate, gate, up, layer.activation);
    this.#linear(normed, gate, weights.down);
    backend.add(x, x, normed);
  }

  #linear(out: Tensor<"f32">, x: Tensor<"f32">, { weight, bias }: LinearWeights): void {
    const [N, K] = weight.shape;
    const T = x.data.length / K;
    this.#backend.linear(reshape(out, [T, N]), reshape(x, [T, K]), weight, bias);
  }

  /** Tables of this step, one for each different rotation among the layers. */
  #rotationTables(positions: Int32Array, length: number): (rotary: RotaryLayer) => RotationTable {
    const tables = new Map<RotaryLayer, RotationTable>();
    return (rotary) => {
      let table = tables.get(rotary);
      if (table === undefined) {
        table = rotaryTable(rotary, positions, { length });
        tables.set(rotary, table);
      }
      return table;
    };
  }

  #scratchFor(T: number): Scratch {
    if (this.#scratch?.residual.shape[0] === T) return this.#scratch;
    this.#scratch?.release();
    this.#scratch = undefined;
    this.#scratch = new Scratch(this.#backend, T, this.config.hiddenSize);
    return this.#scratch;
  }
}

/** Activations of one step length, allocated once and reused by every layer and step. */
class Scratch {
  readonly residual: Tensor<"f32">;
  readonly normed: Tensor<"f32">;
  readonly #backend: Backend;
  readonly #named = new Map<string, Tensor<"f32">>();

  constructor(backend: Backend, T: number, hiddenSize: number) {
    this.#backend = backend;
    this.residual = backend.allocate([T, hiddenSize]);
    this.normed = backend.allocate([T, hiddenSize]);
  }

  release(): void {
    for (const t of [this.residual, this.normed, ...this.#named.values()]) this.#backend.release(t);
  }

  take(name: string, shape: readonly number[]): Tensor<"f32"> {
    const key = `${name}:${shape.join()}`;
    let found = this.#named.get(key);
    if (found === undefined) {
      found = this.#backend.allocate(shape);
      this.#named.set(key, found);
    }
    return found;
  }
}
