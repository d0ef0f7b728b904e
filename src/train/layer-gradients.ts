/**
 * One decoder block, forwards and back: the same steps as `model/decoder.ts`, with what the way back needs kept.
 */

import type { KvView } from "../attention/index.ts";
import type { AttendCall, RotationTable, TrainingBackend, WeightMatrix } from "../engine/index.ts";
import type { Mask } from "../mask/index.ts";
import type { LayerWeights, LinearWeights } from "../model/decoder-weights.ts";
import type { LayerConfig } from "../model/index.ts";
import { temperatureScales } from "../rope/index.ts";
import { reshape, type Tensor } from "../tensor.ts";
import type { PackedBatch } from "./packed-batch.ts";
import type { Parameters } from "./parameters.ts";
import type { StepBuffers } from "./step-buffers.ts";

type F32 = Tensor<"f32">;

/** What the forward pass of a layer leaves for the way back; all but the input may be shared with other layers. */
export type LayerActivations = {
  /** [T, C] gain-normalised input of attention. */
  readonly attentionInput: F32;
  /** [T, H, D] before its norm; the same tensor as `q` where queries have none. */
  readonly qProjected: F32;
  /** [T, Hk, D] before its norm. */
  readonly kProjected: F32;
  /** [T, H, D], as attention sees it. */
  readonly q: F32;
  /** [T, Hk, D]. */
  readonly k: F32;
  /** [T, Hk, D]. */
  readonly v: F32;
  /** [T, H, D]. */
  readonly attended: F32;
  /** [T, H]. */
  readonly lse: F32;
  /** [T, C], the residual stream after attention. */
  readonly middle: F32;
  /** [T, C]. */
  readonly feedForwardInput: F32;
  /** [T, F]. */
  readonly gate: F32;
  /** [T, F]. */
  readonly up: F32;
  /** [T, F], activation(gate) · up. */
  readonly product: F32;
};

/** What one layer's passes are about. */
export type LayerPass = {
  readonly config: LayerConfig;
  readonly weights: LayerWeights;
  readonly mask: Mask;
  readonly batch: PackedBatch;
  /** Absent where the layer does not rotate. */
  readonly rotation: RotationTable | undefined;
  readonly normEps: number;
};

/** Scores are multiplied by this to find the largest: the log-sum-exp of so steep a softmax is its largest score. */
export const STEEP = 2 ** 20;

/** Runs one layer's passes on a backend. */
export class LayerGradients {
  readonly #backend: TrainingBackend;
  readonly #buffers: StepBuffers;
  readonly #parameters: Parameters;
  /** T, C. */
  readonly #stream: readonly [number, number];

  constructor(
    backend: TrainingBackend,
    buffers: StepBuffers,
    parameters: Parameters,
    stream: readonly [number, number],
  ) {
    this.#backend = backend;
    this.#buffers = buffers;
    this.#parameters = parameters;
    this.#stream = stream;
  }

  /** Room for a layer's activations; layers that pass the same name share it. */
  activations(
    { heads, kvHeads, headDim, intermediateSize }: LayerConfig,
    weights: LayerWeights,
    name: string,
  ): LayerActivations {
    const [T, C] = this.#stream;
    const take = (part: string, shape: readonly number[]): F32 => this.#buffers.take(`${name} ${part}`, shape);
    const q = take("q", [T, heads, headDim]);
    const k = take("k", [T, kvHeads, headDim]);
    return {
      attentionInput: take("attention input", [T, C]),
      qProjected: weights.queryNorm ? take("projected q", q.shape) : q,
      kProjected: weights.keyNorm ? take("projected k", k.shape) : k,
      q,
      k,
      v: take("v", k.shape),
      attended: take("attended", q.shape),
      lse: take("lse", [T, heads]),
      middle: take("middle", [T, C]),
      feedForwardInput: take("feed-forward input", [T, C]),
      gate: take("gate", [T, intermediateSize]),
      up: take("up", [T, intermediateSize]),
      product: take("product", [T, intermediateSize]),
    };
  }

  /** From the residual stream x [T, C] up to the input of the last projection. */
  forward(x: F32, kept: LayerActivations, pass: LayerPass): void {
    const backend = this.#backend;
    const { weights, rotation, normEps, config, batch } = pass;
    const { attentionInput, qProjected, kProjected, q, k, v, attended, lse, middle, feedForwardInput, gate, up } = kept;

    backend.rmsNorm(attentionInput, x, weights.attentionNorm, normEps);
    this.#linear(qProjected, attentionInput, weights.query);
    this.#linear(kProjected, attentionInput, weights.key);
    this.#linear(v, attentionInput, weights.value);
    if (weights.queryNorm) backend.rmsNorm(q, qProjected, weights.queryNorm, normEps);
    if (weights.keyNorm) backend.rmsNorm(k, kProjected, weights.keyNorm, normEps);
    if (rotation) {
      backend.rotate(q, rotation);
      backend.rotate(k, rotation);
    }
    const { queryTemperature } = config.positions;
    if (queryTemperature) backend.scaleRows(q, temperatureScales(queryTemperature, batch.positions));
    backend.attendForTraining(attended, lse, attendCall(kept, pass));

    this.#linear(middle, attended, weights.output);
    backend.add(middle, middle, x);
    backend.rmsNorm(feedForwardInput, middle, weights.feedForwardNorm, normEps);
    this.#linear(gate, feedForwardInput, weights.gate);
    this.#linear(up, feedForwardInput, weights.up);
    backend.gate(kept.product, gate, up, config.activation);
  }

