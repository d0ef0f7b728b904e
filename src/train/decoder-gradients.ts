/**
 * A decoder's loss and its gradients: the block loop forwards, the cross-entropy in chunks of rows so that the logits
 * of a whole batch never exist, and the loop back.
 *
 * One call issues one batch as operations of the backend's queue; nothing is allocated after the first.
 */

import type { RotationTable, TrainingBackend } from "../engine/index.ts";
import { CapabilityError, ShapeError } from "../errors.ts";
import { type Mask, sameSegment } from "../mask/index.ts";
import type { DecoderWeights } from "../model/decoder-weights.ts";
import type { DecoderConfig } from "../model/index.ts";
import { shareEqual } from "../model/share-equal.ts";
import type { RotaryLayer } from "../rope/index.ts";
import { rows, type Tensor } from "../tensor.ts";
import { type LayerActivations, LayerGradients, type LayerPass, trainable } from "./layer-gradients.ts";
import type { PackedBatch } from "./packed-batch.ts";
import type { Parameters } from "./parameters.ts";
import { RotationRows } from "./rotation-rows.ts";
import { StepBuffers } from "./step-buffers.ts";

/** What is trained. */
export type GradientModel = {
  readonly config: DecoderConfig;
  readonly weights: DecoderWeights;
  readonly parameters: Parameters;
  readonly backend: TrainingBackend;
};

/** How batches look and what is kept of them. */
export type GradientOptions = {
  /** T, tokens of a batch. */
  readonly tokens: number;
  /** Positions are below; schedules that depend on the length are resolved for it. */
  readonly contextTokens: number;
  /** Keep only the layers' inputs and compute the rest again on the way back; false unless told. */
  readonly recompute?: boolean;
  /** Record every head's largest score; false unless told. */
  readonly recordScores?: boolean;
  /** Rows of logits held at a time; as many as fit into 8 MiB when absent. */
  readonly logitRows?: number;
};

/** Logits held at a time unless told. */
const LOGITS = 2 ** 21;

/** Issues losses and gradients of batches of one size. */
export class DecoderGradients {
  /** f32 [T], the loss of every prediction of the last batch; to be read after `flush`. */
  readonly losses: Tensor<"f32">;
  readonly #model: GradientModel;
  readonly #options: GradientOptions;
  readonly #buffers: StepBuffers;
  readonly #layers: LayerGradients;
  readonly #masks: readonly Mask[];
  readonly #rotaries: readonly (RotaryLayer | null)[];
  readonly #rotations = new Map<RotaryLayer, RotationRows>();
  readonly #activations: readonly LayerActivations[];
  /** L + 1 of [T, C]: the residual stream before each layer, and after the last. */
  readonly #streams: readonly Tensor<"f32">[];

