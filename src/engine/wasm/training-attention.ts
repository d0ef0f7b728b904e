/**
 * Attention of training steps on a runtime, there and back. Calls of one program with the same mask, heads and positions
 * share one plan.
 */

import { type KvView, planAttention } from "../../attention/index.ts";
import type { AttendCall } from "../backend.ts";
import {
  issueAttentionBackward,
  issueLogSumExp,
  type PreparedAttentionBackward,
  prepareAttentionBackward,
} from "./attention-backward-runner.ts";
import {
  issueAttention,
  type PreparedAttention,
  prepareAttention,
  WASM_CAPABILITIES,
  wasmTile,
} from "./attention-runner.ts";
import { softcapCode } from "./attention-score-lowering.ts";
import { slotsOf, storageOf } from "./attention-storage.ts";
import type { WasmRuntime } from "./runtime.ts";

type Call = AttendCall<KvView>;

/** Addresses of what attention gave and of gradients; `dSinks` is 0 where there are no sinks. */
export type GradientAddresses = Readonly<Record<"out" | "lse" | "dOut" | "dq" | "dk" | "dv" | "dSinks", number>>;

type Planned = {
  readonly call: Call;
  readonly forward: PreparedAttention;
  readonly backward: PreparedAttentionBackward;
};

/** Issues attention and its gradients. */
export class TrainingAttention {
  readonly #runtime: WasmRuntime;
  /** Plans of the present program. */
  #planned: Planned[] = [];
  #program = -1;

  constructor(runtime: WasmRuntime) {
    this.#runtime = runtime;
  }

  /** Adds a forward pass to the runtime's present program; `out` and `lse` are addresses. */
  attend(call: Call, { out, lse }: { out: number; lse: number }): void {
    const runtime = this.#runtime;
    const [Tq, heads] = call.q.shape;
    const rows = Tq * heads;
    const stats = runtime.takeInput(8 * rows);
    const inputs = this.#inputs(call);
    issueAttention(runtime, this.#plannedFor(call).forward, { ...inputs, out, stats });
    issueLogSumExp(runtime, { heads, rows, stats, lse, sinks: inputs.sinks });
  }

  /** Adds the way back to the runtime's present program. */
  attendBackward(call: Call, gradients: GradientAddresses): void {
    issueAttentionBackward(this.#runtime, this.#plannedFor(call).backward, {
      ...this.#inputs(call),
      ...gradients,
      dSlopes: 0,
      biasShift: 0,
    });
  }

  #inputs({ q, kv, sinks, scale }: Call) {
    const runtime = this.#runtime;
    return {
      q: runtime.locateInput(q.data),
      keys: runtime.locateInput(kv.keys.data),
      values: runtime.locateInput(kv.values.data),
      sinks: sinks ? runtime.locateInput(sinks) : 0,
      scale,
      options: 0,
    };
  }

  #plannedFor(call: Call): Planned {
    if (this.#program !== this.#runtime.programNumber) {
      this.#planned = [];
      this.#program = this.#runtime.programNumber;
    }
    let planned = this.#planned.find((one) => samePlan(one.call, call));
    if (!planned) {
      planned = this.#plan(call);
      this.#planned.push(planned);
    }
    return planned;
  }

  #plan(call: Call): Planned {
    const runtime = this.#runtime;
    const { q, kv, mask, queryPositions, querySegments, sinks, softcap } = call;
    const [Tq, H, D] = q.shape;
    const plan = planAttention(
      {
        q: { dtype: "f32", shape: q.shape },
        kv,
        mask,
        queryPositions,
        querySegments,
        ...(sinks && { sinks }),
        ...(softcap !== undefined && { softcap }),
      },
      {
        capabilities: WASM_CAPABILITIES,
        workers: runtime.workers,
        tile: wasmTile((Tq * H) / kv.keys.shape[1], D),
      },
    );
    const memory = {
      place: (numbers: ArrayBufferView) => runtime.placeInput(numbers),
      take: (bytes: number) => runtime.takeInput(bytes),
    };
    const layout = { keys: storageOf(kv.keys), values: storageOf(kv.values), slots: slotsOf(kv, plan.dims) };
    const options = {
      ...(softcap !== undefined && { score: [softcapCode(softcap)] }),
      rowColumns: 0,
      keyColumns: 0,
    };
    return {
      call,
      forward: prepareAttention(runtime, memory, plan, layout, options),
      backward: prepareAttentionBackward(runtime, memory, plan, layout, {
        ...options,
        ...(softcap !== undefined && { softcap }),
      }),
    };
  }
}

/** Whether a plan for one call serves another. */
function samePlan(a: Call, b: Call): boolean {
  return (
    sameNumbers(a.q.shape, b.q.shape) &&
    sameNumbers(a.kv.keys.shape, b.kv.keys.shape) &&
    sameNumbers(a.kv.values.shape, b.kv.values.shape) &&
    (a.mask === b.mask || a.mask.hash() === b.mask.hash()) &&
    a.softcap === b.softcap &&
    (a.sinks === undefined) === (b.sinks === undefined) &&
    sameNumbers(a.queryPositions, b.queryPositions) &&
    sameNumbers(a.querySegments, b.querySegments) &&
    sameNumbers(a.kv.positions, b.kv.positions) &&
    sameNumbers(a.kv.segments, b.kv.segments)
  );
}

function sameNumbers(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
