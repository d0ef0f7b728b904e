/**
 * What training needs of a backend beyond a decoder's operations: gradients, the loss and the optimiser.
 *
 * As in `Backend`, operations are issued in order and take effect in order, and sizes are the caller's responsibility.
 * A gradient named `dX` has the shape of X. Weight gradients are always added to what is there, so that steps can
 * accumulate; gradients of activations are written, or added where `accumulate` says so. For a given number of threads
 * results are the same to the bit in every run.
 */

import type { KvView } from "../attention/index.ts";
import { ShapeError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { Activation, AttendCall, Backend, RotationTable } from "./backend.ts";

/** One layer's attention, for the way back. */
export type AttendBackwardCall = AttendCall<KvView> & {
  /** f32 [Tq, H, Dv], what attention gave. */
  readonly out: Tensor<"f32">;
  /** f32 [Tq, H], the log-sum-exp it gave. */
  readonly lse: Tensor<"f32">;
  /** f32 [Tq, H, Dv], the gradient of `out`. */
  readonly dOut: Tensor<"f32">;
};

/** Gradients of attention's inputs; all written. */
export type AttendGradients = {
  /** f32 [Tq, H, D]. */
  readonly dq: Tensor<"f32">;
  /** f32 [Tk, Hk, D]. */
  readonly dk: Tensor<"f32">;
  /** f32 [Tk, Hk, Dv]. */
  readonly dv: Tensor<"f32">;
  /** f32 [H]; added to. Only with sinks. */
  readonly dSinks?: Tensor<"f32">;
};

/** One step of AdamW on one tensor. */
export type AdamWCall = {
  /** f32, changed in place. */
  readonly weight: Tensor<"f32">;
  readonly gradient: Tensor<"f32">;
  /** f32, mean of gradients, changed in place. */
  readonly mean: Tensor<"f32">;
  /** f32, mean of squared gradients, changed in place. */
  readonly square: Tensor<"f32">;
  /** Multiplies the gradient first: clipping and the mean over accumulated steps. */
  readonly gradientScale: number;
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Decoupled; 0 for norms and biases. */
  readonly weightDecay: number;
  /** Steps taken so far, this one included: 1 for the first. */
  readonly step: number;
};

/** Where a model trains. */
export interface TrainingBackend extends Backend {
  /** `attend` that also writes lse f32 [Tq, H]; −Infinity where a row sees nothing. */
  attendForTraining(out: Tensor<"f32">, lse: Tensor<"f32">, call: AttendCall<KvView>): void;
  /** Gradients of attention. */
  attendBackward(gradients: AttendGradients, call: AttendBackwardCall): void;
  /** dx [T, K] = dOut [T, N] · weight [N, K]. */
  linearInputBackward(dx: Tensor<"f32">, dOut: Tensor<"f32">, weight: Tensor<"f32">, accumulate: boolean): void;
  /** dWeight [N, K] += dOutᵀ [T, N] · x [T, K]; dBias [N] += the sum of dOut over T. */
  linearWeightBackward(dWeight: Tensor<"f32">, dOut: Tensor<"f32">, x: Tensor<"f32">, dBias?: Tensor<"f32">): void;
  /** dx of `rmsNorm`, and dWeight [width] +=. dx may be dOut when not accumulating. */
  rmsNormBackward(
    dx: Tensor<"f32">,
    dWeight: Tensor<"f32">,
    dOut: Tensor<"f32">,
    x: Tensor<"f32">,
    weight: Tensor<"f32">,
    eps: number,
    accumulate: boolean,
  ): void;
  /** out [T, C] = (x − mean(x)) / sqrt(variance(x) + eps) · weight [C] + bias [C]; out may be x. */
  layerNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number, bias?: Tensor<"f32">): void;
  /** dx of `layerNorm`, dWeight [C] += and dBias [C] +=. dx may be dOut when not accumulating. */
  layerNormBackward(
    dx: Tensor<"f32">,
    dWeight: Tensor<"f32">,
    dOut: Tensor<"f32">,
    x: Tensor<"f32">,
    weight: Tensor<"f32">,
    eps: number,
    accumulate: boolean,
    dBias?: Tensor<"f32">,
  ): void;
  /** Turns the gradient x [T, H, D] of a rotated tensor in place into that of the unrotated one: (cos, −sin). */
  rotateBackward(x: Tensor<"f32">, table: RotationTable): void;
  /** Gradients of `gate`, written; dGate and dUp may be gate and up themselves. */
  gateBackward(
    dGate: Tensor<"f32">,
    dUp: Tensor<"f32">,
    dOut: Tensor<"f32">,
    gate: Tensor<"f32">,
    up: Tensor<"f32">,
    activation: Activation,
  ): void;
  /** dTable [V, C] += rows of dOut [T, C] by token id. */
  embedBackward(dTable: Tensor<"f32">, dOut: Tensor<"f32">, tokens: Int32Array): void;
  /**
   * losses [T] = −log softmax(logits)[target], and logits [T, V] become their own gradient times `gradientScale`.
   * A target of −1 does not count: its loss and gradient are 0.
   */
  crossEntropy(losses: Tensor<"f32">, logits: Tensor<"f32">, targets: Int32Array, gradientScale: number): void;
  /** out [1] += the sum of squares of x. */
  addSquaredNorm(out: Tensor<"f32">, x: Tensor<"f32">): void;
  /** Sets every element. */
  fill(out: Tensor<"f32">, value: number): void;
  /** weight ← weight − lr·(m̂ / (sqrt(v̂) + ε) + weightDecay·weight), with bias-corrected moments. */
  adamW(call: AdamWCall): void;
}

/**
 * Refuses token ids outside a vocabulary, before anything is written by them.
 *
 * @param lowest - 0, or −1 where that stands for none
 * @throws ShapeError
 */
export function checkIds(where: string, ids: Int32Array, lowest: 0 | -1, vocabulary: number): void {
  const index = ids.findIndex((id) => id < lowest || id >= vocabulary);
  if (index < 0) return;
  const expected = `token ids must be from ${lowest} to ${vocabulary - 1}`;
  throw new ShapeError(where, expected, { token: ids[index], index });
}
