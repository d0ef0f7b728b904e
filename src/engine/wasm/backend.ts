/**
 * The WASM backend: a decoder's operations as calls of generated kernels, queued until `flush` runs them together.
 *
 * Activations are views of the engine's memory. Arrays from elsewhere (tokens, tables, positions) are copied when the
 * first operation that reads them is issued, and must not change before the flush. Weights stay in the element type
 * they came in, or are converted once, when they come.
 */

import type { QuantizedKv } from "../../attention/index.ts";
import { bytesPerElement } from "../../dtype.ts";
import { CapabilityError, ConfigError, ShapeError } from "../../errors.ts";
import { sizeOf, type Tensor, tensor, toF32 } from "../../tensor.ts";
import type { Activation, AttendCall, Backend, ColumnMassCall, RotationTable } from "../backend.ts";
import {
  convertWeights,
  createMatrix,
  isInterleaved,
  type MatrixSource,
  storedType,
  type WeightMatrix,
  type WeightType,
} from "../weight-matrix.ts";
import { ModuleBuilder } from "./assembler/module.ts";
import { detectFeatures, type WasmFeatures } from "./features.ts";
import { emitColumnMass } from "./kernels/column-mass.ts";
import { emitAdd, emitCopy, emitCopyRows, emitGate, emitScaleRows } from "./kernels/elementwise.ts";
import { emitEmbed } from "./kernels/embed.ts";
import { emitLinear, linearScratchBytes } from "./kernels/linear.ts";
import { emitRmsNorm } from "./kernels/norm.ts";
import { emitQuantize } from "./kernels/quantize.ts";
import { emitRotate } from "./kernels/rotate.ts";
import { UNDIVIDED } from "./program.ts";
import { WasmRuntime } from "./runtime.ts";
import { StepAttention } from "./step-attention.ts";

/** How a WASM backend is made. */
export type WasmOptions = {
  /**
   * Worker threads that share the work; the caller's thread stays free. 0 runs on the caller's thread. Default: the
   * number of cores where memory can be shared, 0 elsewhere.
   */
  threads?: number;
  /** The most memory, in bytes, at most 4 GiB. */
  maxBytes?: number;
  /** Abilities to do without, for comparison; what the runtime lacks stays lacking. */
  features?: Partial<WasmFeatures>;
};

/** TypeScript sources run as they are (in tests) have no worker.js beside them. */
const HAS_WORKER_FILE = import.meta.url.endsWith(".js");

/** More threads than this rarely help and cost memory; who wants them asks for them. */
const MAX_DEFAULT_THREADS = 16;

/** Elements that workers take at a time: whole cache lines. */
const LINE = 16;

/**
 * Starts a WASM backend.
 *
 * @throws as `createWasmRuntime`
 */
export async function createWasmBackend(options: WasmOptions = {}): Promise<WasmBackend> {
  return new WasmBackend(await createWasmRuntime("createWasmBackend", options));
}

/**
 * Starts a runtime.
 *
 * @param where - the function that refuses, for messages
 * @throws CapabilityError, by name of what is missing, where the runtime has no SIMD or cannot share memory among threads
 * @throws ConfigError when an option is out of range
 */
export async function createWasmRuntime(where: string, options: WasmOptions): Promise<WasmRuntime> {
  const features = limitFeatures(detectFeatures(), options.features);
  const threads = options.threads ?? (features.sharedMemory && HAS_WORKER_FILE ? availableCores() : 0);
  if (!Number.isInteger(threads) || threads < 0 || threads > 256) {
    throw new ConfigError(where, "threads must be an integer from 0 to 256", { threads });
  }
  const { maxBytes } = options;
  if (maxBytes !== undefined && !(maxBytes > 0 && maxBytes <= 2 ** 32)) {
    throw new ConfigError(where, "maxBytes must be from 1 to 4294967296", { maxBytes });
  }
  if (!features.simd) {
    throw new CapabilityError(
      where,
      "a runtime with 128-bit WebAssembly SIMD",
      { simd: false },
      "Use the reference backend, or a newer runtime.",
    );
  }
  if (threads > 0 && !features.sharedMemory) {
    throw new CapabilityError(
      where,
      "memory that threads can share",
      { threads, sharedMemory: false },
      "Serve the page with COOP and COEP headers, or pass threads: 0.",
    );
  }
  return WasmRuntime.create({ features, threads, maxBytes }, (memory) => {
    // A module must not ask for a smaller maximum than the memory has.
    return new ModuleBuilder({ minimumPages: 1, maximumPages: memory.maximumPages, shared: memory.shared });
  });
}

