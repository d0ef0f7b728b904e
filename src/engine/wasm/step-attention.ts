/**
 * A decoder's attention on a runtime. Layers and heads that see the same keys share one plan within a program.
 */

import { type KeyValues, type KvViews, type NarrowedKv, planAttention, type WorkPlan } from "../../attention/index.ts";
import { StepPlanner } from "../../attention/step-plan.ts";
import { tensor } from "../../tensor.ts";
import type { AttendCall } from "../backend.ts";
import { type HeadView, headViews, keptNumbers } from "../head-views.ts";
import { attentionOptions, numbersOf } from "./attention-options.ts";
import {
  issueAttention,
  type PreparedAttention,
  prepareAttention,
  WASM_CAPABILITIES,
  wasmTile,
} from "./attention-runner.ts";
import { softcapCode } from "./attention-score-lowering.ts";
import { type KvSide, slotsOf, storageOf } from "./attention-storage.ts";
import { emitJoin, emitPick } from "./kernels/attention-parts.ts";
import type { WasmRuntime } from "./runtime.ts";

/** Where a call writes: addresses. */
type AttendResults = {
  /** f32 [Tq, H, Dv]. */
  readonly out: number;
  /** f32 [Tq, H, 2] for the largest score and the sum; 0 for none. */
  readonly stats: number;
};

/** Issues the attention of a decoder's steps. */
export class StepAttention {
  readonly #runtime: WasmRuntime;
  /** Plans of the present program. */
  #planned: PlannedView[] = [];
  #program = -1;
  /** Room for the older part of a layer in the present program: one layer after the other uses it. */
  #room = { address: 0, bytes: 0 };
  readonly #planner = new StepPlanner();

  constructor(runtime: WasmRuntime) {
    this.#runtime = runtime;
  }

  /** Adds the calls of one attention to the runtime's present program. */
  attend(call: AttendCall, out: number): void {
    const runtime = this.#runtime;
    if (this.#program !== runtime.programNumber) {
      this.#planned = [];
      this.#room = { address: 0, bytes: 0 };
      this.#program = runtime.programNumber;
    }
    const { kv } = call;
    if ("narrow" in kv) this.#attendParts(call, kv, out);
    else this.#attendViews({ ...call, kv }, { out, stats: 0 });
  }

  /** Attention over the older rows with the channels they hold, over the newer rows, and the two joined. */
  #attendParts({ sinks, ...call }: AttendCall, { narrow, channels, full }: NarrowedKv, out: number): void {
    const runtime = this.#runtime;
    const [T, heads, dim] = call.q.shape;
    const places = keptNumbers([heads, dim], channels);
    const [rows, picked] = [T * heads, places.length];
    const valueDim = valueDimOf(narrow);
    const sizes = [T * picked, rows * valueDim, rows * 2, rows * 2].map((numbers) => 4 * numbers);
    const [queries, others, otherStats, stats] = this.#take(sizes);

    const width = heads * dim;
    const { pick } = runtime.kernels(`pick ${width} ${picked}`, () => ({
      emit: (module) => emitPick(module, { width, picked }),
    }));
    runtime.issue(
      pick,
      { items: T, operations: 4 * T * picked },
      ...([queries, runtime.locateInput(call.q.data), runtime.placeInput(places), "from", "to"] as const),
    );
    const q = tensor("f32", [T, heads, picked / heads], runtime.memory.view("f32", queries, T * picked));
    this.#attendViews({ ...call, q, kv: narrow }, { out: others, stats: otherStats });
    this.#attendViews({ ...call, kv: full }, { out, stats });

