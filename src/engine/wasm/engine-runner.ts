/**
 * An engine's attention on a WASM runtime: places what the kernels need, runs a plan, reads what they wrote.
 */

import {
  type AttentionPlan,
  type AttentionRequest,
  checkPlanFits,
  type KeyValues,
  type KvStore,
  type PlanOptions,
  type PlanRequest,
  planAttention,
  type ReferenceOutput,
  selectKeys,
} from "../../attention/index.ts";
import { shapeOfKv, withDenseKeys } from "../../attention/kv-gather.ts";
import { readPlanRequest } from "../../attention/plan.ts";
import { type AttentionSpec, normalizeAttention } from "../../attention/spec.ts";
import { tensor } from "../../tensor.ts";
import {
  type AttentionOperands,
  issueAttention,
  prepareAttention,
  WASM_CAPABILITIES,
  wasmTile,
} from "./attention-runner.ts";
import { type LoweredScore, lowerScore } from "./attention-score-lowering.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import { OPTIONS, OPTIONS_BYTES } from "./kernels/attention-tile.ts";
import type { Block } from "./memory.ts";
import type { WasmRuntime } from "./runtime.ts";

/** Runs attention requests and plans on a runtime. */
export class WasmRunner {
  readonly capabilities: typeof WASM_CAPABILITIES = WASM_CAPABILITIES;
  readonly #runtime: WasmRuntime;
  readonly #workers: number;

  /** @param workers - what plans are made for; those of the runtime when absent */
  constructor(runtime: WasmRuntime, workers: number = runtime.workers) {
    this.#runtime = runtime;
    this.#workers = workers;
  }

  /** What plans are made for. */
  get workers(): number {
    return this.#workers;
  }

  /** Bytes of the engine's memory that are taken now. */
  get usedBytes(): number {
    return this.#runtime.memory.usedBytes;
  }

  /** Tile sizes for a request; whole pages where there are pages. Sizes are checked elsewhere. */
  tile({ q, k, kv }: PlanRequest): NonNullable<PlanOptions["tile"]> {
    const [Tq, H, D] = q.shape.slice(-3);
    const Hk = (kv?.keys ?? k)?.shape.at(-2) ?? H;
    const { rows, keys } = wasmTile((Tq * H) / Hk || 1, D);
    return kv?.layout === "paged" ? { rows } : { rows, keys };
  }

  /** Plans a request and runs it. */
  async attend(request: AttentionRequest): Promise<ReferenceOutput> {
    const { select } = request;
    const chosen = select === undefined ? request : { ...request, select: selectKeys({ ...request, select }) };
    const plan = planAttention(chosen, {
      capabilities: this.capabilities,
      workers: this.#workers,
      tile: this.tile(chosen),
    });
    return this.#execute(plan, normalizeAttention(withDenseKeys(chosen, shapeOfKv)), chosen.kv);
  }

  /** Runs a plan that was made for such a request. */
  async run(plan: AttentionPlan, request: AttentionRequest): Promise<ReferenceOutput> {
    const read = readPlanRequest(request);
    checkPlanFits("run", plan, read, request.kv);
    return this.#execute(plan, read.spec, request.kv);
  }

  /** Stops the workers. */
  dispose(): void {
    this.#runtime.dispose();
  }

  async #execute(plan: AttentionPlan, request: AttentionSpec, kv: KeyValues | undefined): Promise<ReferenceOutput> {
    const runtime = this.#runtime;
    const memory = new CallMemory(runtime);
    try {
      const { B, Tq, H, Dv } = plan.dims;
      const { keys, values } = kv ?? { keys: request.k, values: request.v };
      const layout = { keys: storageOf(keys), values: storageOf(values), slots: slotsOf(kv, plan.dims) };
      const lowered = lowerScore(request, (bias) => memory.locate(bias));
      const { score, dropout, rowColumns, keyColumns } = lowered;
      const prepared = prepareAttention(runtime, memory, plan, layout, {
        ...(score && { score }),
        ...(dropout && { dropout: true }),
        rowColumns,
        keyColumns,
      });
      const rows = B * Tq * H;
      const out = memory.take(rows * Dv * 4);
      const stats = memory.take(rows * 8);
      const operands: AttentionOperands = {
        q: memory.locate(request.q.data),
        keys: memory.locate(numbersOf(keys)),
        values: memory.locate(numbersOf(values)),
        out,
        stats,
        sinks: request.sinks ? memory.place(Float32Array.from(request.sinks)) : 0,
        scale: request.scale,
        options: placeOptions(memory, lowered, keys, values),
      };
      issueAttention(runtime, prepared, operands);
      await runtime.flush();
      return readResults(
        request,
        runtime.memory.view("f32", out, rows * Dv).slice(),
        runtime.memory.view("f32", stats, rows * 2),
      );
    } finally {
      memory.release();
    }
  }
}

