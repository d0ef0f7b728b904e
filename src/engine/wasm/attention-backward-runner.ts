/**
 * Attention's gradients on a runtime: parts of the plan, the kernels for them, and the calls.
 *
 * A part is a run of row tiles of one key-value head and batch entry that one worker goes through. It has sums of its own
 * for all keys of the entry, which are added up in order at the end, so results depend on nothing but the number of
 * workers.
 */

import type { AttentionPlan } from "../../attention/index.ts";
import { CapabilityError, ConfigError } from "../../errors.ts";
import { planWork } from "../../mask/index.ts";
import { type CallMemory, type KvLayout, lowerEntries } from "./attention-lowering.ts";
import type { AttentionOptions } from "./attention-runner.ts";
import { emitAttentionBackward } from "./kernels/attention-backward.ts";
import {
  type AttentionBackwardSpec,
  BACKWARD_ITEM,
  BACKWARD_ITEM_WORDS,
  backwardPitch,
  backwardScratch,
  TILE_ROWS,
} from "./kernels/attention-backward-scratch.ts";
import { emitBackwardSums } from "./kernels/attention-backward-sums.ts";
import { emitLogSumExp } from "./kernels/attention-log-sum-exp.ts";
import type { ScoreCode } from "./kernels/attention-score.ts";
import { ENTRY_BYTES } from "./kernels/attention-tile.ts";
import type { WasmRuntime } from "./runtime.ts";

/** What the kernels are specialised for beside what the plan knows. */
export type AttentionBackwardOptions = Omit<AttentionOptions, "score"> & {
  /** As for the forward pass, the soft cap first. */
  readonly score?: readonly ScoreCode[];
  readonly softcap?: number;
  /** Gradients that are wanted besides those of q, k and v. */
  readonly wants?: { readonly bias?: boolean; readonly slopes?: boolean };
  /** How many workers the work is dealt out to; those of the runtime when absent. */
  readonly workers?: number;
};

/** Addresses of one attention on the way back. All tensors are f32. */
export type AttentionBackwardOperands = {
  /** [B, Tq, H, D]. */
  readonly q: number;
  /** First stored row of head 0. */
  readonly keys: number;
  readonly values: number;
  /** [B, Tq, H, Dv], and its gradient. */
  readonly out: number;
  readonly dOut: number;
  /** [B, Tq, H]. */
  readonly lse: number;
  /** [B, Tq, H, D], [B, Tk, Hk, D] and [B, Tk, Hk, Dv]; written. */
  readonly dq: number;
  readonly dk: number;
  readonly dv: number;
  /** [H], or 0; dSinks, which is added to, counts only with sinks. */
  readonly sinks: number;
  readonly dSinks: number;
  /** [H], added to; 0 where no slopes are wanted. */
  readonly dSlopes: number;
  /** Bytes from an element of the bias to that of its gradient, which is added to; 0 where it is not wanted. */
  readonly biasShift: number;
  readonly scale: number;
  /** 0, or the address of `OPTIONS`. */
  readonly options: number;
};

/** A plan in memory for the way back, and what its kernels are specialised for. */
export type PreparedAttentionBackward = {
  readonly spec: AttentionBackwardSpec;
  readonly items: number;
  readonly itemCount: number;
  readonly operations: number;
  /** Workers that items are dealt out to, and i32 [workers + 1], see `Split`. */
  readonly workers: number;
  readonly workerPointers: number;
  /** i32 [B·Hk + 1]: first part of every batch entry and head. */
  readonly partPointers: number;
  /** i32 pairs: the sums of the part's first key and first value. */
  readonly parts: number;
  /** f32 [B·Tq·H][2]: by row, dOut · out, and the gradient of its slope. */
  readonly rowSums: number;
  /** B·Tk, and B·Tq·H. */
  readonly keyCount: number;
  readonly rowCount: number;
  readonly kvHeads: number;
  readonly keysPerEntry: number;
};

/**
 * Puts a plan into memory for the way back.
 *
 * @param plan - the plan of the forward pass
 * @param layout - of keys and values, which must be f32
 * @throws CapabilityError for other element types
 * @throws ConfigError when the plan's row tiles are too large
 */