  /** The layer's output [T, C]. */
  output(out: F32, kept: LayerActivations, { weights }: LayerPass): void {
    this.#linear(out, kept.product, weights.down);
    this.#backend.add(out, out, kept.middle);
  }

  /**
   * Adds the gradients of the layer's weights, and turns dx [T, C] from the gradient of the layer's output into that of
   * its input x. Spoils `gate` and `up`.
   */
  backward(dx: F32, x: F32, kept: LayerActivations, pass: LayerPass): void {
    const backend = this.#backend;
    const [T, C] = this.#stream;
    const { weights, rotation, normEps, config, batch } = pass;
    const dNormed = this.#buffers.take("dNormed", [T, C]);

    // feed-forward: x + down(activation(gate) · up)
    const dProduct = this.#buffers.take("dProduct", kept.product.shape);
    this.#linearBackward(dProduct, dx, kept.product, weights.down, false);
    backend.gateBackward(kept.gate, kept.up, dProduct, kept.gate, kept.up, config.activation);
    this.#linearBackward(dNormed, kept.gate, kept.feedForwardInput, weights.gate, false);
    this.#linearBackward(dNormed, kept.up, kept.feedForwardInput, weights.up, true);
    this.#normBackward(dx, dNormed, kept.middle, weights.feedForwardNorm, normEps, true);

    // attention: x + output(attend(q, k, v))
    const dAttended = this.#buffers.take("dAttended", kept.attended.shape);
    const dq = this.#buffers.take("dq", kept.q.shape);
    const dk = this.#buffers.take("dk", kept.k.shape);
    const dv = this.#buffers.take("dv", kept.v.shape);
    this.#linearBackward(dAttended, dx, kept.attended, weights.output, false);
    const { attended: out, lse } = kept;
    backend.attendBackward({ dq, dk, dv }, { ...attendCall(kept, pass), out, lse, dOut: dAttended });
    const { queryTemperature } = config.positions;
    if (queryTemperature) backend.scaleRows(dq, temperatureScales(queryTemperature, batch.positions));
    if (rotation) {
      backend.rotateBackward(dq, rotation);
      backend.rotateBackward(dk, rotation);
    }
    if (weights.queryNorm) this.#normBackward(dq, dq, kept.qProjected, weights.queryNorm, normEps, false);
    if (weights.keyNorm) this.#normBackward(dk, dk, kept.kProjected, weights.keyNorm, normEps, false);
    this.#linearBackward(dNormed, dq, kept.attentionInput, weights.query, false);
    this.#linearBackward(dNormed, dk, kept.attentionInput, weights.key, true);
    this.#linearBackward(dNormed, dv, kept.attentionInput, weights.value, true);
    this.#normBackward(dx, dNormed, x, weights.attentionNorm, normEps, true);
  }

  /** out [T, H] = {@link STEEP} times the largest score of every row. */
  largestScores(out: F32, kept: LayerActivations, pass: LayerPass): void {
    const call = attendCall(kept, pass);
    const attended = this.#buffers.take("dAttended", kept.attended.shape); // not in use on the way forward
    this.#backend.attendForTraining(attended, out, { ...call, scale: call.scale * STEEP });
  }

  #linear(out: F32, x: F32, { weight, bias }: LinearWeights): void {
    const [N, K] = weight.shape;
    const [T] = this.#stream;
    this.#backend.linear(reshape(out, [T, N]), reshape(x, [T, K]), weight, bias);
  }

  #linearBackward(dx: F32, dOut: F32, x: F32, { weight, bias }: LinearWeights, accumulate: boolean): void {
    const [N, K] = weight.shape;
    const [T] = this.#stream;
    const flatOut = reshape(dOut, [T, N]);
    const dBias = bias && this.#parameters.gradientOf(bias);
    this.#backend.linearInputBackward(reshape(dx, [T, K]), flatOut, trainable(weight), accumulate);
    this.#backend.linearWeightBackward(this.#parameters.gradientOf(weight), flatOut, reshape(x, [T, K]), dBias);
  }

  #normBackward(dx: F32, dOut: F32, x: F32, weight: F32, eps: number, accumulate: boolean): void {
    this.#backend.rmsNormBackward(dx, this.#parameters.gradientOf(weight), dOut, x, weight, eps, accumulate);
  }
}

/** A weight that is trained is f32. */
export function trainable(weight: WeightMatrix): F32 {
  if (weight.dtype !== "f32") throw new Error("train: weights must be f32");
  return weight;
}

function attendCall({ q, k, v }: LayerActivations, { batch, mask, config }: LayerPass): AttendCall<KvView> {
  const { positions, segments } = batch;
  return {
    q,
    kv: { keys: k, values: v, positions, segments },
    queryPositions: positions,
    querySegments: segments,
    mask,
    scale: config.scale,
  };
}