/** Operations of a decoder on a WASM runtime. */
export class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly runtime: WasmRuntime;
  readonly #attention: StepAttention;

  constructor(runtime: WasmRuntime) {
    this.runtime = runtime;
    this.#attention = new StepAttention(runtime);
  }

  get pending(): boolean {
    return this.runtime.pending;
  }

  /** Bytes of weights, activations and caches held now. */
  get usedBytes(): number {
    return this.runtime.memory.usedBytes;
  }

  allocate(shape: readonly number[]): Tensor<"f32"> {
    const size = sizeOf(shape);
    const { address } = this.runtime.memory.take(size * 4);
    return tensor("f32", shape, this.runtime.memory.view("f32", address, size));
  }

  release(t: Tensor | WeightMatrix): void {
    for (const array of t.dtype === "int8" ? [t.data, t.scales] : [t.data]) {
      const address = this.runtime.memory.addressOf(array);
      if (address !== undefined) this.runtime.releaseLater(address);
    }
  }

  matrix(source: MatrixSource, type: WeightType = storedType(source), name = "matrix"): WeightMatrix {
    const { memory } = this.runtime;
    const take: Parameters<typeof createMatrix>[3] = (dtype, length) =>
      memory.view(dtype, memory.take(length * bytesPerElement(dtype)).address, length);
    const kept = createMatrix(name, type, source.shape, take, true);
    try {
      convertWeights(kept, source, name);
    } catch (error) {
      this.release(kept);
      throw error;
    }
    return kept;
  }

  vector(source: Tensor): Tensor<"f32"> {
    const t = this.allocate(source.shape);
    t.data.set(toF32(source));
    return t;
  }

  embed(out: Tensor<"f32">, table: WeightMatrix, tokens: Int32Array): void {
    const width = table.shape[1];
    const spec = { width, weightType: table.dtype, interleaved: isInterleaved(table) };
    const { embed } = this.kernels("embed", spec, () => ({ emit: (module) => emitEmbed(module, spec) }));
    const ids = this.input(tokens);
    this.runtime.issue(
      embed,
      { items: tokens.length, operations: tokens.length * width },
      ...([this.output(out), this.input(table.data), this.scalesOf(table), ids, "from", "to"] as const),
    );
  }

  rmsNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number): void {
    const width = weight.data.length;
    const spec = { ...this.mode(), width };
    const { rmsNorm } = this.kernels("rmsNorm", spec, () => ({ emit: (module) => emitRmsNorm(module, spec) }));
    this.runtime.issue(
      rmsNorm,
      { items: x.data.length / width, operations: 4 * x.data.length },
      ...([this.output(out), this.input(x.data), this.input(weight.data), "from", "to", { float: eps }] as const),
    );
  }

  linear(out: Tensor<"f32">, x: Tensor<"f32">, weight: WeightMatrix, bias?: Tensor<"f32">): void {
    const [outputs, inputs] = weight.shape;
    const spec = {
      ...this.mode(),
      inputs,
      outStride: 4 * outputs,
      weightType: weight.dtype,
      bias: bias !== undefined,
      interleaved: isInterleaved(weight),
    };
    const { linear } = this.kernels("linear", spec, () => ({
      scratchBytes: linearScratchBytes(spec),
      emit: (module) => emitLinear(module, spec),
    }));
    const scales = this.scalesOf(weight);
    const addresses = [this.output(out), this.input(x.data), this.input(weight.data), scales] as const;
    const biasAddress = bias ? this.input(bias.data) : 0;
    const tokens = x.data.length / inputs;
    this.runtime.issue(
      linear,
      { items: outputs, grain: LINE, operations: 2 * tokens * outputs * inputs },
      ...([...addresses, biasAddress, tokens, "from", "to", "scratch"] as const),
    );
  }

  rotate(x: Tensor<"f32">, table: RotationTable): void {
    this.turn(x, table, false);
  }

  /** Rotates x [T, H, D] in place, or multiplies it by the transpose of the rotation. */
  protected turn(x: Tensor<"f32">, table: RotationTable, transpose: boolean): void {
    const [tokens, heads, headDim] = x.shape;
    const { rotaryDim, rotaryOffset, pairing } = table;
    const spec = { ...this.mode(), heads, headDim, rotaryDim, rotaryOffset, pairing, transpose };
    const { rotate } = this.kernels("rotate", spec, () => ({ emit: (module) => emitRotate(module, spec) }));
    const at = this.output(x);
    this.runtime.issue(
      rotate,
      { items: tokens, operations: 4 * x.data.length },
      ...([at, at, this.input(table.cos), this.input(table.sin), "from", "to"] as const),
    );
  }

  scaleRows(x: Tensor<"f32">, scales: Float32Array): void {
    const spec = { width: x.data.length / scales.length };
    const { scaleRows } = this.kernels("scaleRows", spec, () => ({ emit: (module) => emitScaleRows(module, spec) }));
    this.runtime.issue(
      scaleRows,
      { items: scales.length, operations: x.data.length },
      this.output(x),
      this.input(scales),
      "from",
      "to",
    );
  }

  attend(out: Tensor<"f32">, call: AttendCall): void {
    this.#attention.attend(call, this.output(out));
  }

  columnMass(out: Tensor<"f32">, logits: Tensor<"f32">, { starts, ends, weights, reduce }: ColumnMassCall): void {
    const [heads, width] = out.shape;
    const rows = starts.length / heads;
    const spec = { ...this.mode(), reduce };
    const { columnMass } = this.kernels("columnMass", spec, () => ({ emit: (module) => emitColumnMass(module, spec) }));
    const addresses = [this.output(out), this.output(logits), ...[starts, ends, weights].map((one) => this.input(one))];
    const operations = 20 * starts.length * width;
    this.runtime.issue(columnMass, { items: heads, operations }, ...addresses, rows, width, "from", "to");
  }

  gate(out: Tensor<"f32">, gate: Tensor<"f32">, up: Tensor<"f32">, activation: Activation): void {
    const spec = { ...this.mode(), activation };
    const kernels = this.kernels("gate", spec, () => ({ emit: (module) => emitGate(module, spec) }));
    this.#elementwise(kernels.gate, out, gate, up);
  }

  add(out: Tensor<"f32">, a: Tensor<"f32">, b: Tensor<"f32">): void {
    const kernels = this.kernels("add", {}, () => ({ emit: (module) => emitAdd(module) }));
    this.#elementwise(kernels.add, out, a, b);
  }

  copy(out: Tensor<"f32">, x: Tensor<"f32">, head?: number): void {
    if (head !== undefined) {
      const [tokens, heads, width] = x.shape;
      const spec = { width: 4 * width, stride: 4 * heads * width };
      const kernels = this.kernels("copyRows", spec, () => ({ emit: (module) => emitCopyRows(module, spec) }));
      const from = this.input(x.data) + 4 * head * width;
      this.runtime.issue(kernels.copyRows, { items: tokens, operations: 0 }, this.output(out), from, "from", "to");
      return;
    }
    const { copy } = this.kernels("copy", {}, () => ({ emit: (module) => emitCopy(module) }));
    this.runtime.issue(copy, UNDIVIDED, this.output(out), this.input(x.data), 4 * x.data.length);
  }

  quantize(out: QuantizedKv, x: Tensor<"f32">, head?: number): void {
    const { bits, axis, codes, scales } = out;
    if (bits === "fp8" || axis !== "dkv") {
      throw new CapabilityError("quantize", "8 or 4 bits and a scale for each head", { bits, axis });
    }
    const [heads, width] = x.shape.slice(-2);
    const spec = { bits, width, rowStride: head === undefined ? 4 * width : 4 * heads * width };
    const { quantize } = this.kernels("quantize", spec, () => ({ emit: (module) => emitQuantize(module, spec) }));
    const from = this.input(x.data) + 4 * (head ?? 0) * width;
    const items = scales.data.length;
    this.runtime.issue(
      quantize,
      { items, operations: 16 * items * width },
      ...([this.output(codes), this.output(scales), from, "from", "to"] as const),
    );
  }

  flush(): Promise<void> {
    return this.runtime.flush();
  }

  dispose(): void {
    this.runtime.dispose();
  }

  #elementwise(kernel: number, out: Tensor<"f32">, a: Tensor<"f32">, b: Tensor<"f32">): void {
    const addresses = [this.output(out), this.input(a.data), this.input(b.data)] as const;
    const operations = 16 * out.data.length;
    this.runtime.issue(kernel, { items: out.data.length, grain: LINE, operations }, ...addresses, "from", "to");
  }

  protected mode(): { relaxed: boolean } {
    return { relaxed: this.runtime.features.relaxed };
  }

  protected kernels(name: string, spec: object, create: Parameters<WasmRuntime["kernels"]>[1]) {
    return this.runtime.kernels(`${name} ${JSON.stringify(spec)}`, create);
  }

  protected input(values: ArrayBufferView): number {
    return this.runtime.locateInput(values);
  }

  /** The address of the scales of rows; 0 where a matrix has none. */
  protected scalesOf(matrix: WeightMatrix): number {
    return matrix.dtype === "int8" ? this.input(matrix.scales) : 0;
  }

  protected output(t: Tensor): number {
    const address = this.runtime.memory.addressOf(t.data);
    if (address === undefined) {
      throw new ShapeError(
        "WasmBackend",
        "results must go to tensors of this backend",
        { shape: t.shape },
        "Make them with allocate.",
      );
    }
    return address;
  }
}

function limitFeatures(there: WasmFeatures, wanted: Partial<WasmFeatures> = {}): WasmFeatures {
  const limited = Object.entries(there).map(([name, value]) => [
    name,
    value && wanted[name as keyof WasmFeatures] !== false,
  ]);
  return Object.fromEntries(limited) as WasmFeatures;
}

function availableCores(): number {
  const scope = globalThis as {
    navigator?: { hardwareConcurrency?: number };
    process?: { getBuiltinModule?: (name: string) => unknown };
  };
  // Node 20 has no navigator.
  const os = scope.process?.getBuiltinModule?.("node:os") as { availableParallelism?: () => number } | undefined;
  const cores = os?.availableParallelism?.() ?? scope.navigator?.hardwareConcurrency ?? 1;
  return Math.max(1, Math.min(cores, MAX_DEFAULT_THREADS));
}
