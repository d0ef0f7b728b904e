/**
 * An engine's attention on a WASM runtime: places what the kernels need, runs a plan, reads what they wrote.
 */

import {
  type AttentionGradients,
  type AttentionPlan,
  type AttentionRequest,
  checkPlanFits,
  type KeyValues,
  type PlanOptions,
  type PlanRequest,
  planAttention,
  type ReferenceOutput,
  selectKeys,
} from "../../attention/index.ts";
import { shapeOfKv, withDenseKeys } from "../../attention/kv-gather.ts";
import { readPlanRequest } from "../../attention/plan.ts";
import { type AttentionSpec, normalizeAttention } from "../../attention/spec.ts";
import type { Tensor } from "../../tensor.ts";
import type { EngineMemory } from "../backend.ts";
import { wasmAttentionGradients } from "./attention-gradients.ts";
import { attentionOptions, numbersOf } from "./attention-options.ts";
import { readResults } from "./attention-results.ts";
import {
  type AttentionOperands,
  issueAttention,
  prepareAttention,
  WASM_CAPABILITIES,
  wasmTile,
} from "./attention-runner.ts";
import { lowerScore } from "./attention-score-lowering.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import { WasmBackend } from "./backend.ts";
import { CallBlocks } from "./call-blocks.ts";
import { PreparedRun } from "./prepared-run.ts";
import { RequestKey } from "./request-key.ts";
import type { WasmRuntime } from "./runtime.ts";

/** Plans that stay in the engine's memory, and the most bytes that one of them may have. */
const MAX_KEPT = 8;
const MAX_KEPT_BYTES = 2 ** 20;

/** Runs attention requests and plans on a runtime. */
export class WasmRunner {
  readonly capabilities: typeof WASM_CAPABILITIES = WASM_CAPABILITIES;
  readonly memory: EngineMemory;
  readonly #runtime: WasmRuntime;
  readonly #workers: number;
  /** Plans that stay in the engine's memory, oldest first. */
  readonly #kept = new Map<AttentionPlan, PreparedRun>();

  /** @param workers - what plans are made for; those of the runtime when absent */
  constructor(runtime: WasmRuntime, workers: number = runtime.workers) {
    this.#runtime = runtime;
    this.memory = new WasmBackend(runtime);
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
    const kept = this.#kept.get(plan);
    if (kept?.fits(request)) return kept.run(request);
    const read = readPlanRequest(request);
    checkPlanFits("run", plan, read, request.kv);
    if (!RequestKey.takes(request) || plan.bytes > MAX_KEPT_BYTES) return this.#execute(plan, read.spec, request.kv);
    return this.#keep(plan, new PreparedRun(this.#runtime, plan, request, read.spec)).run(request);
  }

  /** Keeps a plan in place of what it was kept for before, or of the plan that was kept longest. */
  #keep(plan: AttentionPlan, run: PreparedRun): PreparedRun {
    const outdated = this.#kept.has(plan) || this.#kept.size < MAX_KEPT ? plan : [...this.#kept.keys()][0];
    this.#kept.get(outdated)?.release();
    this.#kept.delete(outdated);
    this.#kept.set(plan, run);
    return run;
  }

  /** Gradients of a request. */
  async gradients(request: AttentionRequest, dOut: Tensor<"f32" | "f64">): Promise<AttentionGradients> {
    return wasmAttentionGradients(this.#runtime, request, dOut, this.#workers);
  }

  /** Stops the workers. */
  dispose(): void {
    this.#runtime.dispose();
  }

  async #execute(plan: AttentionPlan, request: AttentionSpec, kv: KeyValues | undefined): Promise<ReferenceOutput> {
    const runtime = this.#runtime;
    const memory = new CallBlocks(runtime);
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
        options: memory.place(attentionOptions((numbers) => memory.locate(numbers), { keys, values }, lowered)),
      };
      issueAttention(runtime, prepared, operands);
      await runtime.flush();
      return readResults(
        request,
        runtime.memory.view("f32", out, rows * Dv).slice(),
        runtime.memory.view("f32", stats, rows * 2),
        request.sinks,
      );
    } finally {
      memory.release();
    }
  }
}