export function prepareAttentionBackward(
  runtime: WasmRuntime,
  memory: CallMemory,
  plan: AttentionPlan,
  layout: KvLayout,
  options: AttentionBackwardOptions,
): PreparedAttentionBackward {
  const { dims, tiles } = plan;
  const { B, Tq, Tk, H, Hk, D, Dv } = dims;
  const { keys, values } = layout;
  if (keys.type !== "f32" || values.type !== "f32") {
    throw new CapabilityError("attendBackward", "keys and values in f32", { keys: keys.type, values: values.type });
  }
  if (tiles.rowTile > TILE_ROWS) {
    throw new ConfigError("attendBackward", `a plan with row tiles of at most ${TILE_ROWS} rows`, {
      rows: tiles.rowTile,
    });
  }
  const spec = backwardSpec(runtime, plan, layout, options);
  // Gradients of a bias are added to as pairs come, by one worker: several may share an element.
  const workers = spec.bias ? 1 : (options.workers ?? runtime.workers);
  const work = planWork(tiles, { kvHeads: Hk, workers });
  const entries = lowerEntries(plan, layout.slots, memory.place(plan.bits.data));
  const entriesAt = memory.place(entries.words);

  const [keyPitch, valuePitch] = [backwardPitch(D), backwardPitch(Dv)];
  const [dkBytes, dvBytes] = [(Tk + 3) * keyPitch, (Tk + 3) * valuePitch]; // keys are taken four at a time
  const partPointers = new Int32Array(B * Hk + 1);
  const parts: number[] = [];
  const items = new Int32Array(work.row.length * BACKWARD_ITEM_WORDS);
  for (let worker = 0, part = -1; worker < workers; worker++) {
    let before = -1;
    for (let n = work.workerPointers[worker]; n < work.workerPointers[worker + 1]; n++) {
      const row = work.row[n];
      const kvHead = work.kvHead[n];
      const batch = Math.floor(row / (tiles.planes * tiles.rowTiles));
      const rowStart = (row % tiles.rowTiles) * tiles.rowTile;
      const word = (name: keyof typeof BACKWARD_ITEM, value: number): void => {
        items[n * BACKWARD_ITEM_WORDS + BACKWARD_ITEM[name]] = value;
      };
      if (batch * Hk + kvHead !== before) {
        before = batch * Hk + kvHead;
        const sums = memory.take(dkBytes + dvBytes);
        parts.push(sums - batch * Tk * keyPitch, sums + dkBytes - batch * Tk * valuePitch);
        partPointers[before + 1]++;
        part++;
        word("clear", sums);
        word("clearEnd", sums + dkBytes + dvBytes);
      }
      word("rowStart", rowStart);
      word("rowCount", Math.min(tiles.rowTile, Tq * (H / Hk) - rowStart));
      word("queryBase", batch * Tq);
      word("headBase", kvHead * (H / Hk));
      word("keys", kvHead * keys.head);
      word("values", kvHead * values.head);
      word("entries", entriesAt + entries.starts[work.entryStart[n]] * ENTRY_BYTES);
      word("entriesEnd", entriesAt + entries.starts[work.entryEnd[n]] * ENTRY_BYTES);
      word("dk", parts[2 * part]);
      word("dv", parts[2 * part + 1]);
    }
  }
  for (let n = 0; n < B * Hk; n++) partPointers[n + 1] += partPointers[n];
  return {
    spec,
    items: memory.place(items),
    itemCount: work.row.length,
    operations: 2.5 * plan.cost.flops,
    workers,
    workerPointers: memory.place(work.workerPointers),
    partPointers: memory.place(partPointers),
    parts: memory.place(Int32Array.from(parts)),
    rowSums: memory.take(B * Tq * H * 8),
    keyCount: B * Tk,
    rowCount: B * Tq * H,
    kvHeads: Hk,
    keysPerEntry: Tk,
  };
}