    const spec = { relaxed: runtime.features.relaxed, heads, valueDim };
    const { join } = runtime.kernels(`join ${JSON.stringify(spec)}`, () => ({
      emit: (module) => emitJoin(module, spec),
    }));
    const sinkLogits = sinks ? runtime.locateInput(sinks) : 0;
    runtime.issue(
      join,
      { items: rows, operations: rows * (3 * valueDim + 100) },
      ...([out, stats, others, otherStats, sinkLogits, "from", "to"] as const),
    );
  }

  /** Addresses of runs of bytes that hold until the next layer. */
  #take(sizes: readonly number[]): number[] {
    const padded = sizes.map((bytes) => 64 * Math.ceil(bytes / 64));
    const bytes = padded.reduce((sum, size) => sum + size, 0);
    if (bytes > this.#room.bytes) this.#room = { address: this.#runtime.takeInput(bytes), bytes };
    let address = this.#room.address;
    return padded.map((size) => {
      const start = address;
      address += size;
      return start;
    });
  }

  #attendViews(call: AttendCall<KvViews>, { out, stats }: AttendResults): void {
    const runtime = this.#runtime;
    const { q, scale, sinks } = call;
    const [, , D] = q.shape;
    const queries = runtime.locateInput(q.data);
    const sinkLogits = sinks ? runtime.locateInput(sinks) : 0;
    for (const view of headViews(call)) {
      const { kv, head } = view;
      const { keys, values } = kv;
      const isQuantized = "codes" in keys || "codes" in values;
      issueAttention(runtime, this.#preparedFor(call, view), {
        q: queries + head * D * 4,
        keys: runtime.locateInput(numbersOf(keys)),
        values: runtime.locateInput(numbersOf(values)),
        out: out + head * (values.shape.at(-1) as number) * 4,
        stats: stats === 0 ? 0 : stats + head * 8,
        sinks: sinkLogits === 0 ? 0 : sinkLogits + head * 4,
        scale,
        options: isQuantized ? runtime.placeInput(attentionOptions((x) => runtime.locateInput(x), kv)) : 0,
      });
    }
  }

  #preparedFor(call: AttendCall<KvViews>, view: HeadView): PreparedAttention {
    const wanted: Planned = {
      call,
      view,
      keys: storageOf(view.kv.keys),
      values: storageOf(view.kv.values),
    };
    const found = this.#planned.find((one) => samePlan(one, wanted));
    if (found) return found.prepared;
    const prepared = this.#prepare(wanted);
    this.#planned.push({ ...wanted, prepared });
    return prepared;
  }

  #prepare({ call, view: { kv, heads }, keys, values }: Planned): PreparedAttention {
    const runtime = this.#runtime;
    const { q, softcap } = call;
    const plan = this.#plan(call, kv, heads);
    const memory = {
      place: (numbers: ArrayBufferView) => runtime.placeInput(numbers),
      take: (bytes: number) => runtime.takeInput(bytes),
    };
    const layout = { keys, values, slots: slotsOf(kv, plan.dims) };
    return prepareAttention(runtime, memory, plan, layout, {
      ...(softcap !== undefined && { score: [softcapCode(softcap)] }),
      rowColumns: 0,
      keyColumns: 0,
      heads: q.shape[1],
    });
  }

  #plan(call: AttendCall<KvViews>, kv: KeyValues, heads: number): WorkPlan {
    const { q, mask, queryPositions, querySegments, sinks, softcap } = call;
    const [Tq, , D] = q.shape;
    const { workers } = this.#runtime;
    const { rows, keys } = wasmTile((Tq * heads) / (kv.keys.shape.at(-2) as number), D);
    const tile = kv.layout === "paged" ? { rows } : { rows, keys };
    if (Tq === 1) {
      const query = { queryPosition: queryPositions[0], querySegment: querySegments[0] };
      const step = this.#planner.plan({ heads, headDim: D, kv, mask, ...query }, { workers, tile });
      if (step) return step;
    }
    return planAttention(
      {
        q: { dtype: "f32", shape: [Tq, heads, D] },
        kv,
        mask,
        queryPositions,
        querySegments,
        ...(sinks && { sinks: sinks.subarray(0, heads) }),
        ...(softcap !== undefined && { softcap }),
      },
      { capabilities: WASM_CAPABILITIES, workers, tile },
    );
  }
}

function valueDimOf(views: KvViews): number {
  const { values } = Array.isArray(views) ? (views as readonly KeyValues[])[0] : (views as KeyValues);
  return values.shape.at(-1) as number;
}

/** What a plan is made for. */
type Planned = {
  readonly call: AttendCall<KvViews>;
  readonly view: HeadView;
  readonly keys: KvSide;
  readonly values: KvSide;
};

type PlannedView = Planned & { readonly prepared: PreparedAttention };

/** Whether a plan for one call serves another. */
function samePlan(a: Planned, b: Planned): boolean {
  return (
    a.view.heads === b.view.heads &&
    sameNumbers(a.call.q.shape, b.call.q.shape) &&
    sameSide(a.keys, b.keys) &&
    sameSide(a.values, b.values) &&
    (a.call.mask === b.call.mask || a.call.mask.hash() === b.call.mask.hash()) &&
    a.call.softcap === b.call.softcap &&
    (a.call.sinks === undefined) === (b.call.sinks === undefined) &&
    sameNumbers(a.call.queryPositions, b.call.queryPositions) &&
    sameNumbers(a.call.querySegments, b.call.querySegments) &&
    sameSlots(a.view.kv, b.view.kv)
  );
}

function sameSide(a: KvSide, b: KvSide): boolean {
  return (
    a.type === b.type &&
    a.stride === b.stride &&
    a.head === b.head &&
    a.scaleStride === b.scaleStride &&
    a.scaleHead === b.scaleHead
  );
}

/** Whether slots have the same positions and segments, and are stored in the same rows. */
function sameSlots(a: KeyValues, b: KeyValues): boolean {
  if (a.positions.length !== b.positions.length) return false;
  if (a.layout === undefined || b.layout === undefined) return a.layout === b.layout && samePlaces(a, b);
  return sameRows(a, b) && samePlaces(a, b);
}

function samePlaces(a: KeyValues, b: KeyValues): boolean {
  if (a.order && a.order.version === b.order?.version) return true;
  return sameNumbers(a.positions, b.positions) && sameNumbers(a.segments, b.segments);
}

function sameRows(a: Exclude<KeyValues, { layout?: undefined }>, b: typeof a): boolean {
  if (a.layout !== b.layout || a.keys.shape[1] !== b.keys.shape[1] || !sameNumbers(a.lengths, b.lengths)) return false;
  if (a.layout === "ring") return b.layout === "ring" && sameNumbers(a.starts, b.starts);
  if (a.layout === "paged") return b.layout === "paged" && sameNumbers(a.pageTable.data, b.pageTable.data);
  return true;
}

function sameNumbers(a: ArrayLike<number> | undefined, b: ArrayLike<number> | undefined): boolean {
  if (a === b) return true;
  if (a?.length !== b?.length || a === undefined || b === undefined) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