/** The blocks of one call. */
class CallMemory {
  readonly #runtime: WasmRuntime;
  readonly #blocks: Block[] = [];

  constructor(runtime: WasmRuntime) {
    this.#runtime = runtime;
  }

  /** Takes bytes that are zero. */
  take(bytes: number): number {
    const block = this.#runtime.memory.take(bytes);
    this.#blocks.push(block);
    return block.address;
  }

  /** Copies numbers into the engine's memory. */
  place(values: ArrayBufferView): number {
    const address = this.take(values.byteLength);
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    this.#runtime.memory.view("u8", address, values.byteLength).set(bytes);
    return address;
  }

  /** The address of numbers, copied when they lie elsewhere. */
  locate(values: ArrayBufferView): number {
    return this.#runtime.memory.addressOf(values) ?? this.place(values);
  }

  release(): void {
    for (const block of this.#blocks) this.#runtime.memory.release(block);
  }
}

function numbersOf(store: KvStore): ArrayBufferView {
  return "codes" in store ? store.codes.data : store.data;
}

function placeOptions(memory: CallMemory, lowered: LoweredScore, keys: KvStore, values: KvStore): number {
  const { rowTable, keyTable, dropout } = lowered;
  const block = new DataView(new ArrayBuffer(OPTIONS_BYTES));
  const address = (name: keyof typeof OPTIONS, numbers: ArrayBufferView | undefined): void => {
    if (numbers) block.setInt32(OPTIONS[name], memory.locate(numbers), true);
  };
  address("rowTable", rowTable);
  address("keyTable", keyTable);
  address("keyScales", "codes" in keys ? keys.scales.data : undefined);
  address("valueScales", "codes" in values ? values.scales.data : undefined);
  if (dropout) {
    block.setUint32(OPTIONS.dropThreshold, dropout.threshold, true);
    block.setFloat32(OPTIONS.dropKept, dropout.kept, true);
  }
  return memory.place(block);
}

/**
 * The results of a call.
 *
 * @param out - f32 [B, Tq, H, Dv]
 * @param stats - f32 [B, Tq, H, 2], largest score and sum of exponentials
 */
function readResults({ dims, batched, sinks }: AttentionSpec, out: Float32Array, stats: Float32Array): ReferenceOutput {
  const { B, Tq, H, Dv } = dims;
  const lse = new Float32Array(B * Tq * H);
  const maxLogits = new Float64Array(B * H).fill(-Infinity);
  for (let row = 0; row < lse.length; row++) {
    const [max, sum] = [stats[2 * row], stats[2 * row + 1]];
    const own = sum > 0 ? max + Math.log(sum) : -Infinity;
    lse[row] = sinks === undefined ? own : logAddExp(own, sinks[row % H]);
    const head = Math.floor(row / (Tq * H)) * H + (row % H);
    if (sum > 0) maxLogits[head] = Math.max(maxLogits[head], max);
  }
  const batch = batched ? [B] : [];
  return {
    out: tensor("f32", [...batch, Tq, H, Dv], out),
    lse: tensor("f32", [...batch, Tq, H], lse),
    maxLogits: tensor("f64", [...batch, H], maxLogits),
  };
}

/** ln(e^a + e^b); −Infinity when both are. */
function logAddExp(a: number, b: number): number {
  const top = Math.max(a, b);
  return top === -Infinity ? top : top + Math.log1p(Math.exp(Math.min(a, b) - top));
}
