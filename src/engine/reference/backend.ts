/**
 * The reference backend: every operation as its formula, sums in f64, results stored in f32, at once and on the
 * caller's thread. Slow, and right.
 */

import { type QuantizedKv, quantizeKv, referenceAttention } from "../../attention/index.ts";
import { allocate } from "../../dtype.ts";
import { ShapeError } from "../../errors.ts";
import { rotateInto } from "../../rope/index.ts";
import { type Tensor, takeHeads, tensor, toF32, zeros } from "../../tensor.ts";
import type { Activation, AttendCall, Backend, RotationTable } from "../backend.ts";
import { headViews } from "../head-views.ts";
import {
  convertWeights,
  createMatrix,
  type MatrixSource,
  storedType,
  type WeightMatrix,
  type WeightType,
  weightsToF32,
} from "../weight-matrix.ts";

/** The oracle as a backend. */
export function createReferenceBackend(): Backend {
  return new ReferenceBackend();
}

/** Every operation as its formula. */
export class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly pending = false;

  allocate(shape: readonly number[]): Tensor<"f32"> {
    return zeros("f32", shape);
  }

  release(): void {}

  /** The numbers that the weights have in that type, as f32. */
  matrix(source: MatrixSource, type: WeightType = storedType(source), name = "matrix"): WeightMatrix {
    const kept = createMatrix(name, type, source.shape, allocate);
    convertWeights(kept, source, name);
    return tensor("f32", source.shape, weightsToF32(kept));
  }

  vector(source: Tensor): Tensor<"f32"> {
    return tensor("f32", source.shape, toF32(source));
  }

  embed(out: Tensor<"f32">, table: WeightMatrix, tokens: Int32Array): void {
    const [vocabulary, width] = table.shape;
    const numbers = weightsToF32(table);
    tokens.forEach((token, t) => {
      if (token < 0 || token >= vocabulary) {
        throw new ShapeError("embed", `token ids must be from 0 to ${vocabulary - 1}`, { token, index: t });
      }
      out.data.set(numbers.subarray(token * width, (token + 1) * width), t * width);
    });
  }

  rmsNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number): void {
    const width = weight.data.length;
    for (let start = 0; start < x.data.length; start += width) {
      let squares = 0;
      for (let c = 0; c < width; c++) squares += x.data[start + c] ** 2;
      const inverse = 1 / Math.sqrt(squares / width + eps);
      for (let c = 0; c < width; c++) out.data[start + c] = x.data[start + c] * inverse * weight.data[c];
    }
  }

  linear(out: Tensor<"f32">, x: Tensor<"f32">, weight: WeightMatrix, bias?: Tensor<"f32">): void {
    const [outputs, inputs] = weight.shape;
    const a = x.data;
    const w = weightsToF32(weight);
    for (let t = 0, row = 0; row < a.length; t++, row += inputs) {
      for (let n = 0; n < outputs; n++) {
        let sum = bias ? bias.data[n] : 0;
        for (let k = 0, at = n * inputs; k < inputs; k++, at++) sum += a[row + k] * w[at];
        out.data[t * outputs + n] = sum;
      }
    }
  }

  rotate(x: Tensor<"f32">, table: RotationTable): void {
    rotateInto(x.data, x.data, table, { heads: x.shape[1], headDim: x.shape[2] });
  }

  scaleRows(x: Tensor<"f32">, scales: Float32Array): void {
    const width = x.data.length / scales.length;
    for (let at = 0; at < x.data.length; at++) x.data[at] *= scales[Math.floor(at / width)];
  }

  attend(out: Tensor<"f32">, call: AttendCall): void {
    const { q, mask, queryPositions, querySegments, scale, softcap, sinks } = call;
    const H = q.shape[1];
    for (const { kv, head, heads } of headViews(call)) {
      const result = referenceAttention({
        q: heads === H ? q : takeHeads(q, head, heads),
        kv,
        mask,
        queryPositions,
        querySegments,
        scale,
        ...(softcap !== undefined && { softcap }),
        ...(sinks !== undefined && { sinks: sinks.subarray(head, head + heads) }),
      });
      putHeads(out, result.out, H, head);
    }
  }

  gate(out: Tensor<"f32">, gate: Tensor<"f32">, up: Tensor<"f32">, activation: Activation): void {
    const f = ACTIVATIONS[activation];
    for (let at = 0; at < out.data.length; at++) out.data[at] = f(gate.data[at]) * up.data[at];
  }

  add(out: Tensor<"f32">, a: Tensor<"f32">, b: Tensor<"f32">): void {
    for (let at = 0; at < out.data.length; at++) out.data[at] = a.data[at] + b.data[at];
  }

  copy(out: Tensor<"f32">, x: Tensor<"f32">, head?: number): void {
    out.data.set(head === undefined ? x.data : takeHeads(x, head, 1).data);
  }

  quantize(out: QuantizedKv, x: Tensor<"f32">, head?: number): void {
    const { codes, scales } = quantizeKv(head === undefined ? x : takeHeads(x, head, 1), {
      bits: out.bits,
      axis: out.axis,
    });
    out.codes.data.set(codes.data);
    out.scales.data.set(scales.data);
  }

  async flush(): Promise<void> {}

  dispose(): void {}
}

const ACTIVATIONS: Record<Activation, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
};

/** Writes x [T, heads, D] to heads of out [T, H, D]. */
function putHeads(out: Tensor<"f32">, { shape: [T, heads, D], data }: Tensor, H: number, head: number): void {
  for (let t = 0; t < T; t++) {
    out.data.set(data.subarray(t * heads * D, (t + 1) * heads * D) as Float32Array, (t * H + head) * D);
  }
}
