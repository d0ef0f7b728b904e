/**
 * The front door: checks a request, plans it and hands it to a backend. No kernel lives here.
 */

import {
  type AttentionGradients,
  type AttentionPlan,
  type AttentionRequest,
  type Capabilities,
  type KernelName,
  type PlanOptions,
  type PlanRequest,
  planAttention,
  REFERENCE_CAPABILITIES,
  type ReferenceOutput,
  referenceAttention,
  referenceAttentionGradients,
  runPlan,
  selectKeys,
} from "../attention/index.ts";
import { CapabilityError, ConfigError, DeviceError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { EngineMemory } from "./backend.ts";
import { createReferenceBackend } from "./reference/backend.ts";
import { createWasmRuntime } from "./wasm/backend.ts";
import { WasmRunner } from "./wasm/engine-runner.ts";
import { detectFeatures, type WasmFeatures } from "./wasm/features.ts";

/**
 * Where an engine computes: "wasm" in f32 on generated SIMD kernels, "reference" in f64 by the formula, slowly, on the
 * caller's thread.
 */
export type BackendName = "wasm" | "reference";

/** How an engine is made. */
export type EngineOptions = {
  /** Where to compute; when absent "wasm", or "reference" where the runtime has no 128-bit WebAssembly SIMD. */
  readonly backend?: BackendName;
  /** Workers that plans are made for, at least 1; when absent those that compute: the threads, or 1. */
  readonly workers?: number;
  /**
   * Threads of "wasm" that share the work, while the caller's stays free; 0 computes on the caller's thread. When absent
   * the number of cores where memory can be shared, 0 elsewhere.
   */
  readonly threads?: number;
  /** The most memory of "wasm", in bytes, at most 4 GiB, which is the default (1 GiB without shared memory). */
  readonly maxBytes?: number;
  /** Abilities of the runtime that "wasm" is to do without, for comparison. */
  readonly features?: Partial<WasmFeatures>;
};

/** What attention returns. */
export type AttentionResult = {
  /** [B, Tq, H, Dv] in the dtype of q, without the batch axis if q has none; zeros where a row saw no key. */
  readonly out: Tensor<"f32" | "f64">;
  /** [B, Tq, H] natural log-sum-exp, sinks included; −Infinity where there was nothing. */
  readonly lse: Tensor<"f32" | "f64">;
  /** [B, H] largest score of each head, without sinks; there if `outputs.maxLogits` asks for it. */
  readonly maxLogits?: Tensor<"f32" | "f64">;
};

/** What may be chosen for one plan; the engine knows the rest. */
export type EnginePlanOptions = Omit<PlanOptions, "capabilities" | "workers">;

/** Attention on one backend. */
export interface Engine extends Disposable {
  /** What the backend can do. */
  readonly capabilities: Capabilities;
  /**
   * Bytes of WebAssembly memory that are taken now; 0 for the reference. Calls give back what they take; the last eight
   * plans that have run stay, up to 1 MiB each.
   */
  readonly usedBytes: number;
  /**
   * Memory that attention reads in place, for tensors and caches: `createKvCache(layers, { memory: engine.memory })`.
   * Tensors elsewhere are copied for every call.
   */
  readonly memory: EngineMemory;
  /**
   * Attention of one request, planned and run.
   *
   * @param request - see AttentionRequest
   * @param options - `kernel`: take this one or refuse
   * @throws ShapeError or ConfigError when the request does not fit together
   * @throws CapabilityError when the backend cannot do it
   */
  attention(request: AttentionRequest, options?: { readonly kernel?: KernelName }): Promise<AttentionResult>;
  /**
   * Gradients of Σ dOut · out in every input that the request has; selections and masks are constants.
   *
   * @param request - see AttentionRequest; keys and values of a view have their gradients in slot order
   * @param dOut - f32 or f64 [B, Tq, H, Dv], the gradient of the output
   * @returns f32 from "wasm", f64 from "reference"
   * @throws ShapeError when `dOut` has not the output's shape
   * @throws CapabilityError for custom score modifiers, and for what attention itself refuses
   */
  attentionGradients(request: AttentionRequest, dOut: Tensor<"f32" | "f64">): Promise<AttentionGradients>;
  /**
   * A plan for requests of these sizes, positions, masks and options: made once, run in every layer.
   *
   * @param request - see PlanRequest; shapes are enough
   */
  plan(request: PlanRequest, options?: EnginePlanOptions): AttentionPlan;
  /**
   * Runs a plan of this engine. Lists of positions and segments that were given with a plan must not be written to while
   * it is in use: only short ones are compared number by number at every run.
   *
   * @throws ShapeError or ConfigError when the plan was made for something else
   */
  run(plan: AttentionPlan, request: AttentionRequest): Promise<AttentionResult>;
  /** Gives back what the engine holds. Nothing can be computed afterwards. */
  dispose(): void;
}

/** What a backend brings to an engine. */
type Runner = {
  readonly capabilities: Capabilities;
  readonly workers: number;
  readonly usedBytes: number;
  readonly memory: EngineMemory;
  /** The tile sizes it wants for a request; absent: any. */
  readonly tile?: (request: PlanRequest) => NonNullable<PlanOptions["tile"]>;
  /** Attention without a kernel asked for. */
  readonly attend: (request: AttentionRequest) => Promise<ReferenceOutput>;
  readonly run: (plan: AttentionPlan, request: AttentionRequest) => Promise<ReferenceOutput>;
  readonly gradients: (request: AttentionRequest, dOut: Tensor<"f32" | "f64">) => Promise<AttentionGradients>;
  readonly dispose: () => void;
};

const RUNNERS: Record<BackendName, (options: EngineOptions) => Promise<Runner>> = {
  wasm: async ({ workers, ...options }) => new WasmRunner(await createWasmRuntime("createEngine", options), workers),
  /** Every request by the formula, on this thread; plans by the tile loop. */
  reference: async ({ workers = 1 }) => ({
    capabilities: REFERENCE_CAPABILITIES,
    workers,
    usedBytes: 0,
    memory: createReferenceBackend(),
    attend: async (request) => referenceAttention(request),
    run: async (plan, request) => runPlan(plan, request),
    gradients: async (request, dOut) => referenceAttentionGradients(request, dOut),
    dispose: () => {},
  }),
};

/**
 * Makes an engine.
 *
 * @param options - where to compute, and by how many
 * @returns an engine; dispose of it, or declare it with `using`, where resources matter
 * @throws CapabilityError when there is no such backend, or the runtime lacks what it needs
 * @throws ConfigError when an option is out of range, or does not belong to the backend that was asked for
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const { workers = 1 } = options;
  const backend = options.backend ?? (detectFeatures().simd ? "wasm" : "reference");
  if (!Object.hasOwn(RUNNERS, backend)) {
    throw new CapabilityError(
      "createEngine",
      `backend must be one of ${Object.keys(RUNNERS).join(", ")}`,
      { backend },
      "Leave it out for the best one there is.",
    );
  }
  if (!Number.isSafeInteger(workers) || workers < 1) {
    throw new ConfigError("createEngine", "workers must be a positive integer", { workers });
  }
  for (const name of ["threads", "maxBytes", "features"] as const) {
    if (options.backend === "reference" && options[name] !== undefined) {
      throw new ConfigError("createEngine", `${name} must be absent with backend "reference"`, {
        [name]: options[name],
      });
    }
  }
  return new AttentionEngine(await RUNNERS[backend](options));
}

class AttentionEngine implements Engine {
  readonly capabilities: Capabilities;
  #runner: Runner | undefined;

  constructor(runner: Runner) {
    this.capabilities = runner.capabilities;
    this.#runner = runner;
  }

  get usedBytes(): number {
    return this.#runner?.usedBytes ?? 0;
  }

  get memory(): EngineMemory {
    return this.#alive("memory").memory;
  }

  async attention(
    request: AttentionRequest,
    { kernel }: { readonly kernel?: KernelName } = {},
  ): Promise<AttentionResult> {
    const runner = this.#alive("attention");
    if (kernel === undefined) return resultOf(request, await runner.attend(request));
    const { select } = request; // made once, for the plan and the run
    const chosen = select === undefined ? request : { ...request, select: selectKeys({ ...request, select }) };
    return this.run(this.plan(chosen, { kernel }), chosen);
  }

  async attentionGradients(request: AttentionRequest, dOut: Tensor<"f32" | "f64">): Promise<AttentionGradients> {
    return this.#alive("attentionGradients").gradients(request, dOut);
  }

  plan(request: PlanRequest, options: EnginePlanOptions = {}): AttentionPlan {
    const runner = this.#alive("plan");
    const { capabilities, workers } = runner;
    const tile = { ...runner.tile?.(request), ...options.tile };
    return planAttention(request, { ...options, tile, capabilities, workers });
  }

  async run(plan: AttentionPlan, request: AttentionRequest): Promise<AttentionResult> {
    const runner = this.#alive("run");
    const { backend } = this.capabilities;
    if (plan.backend !== backend) {
      throw new ConfigError("run", `the plan must be made by an engine of backend ${JSON.stringify(backend)}`, {
        backend: plan.backend,
      });
    }
    return resultOf(request, await runner.run(plan, request));
  }

  dispose(): void {
    this.#runner?.dispose();
    this.#runner = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #alive(where: string): Runner {
    if (this.#runner === undefined) {
      throw new DeviceError(where, "the engine must not be disposed of", {}, "Make another one with createEngine.");
    }
    return this.#runner;
  }
}

function resultOf({ outputs }: AttentionRequest, { out, lse, maxLogits }: ReferenceOutput): AttentionResult {
  return outputs?.maxLogits === true ? { out, lse, maxLogits } : { out, lse };
}
