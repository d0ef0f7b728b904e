/**
 * The front door: checks a request, plans it and hands it to a backend. No kernel lives here.
 */

import {
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
  runPlan,
  selectKeys,
} from "../attention/index.ts";
import { CapabilityError, ConfigError, DeviceError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/** Where an engine computes. */
export type BackendName = "reference";

/** How an engine is made. */
export type EngineOptions = {
  /** Where to compute; "reference" when absent. */
  readonly backend?: BackendName;
  /** Workers that plans are made for, at least 1; 1 when absent. The reference computes on the caller's thread. */
  readonly workers?: number;
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
   * Attention of one request, planned and run.
   *
   * @param request - see AttentionRequest
   * @param options - `kernel`: take this one or refuse
   * @throws ShapeError or ConfigError when the request does not fit together
   * @throws CapabilityError when the backend cannot do it
   */
  attention(request: AttentionRequest, options?: { readonly kernel?: KernelName }): Promise<AttentionResult>;
  /**
   * A plan for requests of these sizes, positions, masks and options: made once, run in every layer.
   *
   * @param request - see PlanRequest; shapes are enough
   */
  plan(request: PlanRequest, options?: EnginePlanOptions): AttentionPlan;
  /**
   * Runs a plan of this engine.
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
  /** Attention without a kernel asked for. */
  readonly attend: (request: AttentionRequest) => Promise<ReferenceOutput>;
  readonly run: (plan: AttentionPlan, request: AttentionRequest) => Promise<ReferenceOutput>;
  readonly dispose: () => void;
};

const RUNNERS: Record<BackendName, () => Promise<Runner>> = {
  /** Every request by the formula, on this thread; plans by the tile loop. */
  reference: async () => ({
    capabilities: REFERENCE_CAPABILITIES,
    attend: async (request) => referenceAttention(request),
    run: async (plan, request) => runPlan(plan, request),
    dispose: () => {},
  }),
};

/**
 * Makes an engine.
 *
 * @param options - backend and number of workers
 * @returns an engine; dispose of it, or declare it with `using`, where resources matter
 * @throws CapabilityError when there is no such backend
 * @throws ConfigError when the number of workers is not a positive integer
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const { backend = "reference", workers = 1 } = options;
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
  return new AttentionEngine(await RUNNERS[backend](), workers);
}

class AttentionEngine implements Engine {
  readonly capabilities: Capabilities;
  readonly #workers: number;
  #runner: Runner | undefined;

  constructor(runner: Runner, workers: number) {
    this.capabilities = runner.capabilities;
    this.#runner = runner;
    this.#workers = workers;
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

  plan(request: PlanRequest, options: EnginePlanOptions = {}): AttentionPlan {
    this.#alive("plan");
    return planAttention(request, { ...options, capabilities: this.capabilities, workers: this.#workers });
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
