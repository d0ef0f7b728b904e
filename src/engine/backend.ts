/**
 * What a backend does: the handful of operations a decoder is made of, on tensors in memory that it chose.
 *
 * Operations are issued in order and take effect in order. A backend may run them at once or later, on this thread
 * or elsewhere; results may be read after `flush`. Every operation writes its first argument. Sizes are the
 * caller's responsibility: the decoder checks them when it loads, not at every step.
 */

import type { KvViews, NarrowedKv, QuantizedKv } from "../attention/index.ts";
import type { Mask } from "../mask/index.ts";
import type { Pairing } from "../rope/index.ts";
import type { Tensor } from "../tensor.ts";
import type { MatrixSource, WeightMatrix, WeightType } from "./weight-matrix.ts";

/** Cosines and sines of the tokens of one step, for one rotation. */
export type RotationTable = {
  /** f32 [T, R/2], attention factor included. */
  readonly cos: Float32Array;
  /** f32 [T, R/2], attention factor included. */
  readonly sin: Float32Array;
  readonly rotaryDim: number;
  readonly rotaryOffset: number;
  readonly pairing: Pairing;
};

/** Keys and values of one sequence (B = 1) in any layout and element type, for all heads or head by head. */
export type AttendedKv = KvViews | NarrowedKv;

/** One layer's attention over cached keys and values. */
export type AttendCall<Kv extends AttendedKv = AttendedKv> = {
  /** f32 [Tq, H, D], rotated. */
  readonly q: Tensor<"f32">;
  /** Keys and values with positions and segments. */
  readonly kv: Kv;
  /** i32 [Tq]. */
  readonly queryPositions: Int32Array;
  /** i32 [Tq]; −1 is padding. */
  readonly querySegments: Int32Array;
  readonly mask: Mask;
  readonly scale: number;
  readonly softcap?: number;
  readonly sinks?: Float32Array;
};

/** What rows of logits see of their columns, and what becomes of a column. */
export type ColumnMassCall = {
  /** i32 [H, W] the first column that a row sees. */
  readonly starts: Int32Array;
  /** i32 [H, W] the column behind the last one it sees; it sees nothing where that is not behind the first. */
  readonly ends: Int32Array;
  /** f32 [H, W], not negative: what a row's probabilities add up to. */
  readonly weights: Float32Array;
  /** Whether the rows of a head are added up, or the largest of them counts. */
  readonly reduce: "sum" | "max";
};

/**
 * Elementwise function of a gated feed-forward block: silu(x) = x/(1 + exp(−x)); gelu(x) = x·Φ(x), with the normal
 * distribution function Φ(x) = (1 + erf(x/√2))/2; geluTanh is its approximation x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
 *
 * @see https://arxiv.org/abs/1606.08415
 */
export type Activation = "silu" | "gelu" | "geluTanh";

/** Where a decoder computes. */
export interface Backend {
  /** Its name, as options and messages use it. */
  readonly name: string;
  /** Whether something issued has not taken effect yet, so that tensors must not be read or written from outside. */
  readonly pending: boolean;
  /** A zeroed activation in the backend's memory. */
  allocate(shape: readonly number[]): Tensor<"f32">;
  /** Gives an activation or a matrix back once everything issued so far has taken effect. */
  release(t: Tensor | WeightMatrix): void;
  /**
   * Takes a matrix [N, K] (f32, f16, bf16, f64, quantised) into the backend's memory, with the values it has as `type`;
   * without a type, as it is. `name` is what messages call it. Weights that the type cannot hold are a FormatError.
   */
  matrix(source: MatrixSource, type?: WeightType, name?: string): WeightMatrix;
  /** Takes a vector of weights (f32, f16, bf16, f64) into the backend's memory, as f32. */
  vector(source: Tensor): Tensor<"f32">;
  /** out [T, C] = rows of table [V, C] by token id. */
  embed(out: Tensor<"f32">, table: WeightMatrix, tokens: Int32Array): void;
  /** out [T, C] = x / sqrt(mean(x²) + eps) · weight over the last axis, of width weight.length. */
  rmsNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number): void;
  /** out [T, N] = x [T, K] · weightᵀ [N, K] + bias [N]. */
  linear(out: Tensor<"f32">, x: Tensor<"f32">, weight: WeightMatrix, bias?: Tensor<"f32">): void;
  /** Rotates x [T, H, D] in place. */
  rotate(x: Tensor<"f32">, table: RotationTable): void;
  /** Multiplies the rows of x [T, ...] in place by scales f32 [T]. */
  scaleRows(x: Tensor<"f32">, scales: Float32Array): void;
  /** out [Tq, H, Dv] = attention. */
  attend(out: Tensor<"f32">, call: AttendCall): void;
  /**
   * out [H, T] = weight · softmax(the columns that a row sees) of logits [H, W, T], brought together over the W rows of a
   * head; 0 where no row sees. What the logits are afterwards is the backend's. Logits are finite.
   */
  columnMass(out: Tensor<"f32">, logits: Tensor<"f32">, call: ColumnMassCall): void;
  /** out [T, F] = activation(gate) · up. */
  gate(out: Tensor<"f32">, gate: Tensor<"f32">, up: Tensor<"f32">, activation: Activation): void;
  /** out = a + b, all of one shape; out may be a or b. */
  add(out: Tensor<"f32">, a: Tensor<"f32">, b: Tensor<"f32">): void;
  /** out = x, of the same size; with `head` that head of x [T, H, W]. */
  copy(out: Tensor<"f32">, x: Tensor<"f32">, head?: number): void;
  /**
   * out, in the backend's memory = codes and scales of x [..., H, W] in 8 or 4 bits, a scale for each head; with `head`
   * of that head of x [T, H, W].
   */
  quantize(out: QuantizedKv, x: Tensor<"f32">, head?: number): void;
  /** Resolves when everything issued so far has taken effect. */
  flush(): Promise<void>;
  /** Ends threads and gives memory back; nothing of the backend may be used afterwards. */
  dispose(): void;
}

/**
 * The part of a backend that keeps tensors: what caches need of it (`KvMemory`), and `flush`. Operations take effect in
 * order with everything else the backend does.
 */
export type EngineMemory = Pick<Backend, "pending" | "allocate" | "release" | "copy" | "quantize" | "flush">;
