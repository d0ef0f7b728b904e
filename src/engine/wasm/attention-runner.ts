/**
 * Attention on a runtime: picks and specialises the kernels, lowers the plan, issues the calls.
 */

import type { Capabilities, KernelCapabilities, WorkPlan } from "../../attention/index.ts";
import { ConfigError } from "../../errors.ts";
import { type CallMemory, type KvLayout, type LoweredPlan, lowerPlan } from "./attention-lowering.ts";
import { decodeSpec, isDecodePlan, lowerDecodePlan } from "./decode-lowering.ts";
import { emitAttention } from "./kernels/attention.ts";
import { emitDecode } from "./kernels/attention-decode.ts";
import { emitDecodeMerge } from "./kernels/attention-decode-merge.ts";
import { type DecodeSpec, decodeScratch } from "./kernels/attention-decode-rows.ts";
import { emitAttentionMerge } from "./kernels/attention-merge.ts";
import {
  type AttentionSpec,
  attentionScratch,
  blockLayout,
  MAX_BLOCKS,
  TILE_KEYS,
} from "./kernels/attention-scratch.ts";
import type { WasmRuntime } from "./runtime.ts";

const KERNEL: KernelCapabilities = {
  features: [
    "softcap",
    "scoreModifier",
    "alibi",
    "bias",
    "sinks",
    "dropout",
    "blockSelection",
    "keySelection",
    "maxLogits",
    "mixedHeadDims",
  ],
  layouts: ["contiguous", "ring"],
  dtypes: ["f32", "f16", "bf16", "int8", "int4", "fp8"],
  maxHeadDim: 1024,
};

/** What attention on WASM can do: everything in f32. */
export const WASM_CAPABILITIES: Capabilities = {
  backend: "wasm",
  kernels: { tiled: KERNEL, decode: KERNEL, ragged: KERNEL, paged: { ...KERNEL, layouts: ["paged"] } },
};

/** Most rows of a tile of a plan. */
const MAX_ROWS = 8 * MAX_BLOCKS;

/**
 * Tile sizes to plan with.
 *
 * @param rows - queries times heads of a group
 */
export function wasmTile(rows: number, keyDim: number): { rows: number; keys: number } {
  if (rows <= 4 && keyDim % 4 === 0) return { rows: 4, keys: TILE_KEYS };
  return { rows: 8 * Math.min(MAX_BLOCKS, Math.max(1, Math.ceil(rows / 8))), keys: TILE_KEYS };
}

/** What kernels are specialised for beside what the plan knows. */
export type AttentionOptions = Pick<AttentionSpec, "score" | "dropout" | "rowColumns" | "keyColumns"> & {
  /** Heads from one query to the next in q, out and stats, where there are more than the plan's. */
  readonly heads?: number;
};

/** Addresses of one attention. */
export type AttentionOperands = {
  /** f32 [B, Tq, H, D]. */
  readonly q: number;
  /** First stored row of head 0. */
  readonly keys: number;
  readonly values: number;
  /** f32 [B, Tq, H, Dv]. */
  readonly out: number;
  /** 0, or f32 [B, Tq, H, 2] for the largest score and the sum. */
  readonly stats: number;
  /** 0, or f32 [H]. */
  readonly sinks: number;
  readonly scale: number;
  /** 0, or the address of `OPTIONS`. */
  readonly options: number;
};

/** A plan in memory and the kernels that run it. */
export type PreparedAttention = LoweredPlan & { readonly kernels: AttentionKernels };

/** Numbers of the kernels of one attention. */
type AttentionKernels = { readonly attend: number; readonly merge: number };

/** What they are specialised for. */
type KernelSpec =
  | { readonly attend: "blocks"; readonly spec: AttentionSpec }
  | { readonly attend: "one"; readonly spec: DecodeSpec };

/**
 * Puts a plan into memory.
 *
 * @throws ConfigError when the plan's row tiles are too large
 */
export function prepareAttention(
  runtime: WasmRuntime,
  memory: CallMemory,
  plan: WorkPlan,
  layout: KvLayout,
  options: AttentionOptions,
): PreparedAttention {
  // Where there are more heads than the plan's, the next query is not where the decode kernel looks for it.
  const ownHeads = plan.dims.B === 1 || options.heads === undefined;
  if (isDecodePlan(plan) && ownHeads && !options.score && !options.dropout) {
    const spec = decodeSpec(plan, layout, runtime.features.relaxed);
    return { ...lowerDecodePlan(plan, spec, layout, memory), kernels: kernelsOf(runtime, { attend: "one", spec }) };
  }
  const spec = attentionSpec(runtime, plan, layout, options);
  const blocks = Math.ceil(plan.tiles.rowTile / spec.rows);
  const lowered = lowerPlan(plan, layout, memory, blocks * blockLayout(spec).stateBytes);
  return { ...lowered, kernels: kernelsOf(runtime, { attend: "blocks", spec }) };
}

/** Adds the calls of one attention to the runtime's present program. */
export function issueAttention(runtime: WasmRuntime, prepared: PreparedAttention, operands: AttentionOperands): void {
  const { attend, merge } = prepared.kernels;
  const { q, keys, values, out, stats, sinks, scale, options } = operands;
  const { items, itemCount, operations, workers, workerPointers, merges, mergeCount } = prepared;
  const dealt = { items: itemCount, operations };
  const split = workers === runtime.workers ? { ...dealt, workerPointers, open: true } : dealt;
  runtime.issue(
    attend,
    split,
    ...(["from", "to", items, q, keys, values, out, stats, sinks, { float: scale }, options, "scratch"] as const),
  );
  if (mergeCount === 0) return;
  runtime.issue(
    merge,
    { items: mergeCount },
    ...(["from", "to", merges, items, out, stats, sinks, "scratch"] as const),
  );
}

function kernelsOf(runtime: WasmRuntime, wanted: KernelSpec): AttentionKernels {
  const key = `attention ${wanted.attend} ${JSON.stringify(wanted.spec)}`;
  if (wanted.attend === "one") {
    const { spec } = wanted;
    const { attendOne, mergeOne } = runtime.kernels(key, () => ({
      scratchBytes: decodeScratch(spec).end,
      emit: (module) => {
        emitDecode(module, spec);
        emitDecodeMerge(module, spec);
      },
    }));
    return { attend: attendOne, merge: mergeOne };
  }
  const { spec } = wanted;
  const { attend, merge } = runtime.kernels(key, () => ({
    scratchBytes: attentionScratch(spec).bytes,
    emit: (module) => {
      emitAttention(module, spec);
      emitAttentionMerge(module, spec);
    },
  }));
  return { attend, merge };
}

function attentionSpec(
  runtime: WasmRuntime,
  { dims, tiles }: WorkPlan,
  { keys, values }: KvLayout,
  options: AttentionOptions,
): AttentionSpec {
  if (tiles.rowTile > MAX_ROWS) {
    throw new ConfigError("run", `a plan with row tiles of at most ${MAX_ROWS} rows`, { rows: tiles.rowTile });
  }
  return {
    relaxed: runtime.features.relaxed,
    rows: tiles.rowTile <= 4 && dims.D % 4 === 0 ? 4 : 8,
    packed: tiles.rowTile > 8,
    keyDim: dims.D,
    valueDim: dims.Dv,
    keys: { type: keys.type, stride: keys.stride, scaleStride: keys.scaleStride },
    values: { type: values.type, stride: values.stride, scaleStride: values.scaleStride },
    heads: options.heads ?? dims.H,
    group: dims.H / dims.Hk,
    bitsStride: tiles.keyTile,
    ...options,
  };
}