  /** @throws CapabilityError when the decoder has parts that have no gradient here */
  constructor(model: GradientModel, options: GradientOptions) {
    refuseUnknownParts(model);
    const { config, weights, parameters, backend } = model;
    const { tokens: T, contextTokens, recompute = false } = options;
    this.#model = model;
    this.#options = options;
    this.#masks = shareEqual(config.layers.map((layer) => layer.mask.and(sameSegment())));
    this.#rotaries = shareEqual(config.layers.map((layer) => layer.positions.rotary));
    for (const rotary of this.#rotaries) {
      if (rotary && !this.#rotations.has(rotary)) {
        this.#rotations.set(rotary, new RotationRows(rotary, contextTokens, T));
      }
    }
    this.#buffers = new StepBuffers(backend);
    this.losses = this.#buffers.take("losses", [T]);
    this.#layers = new LayerGradients(backend, this.#buffers, parameters, [T, config.hiddenSize]);
    this.#streams = Array.from({ length: config.layers.length + 1 }, (_, n) => {
      return this.#buffers.take(`stream ${n}`, [T, config.hiddenSize]);
    });
    this.#activations = config.layers.map((layer, n) => {
      return this.#layers.activations(layer, weights.layers[n], recompute ? "layer" : `layer ${n}`);
    });
  }

  /** Bytes of activations. */
  get bytes(): number {
    return this.#buffers.bytes;
  }

  /** Issues a batch's losses. */
  evaluate(batch: PackedBatch): void {
    this.#forward(batch);
    this.#loss(batch, false);
  }

  /** Issues a batch's losses, and adds the gradients of their weighted sum to the parameters'. */
  accumulate(batch: PackedBatch): void {
    const { config, weights, parameters, backend } = this.#model;
    const passes = this.#forward(batch);
    const dx = this.#loss(batch, true);
    for (let n = config.layers.length - 1; n >= 0; n--) {
      const x = this.#streams[n];
      const kept = this.#activations[n];
      // The last layer's are still there.
      if (this.#options.recompute && n < config.layers.length - 1) this.#layers.forward(x, kept, passes[n]);
      this.#layers.backward(dx, x, kept, passes[n]);
    }
    backend.embedBackward(parameters.gradientOf(weights.embedding), dx, batch.tokens);
  }

  /** f32 [T, H], after `flush`: `STEEP` times the largest score of every row of a layer; with `recordScores`. */
  scores(layer: number): Tensor<"f32"> {
    return this.#buffers.take(`scores ${layer}`, this.#activations[layer].lse.shape);
  }

  /** Gives the memory of the activations back. */
  release(): void {
    this.#buffers.release();
  }

  #forward(batch: PackedBatch): LayerPass[] {
    this.#check(batch);
    const { config, weights, backend } = this.#model;
    const tables = new Map<RotaryLayer | null, RotationTable>();
    for (const [rotary, picked] of this.#rotations) tables.set(rotary, picked.at(batch.positions));
    const passes = config.layers.map((layer, n): LayerPass => {
      const rotation = tables.get(this.#rotaries[n]);
      const mask = this.#masks[n];
      return { config: layer, weights: weights.layers[n], mask, batch, rotation, normEps: config.normEps };
    });
    backend.embed(this.#streams[0], weights.embedding, batch.tokens);
    for (const [n, pass] of passes.entries()) {
      const kept = this.#activations[n];
      this.#layers.forward(this.#streams[n], kept, pass);
      if (this.#options.recordScores) this.#layers.largestScores(this.scores(n), kept, pass);
      this.#layers.output(this.#streams[n + 1], kept, pass);
    }
    return passes;
  }

  /** Issues final norm, head and loss; returns the gradient of the last layer's output when wanted. */
  #loss({ targets, weights: counts }: PackedBatch, withGradients: boolean): Tensor<"f32"> {
    const { config, weights, parameters, backend } = this.#model;
    const { vocabSize: V, hiddenSize: C, normEps } = config;
    const T = targets.length;
    const stream = this.#streams[config.layers.length];
    const normed = this.#buffers.take("final", [T, C]);
    const dNormed = this.#buffers.take("dNormed", [T, C]);
    const dx = this.#buffers.take("dx", [T, C]);
    const head = trainable(weights.head);
    backend.rmsNorm(normed, stream, weights.finalNorm, normEps);
    const chunk = Math.min(T, this.#options.logitRows ?? Math.max(1, Math.floor(LOGITS / V)));
    const chunkLogits = this.#buffers.take("logits", [chunk, V]);
    for (let from = 0; from < T; from += chunk) {
      const to = Math.min(T, from + chunk);
      const logits = rows(chunkLogits, 0, to - from);
      const x = rows(normed, from, to);
      backend.linear(logits, x, head);
      backend.crossEntropy(rows(this.losses, from, to), logits, targets.subarray(from, to), 1);
      if (!withGradients) continue;
      const part = counts.subarray(from, to);
      if (part.some((weight) => weight !== 0 && weight !== 1)) backend.scaleRows(logits, part);
      backend.linearInputBackward(rows(dNormed, from, to), logits, head, false);
      backend.linearWeightBackward(parameters.gradientOf(head), logits, x);
    }
    if (withGradients) {
      const dGain = parameters.gradientOf(weights.finalNorm);
      backend.rmsNormBackward(dx, dGain, dNormed, stream, weights.finalNorm, normEps, false);
    }
    return dx;
  }

  #check({ tokens, positions, segments, targets, weights }: PackedBatch): void {
    const lengths = [tokens, positions, segments, targets, weights].map((values) => values.length);
    if (lengths.some((length) => length !== this.#options.tokens)) {
      throw new ShapeError("train", `a batch of ${this.#options.tokens} tokens`, { lengths });
    }
    const { vocabSize } = this.#model.config;
    for (let t = 0; t < tokens.length; t++) {
      const fits = tokens[t] >= 0 && tokens[t] < vocabSize && targets[t] >= -1 && targets[t] < vocabSize;
      if (fits && positions[t] >= 0 && positions[t] < this.#options.contextTokens) continue;
      throw new ShapeError("train", "tokens of the vocabulary at positions of the context", {
        index: t,
        token: tokens[t],
        target: targets[t],
        position: positions[t],
      });
    }
  }
}

const CONFIG_PARTS = new Set(`modelType vocabSize hiddenSize maxPositions normEps tiedEmbeddings layers`.split(/\s+/));
const LAYER_PARTS = new Set(
  `heads kvHeads headDim positions mask slidingWindow scale intermediateSize activation`.split(/\s+/),
);
const WEIGHT_PARTS = new Set(
  `attentionNorm query key value queryNorm keyNorm output feedForwardNorm gate up down`.split(/\s+/),
);
const DECODER_WEIGHT_PARTS = new Set(["embedding", "layers", "finalNorm", "head"]);

/** What this file does not know would be left out of the gradients in silence. */
function refuseUnknownParts({ config, weights }: GradientModel): void {
  const refuse = (object: object, known: ReadonlySet<string>): void => {
    for (const [part, value] of Object.entries(object)) {
      if (known.has(part) || value === undefined || value === null || value === false) continue;
      throw new CapabilityError("train", "a decoder whose every part has a gradient", {
        modelType: config.modelType,
        part,
      });
    }
  };
  refuse(config, CONFIG_PARTS);
  refuse(weights, DECODER_WEIGHT_PARTS);
  for (const layer of config.layers) refuse(layer, LAYER_PARTS);
  for (const layer of weights.layers) refuse(layer, WEIGHT_PARTS);
}
