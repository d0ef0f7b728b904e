/**
 * The reference backend: every operation as its formula, sums in f64, results stored in f32, at once and on the
 * caller's thread. Slow, and right.
 */

import {
  type AttentionRequest,
  type AttentionState,
  emptyState,
  finishState,
  type KvViews,
  mergeStates,
  type NarrowedKv,
  type QuantizedKv,
  quantizeKv,
  referenceAttention,
  referenceState,
  sinkState,
} from "../../attention/index.ts";
import { allocate } from "../../dtype.ts";
import { ShapeError } from "../../errors.ts";
import { rotateInto } from "../../rope/index.ts";
import { type Tensor, takeHeads, tensor, toF32, zeros } from "../../tensor.ts";
import type { Activation, AttendCall, Backend, ColumnMassCall, RotationTable } from "../backend.ts";
import { type HeadView, headViews, keptNumbers } from "../head-views.ts";
import {
  convertWeights,
  createMatrix,
  type MatrixSource,
  storedType,
  type WeightMatrix,
  type WeightType,
  weightsToF32,
} from "../weight-matrix.ts";
import { ACTIVATIONS } from "./activations.ts";

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
    const { q, kv, sinks } = call;
    if ("narrow" in kv) {
      attendParts(out, call, kv);
      return;
    }
    for (const view of headViews({ q, kv })) {
      const { head, heads } = view;
      const result = referenceAttention({
        ...viewRequest(call, view),
        ...(sinks !== undefined && { sinks: sinks.subarray(head, head + heads) }),
      });
      putHeads(out, result.out, q.shape[1], head);
    }
  }

  columnMass(out: Tensor<"f32">, { data: logits }: Tensor<"f32">, call: ColumnMassCall): void {
    const { starts, ends, weights, reduce } = call;
    const [H, T] = out.shape;
    const W = starts.length / H;
    for (let head = 0; head < H; head++) {
      const columns = new Float64Array(T);
      for (let row = head * W; row < (head + 1) * W; row++) {
        const seen = Float64Array.from(
          logits.subarray(row * T + starts[row], row * T + Math.max(starts[row], ends[row])),
        );
        const max = seen.reduce((most, logit) => Math.max(most, logit), -Infinity);
        const powers = seen.map((logit) => Math.exp(logit - max));
        const factor = weights[row] / powers.reduce((sum, power) => sum + power, 0);
        powers.forEach((power, n) => {
          const t = starts[row] + n;
          columns[t] = reduce === "sum" ? columns[t] + factor * power : Math.max(columns[t], factor * power);
        });
      }
      out.data.set(columns, head * T);
    }
  }

  gate(out: Tensor<"f32">, gate: Tensor<"f32">, up: Tensor<"f32">, activation: Activation): void {
    const f = ACTIVATIONS[activation];
    for (let at = 0; at < out.data.length; at++) out.data[at] = f(gate.data[at]).value * up.data[at];
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

/** Attention over both parts of a layer, joined. */
function attendParts(out: Tensor<"f32">, call: AttendCall, { narrow, channels, full }: NarrowedKv): void {
  const { q, sinks } = call;
  const [T, H, D] = q.shape;
  const places = keptNumbers([H, D], channels);
  const kept = zeros("f32", [T, H, places.length / H]);
  for (let t = 0; t < T; t++) {
    for (let n = 0; n < places.length; n++) kept.data[t * places.length + n] = q.data[t * H * D + places[n]];
  }
  const states = [stateOf({ ...call, q: kept, kv: narrow }, out.shape), stateOf({ ...call, kv: full }, out.shape)];
  if (sinks) states.push(sinkState(sinks, out.shape));
  out.data.set(finishState(mergeStates(...states), "f32").out.data);
}

/** What the query heads of a view attend, without sinks. */
function viewRequest(call: AttendCall, { kv, head, heads }: HeadView): AttentionRequest {
  const { q, mask, queryPositions, querySegments, scale, softcap } = call;
  return {
    q: heads === q.shape[1] ? q : takeHeads(q, head, heads),
    ...{ kv, mask, queryPositions, querySegments, scale },
    ...(softcap !== undefined && { softcap }),
  };
}

/** The state of all query heads over their views, without sinks. */
function stateOf(call: AttendCall<KvViews>, shape: readonly number[]): AttentionState {
  const [T, H, Dv] = shape;
  const all = emptyState(shape);
  for (const view of headViews(call)) {
    const { kv, head, heads } = view;
    if (kv.positions.length === 0) continue;
    const state = referenceState(viewRequest(call, view));
    for (let t = 0; t < T; t++) {
      const [from, to, row] = [t * heads, (t + 1) * heads, t * H + head];
      all.max.set(state.max.subarray(from, to), row);
      all.sum.set(state.sum.subarray(from, to), row);
      all.weighted.set(state.weighted.subarray(from * Dv, to * Dv), row * Dv);
    }
  }
  return all;
}

/** Writes x [T, heads, D] to heads of out [T, H, D]. */
function putHeads(out: Tensor<"f32">, { shape: [T, heads, D], data }: Tensor, H: number, head: number): void {
  for (let t = 0; t < T; t++) {
    out.data.set(data.subarray(t * heads * D, (t + 1) * heads * D) as Float32Array, (t * H + head) * D);
  }
}
