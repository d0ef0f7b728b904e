/**
 * The reference backend for training: every gradient as its formula, sums in f64, results stored in f32. Slow, and
 * right.
 */

import { type KvView, referenceAttention, referenceAttentionGradients } from "../../attention/index.ts";
import { rotateInto } from "../../rope/index.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import type { Activation, AttendCall, RotationTable } from "../backend.ts";
import {
  type AdamWCall,
  type AttendBackwardCall,
  type AttendGradients,
  checkIds,
  type TrainingBackend,
} from "../training-backend.ts";
import { ACTIVATIONS } from "./activations.ts";
import { ReferenceBackend } from "./backend.ts";

/** The oracle as a backend that trains. */
export function createReferenceTrainingBackend(): TrainingBackend {
  return new ReferenceTrainingBackend();
}

class ReferenceTrainingBackend extends ReferenceBackend implements TrainingBackend {
  attendForTraining(out: Tensor<"f32">, lse: Tensor<"f32">, call: AttendCall<KvView>): void {
    const result = referenceAttention(requestOf(call));
    out.data.set(result.out.data);
    lse.data.set(result.lse.data);
  }

  attendBackward(gradients: AttendGradients, call: AttendBackwardCall): void {
    const { q, kv, dOut } = call;
    const shape = [q.shape[0], q.shape[1], kv.values.shape[2]];
    const result = referenceAttentionGradients(requestOf(call), tensor("f32", shape, dOut.data));
    gradients.dq.data.set(result.dq.data);
    gradients.dk.data.set(result.dk.data);
    gradients.dv.data.set(result.dv.data);
    if (gradients.dSinks && result.dsinks) addTo(gradients.dSinks.data, result.dsinks.data);
  }

  linearInputBackward(dx: Tensor<"f32">, dOut: Tensor<"f32">, weight: Tensor<"f32">, accumulate: boolean): void {
    const [outputs, inputs] = weight.shape;
    const row = new Float64Array(inputs);
    for (let t = 0; t * outputs < dOut.data.length; t++) {
      row.fill(0);
      if (accumulate) row.set(dx.data.subarray(t * inputs, (t + 1) * inputs));
      for (let n = 0; n < outputs; n++) {
        const g = dOut.data[t * outputs + n];
        for (let k = 0; k < inputs; k++) row[k] += g * weight.data[n * inputs + k];
      }
      dx.data.set(row, t * inputs);
    }
  }

  linearWeightBackward(dWeight: Tensor<"f32">, dOut: Tensor<"f32">, x: Tensor<"f32">, dBias?: Tensor<"f32">): void {
    const [outputs, inputs] = dWeight.shape;
    const row = new Float64Array(inputs);
    for (let n = 0; n < outputs; n++) {
      row.set(dWeight.data.subarray(n * inputs, (n + 1) * inputs));
      let bias = 0;
      for (let t = 0; t * outputs < dOut.data.length; t++) {
        const g = dOut.data[t * outputs + n];
        bias += g;
        for (let k = 0; k < inputs; k++) row[k] += g * x.data[t * inputs + k];
      }
      dWeight.data.set(row, n * inputs);
      if (dBias) dBias.data[n] += bias;
    }
  }

  rmsNormBackward(
    dx: Tensor<"f32">,
    dWeight: Tensor<"f32">,
    dOut: Tensor<"f32">,
    x: Tensor<"f32">,
    weight: Tensor<"f32">,
    eps: number,
    accumulate: boolean,
  ): void {
    const [g, a, w] = [dOut.data, x.data, weight.data];
    const width = w.length;
    const sums = Float64Array.from(dWeight.data);
    for (let row = 0; row < a.length; row += width) {
      let squares = 0;
      let products = 0;
      for (let c = 0; c < width; c++) {
        squares += a[row + c] ** 2;
        products += g[row + c] * w[c] * a[row + c];
      }
      // With r = 1/sqrt(mean(x²) + eps): dr/dx = −r³·x/C.
      const r = 1 / Math.sqrt(squares / width + eps);
      const slope = (r ** 3 * products) / width;
      for (let c = 0; c < width; c++) {
        const at = row + c;
        sums[c] += g[at] * a[at] * r;
        dx.data[at] = (accumulate ? dx.data[at] : 0) + r * w[c] * g[at] - slope * a[at];
      }
    }
    dWeight.data.set(sums);
  }

  layerNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number, bias?: Tensor<"f32">): void {
    const width = weight.data.length;
    for (let row = 0; row < x.data.length; row += width) {
      const { centred, r } = centredRow(x.data.subarray(row, row + width), eps);
      for (let c = 0; c < width; c++) out.data[row + c] = centred[c] * r * weight.data[c] + (bias?.data[c] ?? 0);
    }
  }

  layerNormBackward(
    dx: Tensor<"f32">,
    dWeight: Tensor<"f32">,
    dOut: Tensor<"f32">,
    x: Tensor<"f32">,
    weight: Tensor<"f32">,
    eps: number,
    accumulate: boolean,
    dBias?: Tensor<"f32">,
  ): void {
    const [g, w] = [dOut.data, weight.data];
    const width = w.length;
    const sums = Float64Array.from(dWeight.data);
    const biases = new Float64Array(width);
    for (let row = 0; row < x.data.length; row += width) {
      const { centred, r } = centredRow(x.data.subarray(row, row + width), eps);
      let total = 0;
      let products = 0;
      for (let c = 0; c < width; c++) {
        total += g[row + c] * w[c];
        products += g[row + c] * w[c] * centred[c];
      }
      // As rmsNormBackward of the centred row; then the gradient is centred itself.
      const slope = (r ** 3 * products) / width;
      const level = (r * total) / width;
      for (let c = 0; c < width; c++) {
        const at = row + c;
        sums[c] += g[at] * centred[c] * r;
        biases[c] += g[at];
        dx.data[at] = (accumulate ? dx.data[at] : 0) + r * w[c] * g[at] - level - slope * centred[c];
      }
    }
    dWeight.data.set(sums);
    if (dBias) addTo(dBias.data, biases);
  }

  rotateBackward(x: Tensor<"f32">, table: RotationTable): void {
    rotateInto(x.data, x.data, table, { heads: x.shape[1], headDim: x.shape[2], direction: "transpose" });
  }

  gateBackward(
    dGate: Tensor<"f32">,
    dUp: Tensor<"f32">,
    dOut: Tensor<"f32">,
    gate: Tensor<"f32">,
    up: Tensor<"f32">,
    activation: Activation,
  ): void {
    const f = ACTIVATIONS[activation];
    for (let at = 0; at < dOut.data.length; at++) {
      const { value, slope } = f(gate.data[at]);
      const g = dOut.data[at];
      const u = up.data[at];
      dGate.data[at] = g * u * slope;
      dUp.data[at] = g * value;
    }
  }

  embedBackward(dTable: Tensor<"f32">, dOut: Tensor<"f32">, tokens: Int32Array): void {
    const [vocabulary, width] = dTable.shape;
    checkIds("embedBackward", tokens, 0, vocabulary);
    const sums = Float64Array.from(dTable.data);
    for (const [t, token] of tokens.entries()) {
      for (let c = 0; c < width; c++) sums[token * width + c] += dOut.data[t * width + c];
    }
    dTable.data.set(sums);
  }

  crossEntropy(losses: Tensor<"f32">, logits: Tensor<"f32">, targets: Int32Array, gradientScale: number): void {
    const vocabulary = logits.data.length / targets.length;
    checkIds("crossEntropy", targets, -1, vocabulary);
    for (const [t, target] of targets.entries()) {
      const row = logits.data.subarray(t * vocabulary, (t + 1) * vocabulary);
      if (target < 0) {
        row.fill(0);
        losses.data[t] = 0;
        continue;
      }
      const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
      let sum = 0;
      for (const logit of row) sum += Math.exp(logit - max);
      losses.data[t] = Math.log(sum) + max - row[target];
      for (let v = 0; v < vocabulary; v++) {
        row[v] = gradientScale * (Math.exp(row[v] - max) / sum - (v === target ? 1 : 0));
      }
    }
  }

  addSquaredNorm(out: Tensor<"f32">, x: Tensor<"f32">): void {
    let sum = out.data[0];
    for (const value of x.data) sum += value ** 2;
    out.data[0] = sum;
  }

  fill(out: Tensor<"f32">, value: number): void {
    out.data.fill(value);
  }

  adamW(call: AdamWCall): void {
    const { gradientScale, learningRate, beta1, beta2, epsilon, weightDecay, step } = call;
    const [weight, gradient, mean, square] = [call.weight.data, call.gradient.data, call.mean.data, call.square.data];
    for (let at = 0; at < weight.length; at++) {
      const g = gradientScale * gradient[at];
      const m = beta1 * mean[at] + (1 - beta1) * g;
      const v = beta2 * square[at] + (1 - beta2) * g * g;
      mean[at] = m;
      square[at] = v;
      const change = m / (1 - beta1 ** step) / (Math.sqrt(v / (1 - beta2 ** step)) + epsilon);
      weight[at] -= learningRate * (change + weightDecay * weight[at]);
    }
  }
}

/** One layer's attention as the reference takes it. */
function requestOf({ kv, q, queryPositions, querySegments, mask, scale, softcap, sinks }: AttendCall<KvView>) {
  return {
    q,
    k: kv.keys,
    v: kv.values,
    mask,
    queryPositions,
    keyPositions: kv.positions,
    querySegments,
    keySegments: kv.segments,
    scale,
    ...(softcap === undefined ? {} : { softcap }),
    ...(sinks === undefined ? {} : { sinks }),
  };
}

/** x − mean, and 1/sqrt(variance + eps). */
function centredRow(x: Float32Array, eps: number): { centred: Float64Array; r: number } {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const centred = Float64Array.from(x, (value) => value - mean);
  return { centred, r: 1 / Math.sqrt(centred.reduce((sum, value) => sum + value ** 2, 0) / x.length + eps) };
}

function addTo(sums: Float32Array, values: ArrayLike<number>): void {
  for (let i = 0; i < sums.length; i++) sums[i] += values[i];
}
