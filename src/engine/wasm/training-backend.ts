/**
 * The WASM backend for training: gradients as calls of generated kernels, queued like a decoder's operations.
 *
 * Sums that reach over rows are dealt out by what they are sums for, or made in chunks of fixed size that are added up in
 * order: results do not depend on how threads take turns.
 */

import type { KvView } from "../../attention/index.ts";
import type { Tensor } from "../../tensor.ts";
import type { Activation, AttendCall, RotationTable } from "../backend.ts";
import {
  type AdamWCall,
  type AttendBackwardCall,
  type AttendGradients,
  checkIds,
  type TrainingBackend,
} from "../training-backend.ts";
import { createWasmRuntime, WasmBackend, type WasmOptions } from "./backend.ts";
import { ADAMW_NUMBERS, emitAdamW } from "./kernels/adamw.ts";
import { emitCrossEntropy } from "./kernels/cross-entropy.ts";
import { emitFill } from "./kernels/elementwise.ts";
import { emitEmbedBackward } from "./kernels/embed-backward.ts";
import { emitGateBackward } from "./kernels/gate-backward.ts";
import { emitLayerNorm, emitLayerNormBackward } from "./kernels/layer-norm.ts";
import { emitRmsNormBackward, NORM_CHUNK } from "./kernels/norm-backward.ts";
import { emitProduct, PRODUCT_SCRATCH_BYTES, type ProductSpec } from "./kernels/product.ts";
import { emitAddColumns, emitSquares, SQUARES_CHUNK } from "./kernels/sums.ts";
import { TrainingAttention } from "./training-attention.ts";

type F32 = Tensor<"f32">;

/** Elements that workers take at a time: whole cache lines. */
const LINE = 16;
/** Rows of a product that workers take at a time: whole strips of its kernel. */
const STRIP = 4;

/**
 * Starts a WASM backend that trains.
 *
 * @throws as `createWasmBackend`
 */
export async function createWasmTrainingBackend(options: WasmOptions = {}): Promise<TrainingBackend> {
  return new WasmTrainingBackend(await createWasmRuntime("createTrainingBackend", options));
}

class WasmTrainingBackend extends WasmBackend implements TrainingBackend {
  readonly #attention: TrainingAttention = new TrainingAttention(this.runtime);

  attendForTraining(out: Tensor<"f32">, lse: Tensor<"f32">, call: AttendCall<KvView>): void {
    this.#attention.attend(call, { out: this.output(out), lse: this.output(lse) });
  }

