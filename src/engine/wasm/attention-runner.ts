/**
 * Attention on a runtime: picks and specialises the kernels, lowers the plan, issues the calls.
 */

import type { AttentionPlan, Capabilities, KernelCapabilities } from "../../attention/index.ts";
import { type KvStrides, type LoweredPlan, lowerPlan } from "./attention-lowering.ts";
import { emitAttention } from "./kernels/attention.ts";
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
  features: ["sinks", "blockSelection", "keySelection", "maxLogits", "mixedHeadDims"],
  layouts: ["contiguous"],
  dtypes: ["f32"],
  maxHeadDim: 1024,
};

/** What attention on WASM can do. */
export const WASM_CAPABILITIES: Capabilities = {
  backend: "wasm",
  kernels: { tiled: KERNEL, decode: KERNEL, ragged: KERNEL },
};

/**
 * Tile sizes to plan with.
 *
 * @param rows - queries times heads of a group
 */
export function wasmTile(rows: number, keyDim: number): { rows: number; keys: number } {
  if (rows <= 4 && keyDim % 4 === 0) return { rows: 4, keys: TILE_KEYS };
  return { rows: 8 * Math.min(MAX_BLOCKS, Math.ceil(rows / 8)), keys: TILE_KEYS };
}

/** Addresses and strides of one attention. */
export type AttentionOperands = {
  /** f32 [B, Tq, H, D]. */
  readonly q: number;
  /** f32, slot 0 of head 0 of batch entry 0. */
  readonly keys: number;
  readonly values: number;
  /** Bytes from one slot to the next. */
  readonly keyStride: number;
  readonly valueStride: number;
  readonly strides: KvStrides;
  /** f32 [B, Tq, H, Dv]. */
  readonly out: number;
  /** 0, or f32 [B, Tq, H, 2] for the largest score and the sum. */
  readonly stats: number;
  /** 0, or f32 [H]. */
  readonly sinks: number;
  readonly scale: number;
};

/** Puts a plan into the inputs of the runtime's present program, where it stays until that has run. */
export function placePlan(runtime: WasmRuntime, plan: AttentionPlan, operands: AttentionOperands): LoweredPlan {
  const spec = specOf(runtime, plan, operands);
  const blocks = Math.ceil(plan.tiles.rowTile / spec.rows);
  return lowerPlan(
    plan,
    operands.strides,
    (bytes) => runtime.placeInput(bytes),
    (bytes) => runtime.takeInput(bytes),
    blocks * blockLayout(spec).stateBytes,
  );
}

/** Adds the calls of one attention to the runtime's present program. */
export function issueAttention(
  runtime: WasmRuntime,
  plan: AttentionPlan,
  placed: LoweredPlan,
  operands: AttentionOperands,
): void {
  const spec = specOf(runtime, plan, operands);
  const kernels = runtime.kernels(`attention ${JSON.stringify(spec)}`, () => ({
    scratchBytes: attentionScratch(spec).bytes,
    emit: (module) => {
      emitAttention(module, spec);
      emitAttentionMerge(module, spec);
    },
  }));
  const { q, keys, values, out, stats, sinks, scale } = operands;
  const { items, itemCount, workers, workerPointers, merges, mergeCount } = placed;
  const dealt = { items: itemCount, operations: plan.cost.flops };
  const split = workers === runtime.workers ? { ...dealt, workerPointers } : dealt;
  const scaling = { float: scale };
  runtime.issue(
    kernels.attend,
    split,
    ...(["from", "to", items, q, keys, values, out, stats, sinks, scaling, "scratch"] as const),
  );
  if (mergeCount === 0) return;
  runtime.issue(
    kernels.merge,
    { items: mergeCount },
    ...(["from", "to", merges, items, out, stats, sinks, "scratch"] as const),
  );
}

function specOf(runtime: WasmRuntime, { dims, tiles }: AttentionPlan, operands: AttentionOperands): AttentionSpec {
  return {
    relaxed: runtime.features.relaxed,
    rows: tiles.rowTile === 4 ? 4 : 8,
    packed: tiles.rowTile > 8,
    keyDim: dims.D,
    valueDim: dims.Dv,
    keyStride: operands.keyStride,
    valueStride: operands.valueStride,
    heads: dims.H,
    group: dims.H / dims.Hk,
  };
}