/** Adds the calls of one way back to the runtime's present program. */
export function issueAttentionBackward(
  runtime: WasmRuntime,
  prepared: PreparedAttentionBackward,
  operands: AttentionBackwardOperands,
): void {
  const { spec, items, itemCount, operations, workers, workerPointers, rowSums, keyCount, rowCount } = prepared;
  const { q, keys, values, out, dOut, lse, dq, dk, dv, sinks, dSlopes } = operands;
  const dSinks = sinks === 0 ? 0 : operands.dSinks;
  const kernelSpec = { ...spec, kvHeads: prepared.kvHeads };
  const { attendBackward, addParts, addHeads } = runtime.kernels(
    `attentionBackward ${JSON.stringify(kernelSpec)}`,
    () => ({
      scratchBytes: backwardScratch(spec).bytes,
      emit: (module) => {
        emitAttentionBackward(module, spec);
        emitBackwardSums(module, kernelSpec);
      },
    }),
  );
  // The items of a part stay on one worker; where the runtime has other workers than planned, all on the first.
  const split = workers === runtime.workers ? { workerPointers } : { grain: Math.max(1, itemCount) };
  runtime.issue(
    attendBackward,
    { items: itemCount, operations, ...split },
    ...(["from", "to", items, q, keys, values, out, lse, dOut, dq, rowSums] as const),
    ...([{ float: operands.scale }, operands.options, operands.biasShift, "scratch"] as const),
  );
  const { partPointers, parts, keysPerEntry, kvHeads } = prepared;
  runtime.issue(
    addParts,
    { items: keyCount, operations: 2 * keyCount * kvHeads * (spec.keyDim + spec.valueDim) },
    ...(["from", "to", partPointers, parts, dk, dv, keysPerEntry] as const),
  );
  if (dSinks === 0 && dSlopes === 0) return;
  runtime.issue(
    addHeads,
    { items: spec.heads, operations: 20 * rowCount },
    ...(["from", "to", rowSums, lse, sinks, dSinks, dSlopes, rowCount] as const),
  );
}

/** What a log-sum-exp is made from: sizes and addresses. */
export type LogSumExpOperands = {
  /** H. */
  readonly heads: number;
  /** B·Tq·H. */
  readonly rows: number;
  /** f32 [B, Tq, H, 2], as attention writes them. */
  readonly stats: number;
  /** f32 [B, Tq, H]; written. */
  readonly lse: number;
  /** 0, or f32 [H]. */
  readonly sinks: number;
};

/** Adds the call that makes the log-sum-exp, sinks included, of what a forward pass noted down. */
export function issueLogSumExp(runtime: WasmRuntime, { heads, rows, stats, lse, sinks }: LogSumExpOperands): void {
  const spec = { relaxed: runtime.features.relaxed, heads };
  const { logSumExp } = runtime.kernels(`logSumExp ${JSON.stringify(spec)}`, () => ({
    emit: (module) => emitLogSumExp(module, spec),
  }));
  runtime.issue(logSumExp, { items: rows, operations: 50 * rows }, ...(["from", "to", stats, lse, sinks] as const));
}

function backwardSpec(
  runtime: WasmRuntime,
  { dims, tiles }: AttentionPlan,
  { keys, values }: KvLayout,
  { score = [], softcap, dropout, rowColumns, keyColumns, wants = {} }: AttentionBackwardOptions,
): AttentionBackwardSpec {
  const [capCode, ...rest] = score;
  const steps = softcap === undefined ? score : rest;
  const distance = wants.slopes ? steps.map(distanceOf).find((code) => code !== undefined) : undefined;
  const bias = wants.bias ? steps.map(biasOf).find((code) => code !== undefined) : undefined;
  return {
    relaxed: runtime.features.relaxed,
    heads: dims.H,
    group: dims.H / dims.Hk,
    keyDim: dims.D,
    valueDim: dims.Dv,
    keyStride: keys.stride,
    valueStride: values.stride,
    bitsStride: tiles.keyTile,
    ...(softcap !== undefined && { softcap: { cap: softcap, code: capCode } }),
    ...(steps.length > 0 && { score: steps }),
    ...(distance && { distance }),
    ...(bias && { bias: { column: bias.column, perKey: bias.perKey } }),
    ...(dropout && { dropout }),
    rowColumns,
    keyColumns,
  };
}

/** |Δposition| of the step score − slope · |Δposition|. */
function distanceOf(step: ScoreCode): ScoreCode | undefined {
  return step.op === "sub" && step.right.op === "mul" ? step.right.right : undefined;
}

function biasOf(step: ScoreCode): Extract<ScoreCode, { op: "bias" }> | undefined {
  return step.op === "add" && step.right.op === "bias" ? step.right : undefined;
}