  attendBackward({ dq, dk, dv, dSinks }: AttendGradients, call: AttendBackwardCall): void {
    this.#attention.attendBackward(call, {
      out: this.input(call.out.data),
      lse: this.input(call.lse.data),
      dOut: this.input(call.dOut.data),
      dq: this.output(dq),
      dk: this.output(dk),
      dv: this.output(dv),
      dSinks: dSinks ? this.output(dSinks) : 0,
    });
  }

  linearInputBackward(dx: Tensor<"f32">, dOut: Tensor<"f32">, weight: Tensor<"f32">, accumulate: boolean): void {
    const [outputs, inputs] = weight.shape;
    this.#product("rows", [dx, dOut, weight], {
      rows: dOut.data.length / outputs,
      columns: inputs,
      inner: outputs,
      add: accumulate,
    });
  }

  linearWeightBackward(dWeight: Tensor<"f32">, dOut: Tensor<"f32">, x: Tensor<"f32">, dBias?: Tensor<"f32">): void {
    const [outputs, inputs] = dWeight.shape;
    const tokens = dOut.data.length / outputs;
    this.#product("columns", [dWeight, dOut, x], { rows: outputs, columns: inputs, inner: tokens, add: true });
    if (dBias) this.#addColumns(this.output(dBias), this.input(dOut.data), tokens, outputs);
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
    const spec = { ...this.mode(), width: weight.data.length, add: accumulate };
    const { rmsNormBackward } = this.kernels("rmsNormBackward", spec, () => ({
      emit: (module) => emitRmsNormBackward(module, spec),
    }));
    this.#normBackward(rmsNormBackward, [dx, dWeight, dOut, x, weight], eps);
  }

  layerNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number, bias?: Tensor<"f32">): void {
    const spec = { ...this.mode(), width: weight.data.length, bias: bias !== undefined };
    const { layerNorm } = this.kernels("layerNorm", spec, () => ({ emit: (module) => emitLayerNorm(module, spec) }));
    const inputs = [this.input(x.data), this.input(weight.data), bias ? this.input(bias.data) : 0] as const;
    this.runtime.issue(
      layerNorm,
      { items: x.data.length / spec.width, operations: 8 * x.data.length },
      ...([this.output(out), ...inputs, "from", "to", { float: eps }] as const),
    );
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
    const spec = { ...this.mode(), width: weight.data.length, add: accumulate };
    const { layerNormBackward } = this.kernels("layerNormBackward", spec, () => ({
      emit: (module) => emitLayerNormBackward(module, spec),
    }));
    // First, because dx may be dOut.
    if (dBias) {
      this.#addColumns(this.output(dBias), this.input(dOut.data), x.data.length / spec.width, spec.width);
    }
    this.#normBackward(layerNormBackward, [dx, dWeight, dOut, x, weight], eps);
  }

  #normBackward(kernel: number, [dx, dWeight, dOut, x, weight]: readonly [F32, F32, F32, F32, F32], eps: number): void {
    const width = weight.data.length;
    const rows = x.data.length / width;
    const chunks = Math.ceil(rows / NORM_CHUNK);
    const sums = this.runtime.takeInput(4 * chunks * width);
    const inputs = [this.input(dOut.data), this.input(x.data), this.input(weight.data)] as const;
    this.runtime.issue(
      kernel,
      { items: chunks, operations: 12 * x.data.length },
      ...([this.output(dx), sums, ...inputs, rows, "from", "to", { float: eps }] as const),
    );
    this.#addColumns(this.output(dWeight), sums, chunks, width);
  }

  rotateBackward(x: Tensor<"f32">, table: RotationTable): void {
    this.turn(x, table, true);
  }

  gateBackward(
    dGate: Tensor<"f32">,
    dUp: Tensor<"f32">,
    dOut: Tensor<"f32">,
    gate: Tensor<"f32">,
    up: Tensor<"f32">,
    activation: Activation,
  ): void {
    const spec = { ...this.mode(), activation };
    const { gateBackward } = this.kernels("gateBackward", spec, () => ({
      emit: (module) => emitGateBackward(module, spec),
    }));
    const inputs = [dOut, gate, up].map((t) => this.input(t.data));
    this.runtime.issue(
      gateBackward,
      { items: dOut.data.length, grain: LINE, operations: 24 * dOut.data.length },
      ...[this.output(dGate), this.output(dUp), ...inputs],
      ...(["from", "to"] as const),
    );
  }

  embedBackward(dTable: Tensor<"f32">, dOut: Tensor<"f32">, tokens: Int32Array): void {
    const [vocabulary, width] = dTable.shape;
    checkIds("embedBackward", tokens, 0, vocabulary);
    const { embedBackward } = this.kernels("embedBackward", {}, () => ({
      emit: (module) => emitEmbedBackward(module),
    }));
    const addresses = [this.output(dTable), this.input(dOut.data), this.input(tokens)] as const;
    this.runtime.issue(
      embedBackward,
      { items: width, grain: LINE, operations: dOut.data.length },
      ...([...addresses, tokens.length, width, "from", "to"] as const),
    );
  }

  crossEntropy(losses: Tensor<"f32">, logits: Tensor<"f32">, targets: Int32Array, gradientScale: number): void {
    const width = logits.data.length / targets.length;
    checkIds("crossEntropy", targets, -1, width);
    const spec = { ...this.mode(), width };
    const { crossEntropy } = this.kernels("crossEntropy", spec, () => ({
      emit: (module) => emitCrossEntropy(module, spec),
    }));
    const addresses = [this.output(losses), this.output(logits), this.input(targets)] as const;
    this.runtime.issue(
      crossEntropy,
      { items: targets.length, operations: 24 * logits.data.length },
      ...([...addresses, "from", "to", { float: gradientScale }] as const),
    );
  }

  addSquaredNorm(out: Tensor<"f32">, x: Tensor<"f32">): void {
    const count = x.data.length;
    const chunks = Math.ceil(count / SQUARES_CHUNK);
    const mode = this.mode();
    const { squares } = this.kernels("squares", mode, () => ({ emit: (module) => emitSquares(module, mode) }));
    const sums = this.runtime.takeInput(4 * chunks);
    this.runtime.issue(
      squares,
      { items: chunks, operations: 2 * count },
      ...([sums, this.input(x.data), count, "from", "to"] as const),
    );
    this.#addColumns(this.output(out), sums, chunks, 1);
  }

  fill(out: Tensor<"f32">, value: number): void {
    const { fill } = this.kernels("fill", {}, () => ({ emit: (module) => emitFill(module) }));
    const count = out.data.length;
    this.runtime.issue(
      fill,
      { items: count, grain: LINE, operations: count },
      ...([this.output(out), "from", "to", { float: value }] as const),
    );
  }

  adamW({ weight, gradient, mean, square, ...call }: AdamWCall): void {
    const { gradientScale, learningRate, beta1, beta2, epsilon, weightDecay, step } = call;
    const mode = this.mode();
    const { adamW } = this.kernels("adamW", mode, () => ({ emit: (module) => emitAdamW(module, mode) }));
    const numbers: Record<(typeof ADAMW_NUMBERS)[number], number> = {
      keepMean: beta1,
      addMean: (1 - beta1) * gradientScale,
      keepSquare: beta2,
      addSquare: (1 - beta2) * gradientScale ** 2,
      rate: learningRate / (1 - beta1 ** step),
      correction: 1 / (1 - beta2 ** step),
      epsilon,
      decay: learningRate * weightDecay,
    };
    const count = weight.data.length;
    this.runtime.issue(
      adamW,
      { items: count, grain: LINE, operations: 20 * count },
      ...[this.output(weight), this.input(gradient.data), this.output(mean), this.output(square)],
      ...(["from", "to"] as const),
      ...ADAMW_NUMBERS.map((name) => ({ float: numbers[name] })),
    );
  }

  /** out [rows, columns] = or += left · right [inner, columns]; left [rows, inner] or, as columns, [inner, rows]. */
  #product(
    left: ProductSpec["left"],
    [out, a, b]: readonly [Tensor<"f32">, Tensor<"f32">, Tensor<"f32">],
    { rows, columns, inner, add }: { rows: number; columns: number; inner: number; add: boolean },
  ): void {
    const spec = { ...this.mode(), left };
    const { product } = this.kernels("product", spec, () => ({
      scratchBytes: PRODUCT_SCRATCH_BYTES,
      emit: (module) => emitProduct(module, spec),
    }));
    const addresses = [this.output(out), this.input(a.data), this.input(b.data)] as const;
    const leftStride = 4 * (left === "rows" ? inner : rows);
    this.runtime.issue(
      product,
      { items: rows, grain: STRIP, operations: 2 * rows * columns * inner },
      ...([...addresses, columns, inner, leftStride, add ? 1 : 0, "from", "to", "scratch"] as const),
    );
  }

  #addColumns(out: number, x: number, rows: number, columns: number): void {
    const { addColumns } = this.kernels("addColumns", {}, () => ({ emit: (module) => emitAddColumns(module) }));
    this.runtime.issue(
      addColumns,
      { items: columns, grain: LINE, operations: rows * columns },
      ...([out, x, rows, columns, "from", "to"] as const),
    );
  }
}
