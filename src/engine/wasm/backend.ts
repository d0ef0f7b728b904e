/**
 * The WASM backend: a decoder's operations as calls of generated kernels, queued until `flush` runs them together.
 *
 * Activations are views of the engine's memory. Arrays from elsewhere (tokens, tables, positions) are copied when the
 * operation is issued, so the caller may change them at once. Weights stay in the element type they came in.
 */

import { planAttention } from "../../attention/index.ts";
import { CapabilityError, ConfigError, ShapeError } from "../../errors.ts";
import { sizeOf, type Tensor, tensor, toF32 } from "../../tensor.ts";
import type { Activation, AttendCall, Backend, RotationTable, WeightMatrix } from "../backend.ts";
import { ModuleBuilder } from "./assembler/module.ts";
import {
  issueAttention,
  type PreparedAttention,
  prepareAttention,
  WASM_CAPABILITIES,
  wasmTile,
} from "./attention-runner.ts";
import { softcapCode } from "./attention-score-lowering.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import { detectFeatures, type WasmFeatures } from "./features.ts";
import { emitAdd, emitCopy, emitGate, emitScaleRows } from "./kernels/elementwise.ts";
import { emitEmbed } from "./kernels/embed.ts";
import { emitLinear, linearScratchBytes } from "./kernels/linear.ts";
import { emitRmsNorm } from "./kernels/norm.ts";
import { emitRotate } from "./kernels/rotate.ts";
import { UNDIVIDED } from "./program.ts";
import { WasmRuntime } from "./runtime.ts";

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
  /** Where arrays from elsewhere have been copied for the present program. */
  readonly #placed = new Map<ArrayBufferView, number>();
  readonly #plans: PlannedCall[] = [];

  constructor(runtime: WasmRuntime) {
    this.runtime = runtime;
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

  release(t: Tensor): void {
    const address = this.runtime.memory.addressOf(t.data);
    if (address !== undefined) this.runtime.releaseLater(address);
  }

  matrix(source: Tensor): WeightMatrix {
    if (source.dtype !== "f16" && source.dtype !== "bf16") return this.vector(source);
    const { address } = this.runtime.memory.take(source.data.byteLength);
    const data = this.runtime.memory.view(source.dtype, address, source.data.length);
    data.set(source.data);
    return tensor(source.dtype, source.shape, data) as WeightMatrix;
  }

  vector(source: Tensor): Tensor<"f32"> {
    const t = this.allocate(source.shape);
    t.data.set(toF32(source));
    return t;
  }

  embed(out: Tensor<"f32">, table: WeightMatrix, tokens: Int32Array): void {
    const width = table.shape[1];
    const spec = { width, weightType: table.dtype };
    const { embed } = this.#kernels("embed", spec, () => ({ emit: (module) => emitEmbed(module, spec) }));
    const ids = this.#input(tokens);
    this.runtime.issue(
      embed,
      { items: tokens.length, operations: tokens.length * width },
      ...([this.#output(out), this.#input(table.data), 0, ids, "from", "to"] as const),
    );
  }

  rmsNorm(out: Tensor<"f32">, x: Tensor<"f32">, weight: Tensor<"f32">, eps: number): void {
    const width = weight.data.length;
    const spec = { ...this.#mode(), width };
    const { rmsNorm } = this.#kernels("rmsNorm", spec, () => ({ emit: (module) => emitRmsNorm(module, spec) }));
    this.runtime.issue(
      rmsNorm,
      { items: x.data.length / width, operations: 4 * x.data.length },
      ...([this.#output(out), this.#input(x.data), this.#input(weight.data), "from", "to", { float: eps }] as const),
    );
  }

  linear(out: Tensor<"f32">, x: Tensor<"f32">, weight: WeightMatrix, bias?: Tensor<"f32">): void {
    const [outputs, inputs] = weight.shape;
    const spec = {
      ...this.#mode(),
      inputs,
      outStride: 4 * outputs,
      weightType: weight.dtype,
      bias: bias !== undefined,
    };
    const { linear } = this.#kernels("linear", spec, () => ({
      scratchBytes: linearScratchBytes(spec),
      emit: (module) => emitLinear(module, spec),
    }));
    const addresses = [this.#output(out), this.#input(x.data), this.#input(weight.data), 0] as const;
    const biasAddress = bias ? this.#input(bias.data) : 0;
    const tokens = x.data.length / inputs;
    this.runtime.issue(
      linear,
      { items: outputs, grain: LINE, operations: 2 * tokens * outputs * inputs },
      ...([...addresses, biasAddress, tokens, "from", "to", "scratch"] as const),
    );
  }

  rotate(x: Tensor<"f32">, table: RotationTable): void {
    const [tokens, heads, headDim] = x.shape;
    const { rotaryDim, rotaryOffset, pairing } = table;
    const spec = { ...this.#mode(), heads, headDim, rotaryDim, rotaryOffset, pairing };
    const { rotate } = this.#kernels("rotate", spec, () => ({ emit: (module) => emitRotate(module, spec) }));
    const at = this.#output(x);
    this.runtime.issue(
      rotate,
      { items: tokens, operations: 4 * x.data.length },
      ...([at, at, this.#input(table.cos), this.#input(table.sin), "from", "to"] as const),
    );
  }

  scaleRows(x: Tensor<"f32">, scales: Float32Array): void {
    const spec = { width: x.data.length / scales.length };
    const { scaleRows } = this.#kernels("scaleRows", spec, () => ({ emit: (module) => emitScaleRows(module, spec) }));
    this.runtime.issue(
      scaleRows,
      { items: scales.length, operations: x.data.length },
      this.#output(x),
      this.#input(scales),
      "from",
      "to",
    );
  }

  attend(out: Tensor<"f32">, call: AttendCall): void {
    const { q, kv, scale, sinks } = call;
    issueAttention(this.runtime, this.#planFor(call), {
      q: this.#input(q.data),
      keys: this.#input(kv.keys.data),
      values: this.#input(kv.values.data),
      out: this.#output(out),
      stats: 0,
      sinks: sinks ? this.#input(sinks) : 0,
      scale,
      options: 0,
    });
  }

  gate(out: Tensor<"f32">, gate: Tensor<"f32">, up: Tensor<"f32">, activation: Activation): void {
    const spec = { ...this.#mode(), activation };
    const kernels = this.#kernels("gate", spec, () => ({ emit: (module) => emitGate(module, spec) }));
    this.#elementwise(kernels.gate, out, gate, up);
  }

  add(out: Tensor<"f32">, a: Tensor<"f32">, b: Tensor<"f32">): void {
    const kernels = this.#kernels("add", {}, () => ({ emit: (module) => emitAdd(module) }));
    this.#elementwise(kernels.add, out, a, b);
  }

  copy(out: Tensor<"f32">, x: Tensor<"f32">): void {
    const { copy } = this.#kernels("copy", {}, () => ({ emit: (module) => emitCopy(module) }));
    this.runtime.issue(copy, UNDIVIDED, this.#output(out), this.#input(x.data), 4 * x.data.length);
  }

  async flush(): Promise<void> {
    this.#placed.clear();
    this.#plans.length = 0;
    await this.runtime.flush();
  }

  dispose(): void {
    this.runtime.dispose();
  }

  #elementwise(kernel: number, out: Tensor<"f32">, a: Tensor<"f32">, b: Tensor<"f32">): void {
    const addresses = [this.#output(out), this.#input(a.data), this.#input(b.data)] as const;
    const operations = 16 * out.data.length;
    this.runtime.issue(kernel, { items: out.data.length, grain: LINE, operations }, ...addresses, "from", "to");
  }

  #mode(): { relaxed: boolean } {
    return { relaxed: this.runtime.features.relaxed };
  }

  #kernels(name: string, spec: object, create: Parameters<WasmRuntime["kernels"]>[1]) {
    return this.runtime.kernels(`${name} ${JSON.stringify(spec)}`, create);
  }

  /** The address of an array, copied into the engine's memory when it lies elsewhere. */
  #input(values: Float32Array | Int32Array | Uint16Array): number {
    const known = this.runtime.memory.addressOf(values) ?? this.#placed.get(values);
    if (known !== undefined) return known;
    const address = this.runtime.placeInput(values);
    this.#placed.set(values, address);
    return address;
  }

  #output(t: Tensor<"f32">): number {
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

  /** Layers with the same mask, heads and positions share one plan. */
  #planFor(call: AttendCall): PreparedAttention {
    const found = this.#plans.find((one) => samePlan(one.call, call));
    if (found) return found.prepared;
    const { q, kv, mask, queryPositions, querySegments, sinks, softcap } = call;
    const [Tq, H, D] = q.shape;
    const plan = planAttention(
      {
        q,
        kv,
        mask,
        queryPositions,
        querySegments,
        ...(sinks && { sinks }),
        ...(softcap === undefined ? {} : { softcap }),
      },
      {
        capabilities: WASM_CAPABILITIES,
        workers: this.runtime.workers,
        tile: wasmTile((Tq * H) / kv.keys.shape[1], D),
      },
    );
    const layout = { keys: storageOf(kv.keys), values: storageOf(kv.values), slots: slotsOf(kv, plan.dims) };
    const memory = {
      place: (numbers: ArrayBufferView) => this.runtime.placeInput(numbers),
      take: (bytes: number) => this.runtime.takeInput(bytes),
    };
    const prepared = prepareAttention(this.runtime, memory, plan, layout, {
      ...(softcap !== undefined && { score: [softcapCode(softcap)] }),
      rowColumns: 0,
      keyColumns: 0,
    });
    this.#plans.push({ call, prepared });
    return prepared;
  }
}

/** A plan in memory, and the call it was made for. */
type PlannedCall = { call: AttendCall; prepared: PreparedAttention };

/** Whether a plan for one call serves another. */
function samePlan(a: AttendCall, b: AttendCall): boolean {
  const shapes = (call: AttendCall): string => `${call.q.shape};${call.kv.keys.shape};${call.kv.values.shape}`;
  return (
    shapes(a) === shapes(b) &&
    (a.mask === b.mask || a.mask.hash() === b.mask.hash()) &&
    a.softcap === b.softcap &&
    (a.sinks === undefined) === (b.sinks === undefined) &&
    sameNumbers(a.queryPositions, b.queryPositions) &&
    sameNumbers(a.querySegments, b.querySegments) &&
    sameNumbers(a.kv.positions, b.kv.positions) &&
    sameNumbers(a.kv.segments, b.kv.segments)
  );
}

function sameNumbers(a: Int32Array, b: Int32Array): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
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
