/**
 * From a request to a frozen list of work: which kernel, which tiles, which bits of partial tiles, and who does what.
 * A plan depends on sizes, positions, masks and selection, never on the numbers of q, k and v (a selection that is
 * yet to be made excepted): make it once and run it in every layer. `run` refuses requests that it was not made for.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { planTiles, planWork, type TilePlan, type WorkItems } from "../mask/index.ts";
import type { Tensor } from "../tensor.ts";
import { type Capabilities, type KernelName, type Needs, needsOf, REFERENCE_CAPABILITIES } from "./capabilities.ts";
import { chooseKernel, type KernelChoice } from "./kernel-choice.ts";
import { shapeOfKv, withDenseKeys } from "./kv-gather.ts";
import type { KeyValues } from "./kv-view.ts";
import { explainPlan } from "./plan-explain.ts";
import { hashInputs } from "./plan-hash.ts";
import { countKeys, type PlanBits, packTiles } from "./plan-tiles.ts";
import { resolveSelection } from "./select.ts";
import type { Selection } from "./selection.ts";
import {
  type AttentionDims,
  type AttentionRequest,
  type AttentionSpec,
  type DenseAttentionRequest,
  normalizeAttention,
  type ViewAttentionRequest,
} from "./spec.ts";

/** A tensor without its numbers. */
export type TensorShape = Pick<Tensor<"f32" | "f64">, "dtype" | "shape">;

/** What a plan is made from: a request, of whose tensors the shapes are enough. */
export type PlanRequest =
  | (Omit<DenseAttentionRequest, "q" | "k" | "v" | "bias"> & {
      q: TensorShape;
      k: TensorShape;
      v: TensorShape;
      bias?: TensorShape;
    })
  | (Omit<ViewAttentionRequest, "q" | "bias"> & { q: TensorShape; bias?: TensorShape });

/** For whom a plan is made. */
export type PlanOptions = {
  /** What the backend can do; the reference when absent. */
  readonly capabilities?: Capabilities;
  /** Number of workers, at least 1; 1 when absent. */
  readonly workers?: number;
  /** Take this kernel or refuse. */
  readonly kernel?: KernelName;
  /** Rows and keys of a tile; see `tileSizes` for what is taken when absent. */
  readonly tile?: { readonly rows?: number; readonly keys?: number };
  /** Most bytes of bits of partial tiles; 2^28 when absent. */
  readonly maxBytes?: number;
};

/** Parts of row tiles that must be merged. A part writes its state to a slot, a whole row tile to the output. */
export type PlanMerges = {
  /** i32 [items], the slot of each work item; −1: the item is a whole row tile. */
  readonly slots: Int32Array;
  /** i32 [merges]: merge m joins the work items starts[m] to ends[m] − 1. */
  readonly starts: Int32Array;
  /** i32 [merges]. */
  readonly ends: Int32Array;
  /** Number of slots. */
  readonly count: number;
};

/** What a plan will cost, over all heads. A pair is one query of one head and one key. */
export type PlanCost = {
  readonly fullTiles: number;
  readonly partialTiles: number;
  readonly emptyTiles: number;
  /** All pairs. */
  readonly pairs: number;
  /** Pairs in tiles that are not empty: the scores that are computed. */
  readonly computedPairs: number;
  /** Pairs that mask and selection allow. */
  readonly visiblePairs: number;
  /** Floating-point operations of both products: 2·computedPairs·(D + Dv). */
  readonly flops: number;
  /** Share of the pairs that is skipped, 0 to 1. */
  readonly skipped: number;
};

/** Attention as work. Frozen; arrays must not be written. */
export type AttentionPlan = {
  readonly kernel: KernelName;
  /** Why this kernel. */
  readonly reason: string;
  /** Kernels that would have come first, and what they lack. */
  readonly passedOver: readonly string[];
  /** The backend it is made for. */
  readonly backend: string;
  readonly dims: AttentionDims;
  readonly needs: Needs;
  /** Row tiles and their key tiles; rows of a key-value head are token·G + head of the group. */
  readonly tiles: TilePlan;
  readonly bits: PlanBits;
  readonly work: WorkItems;
  readonly merges: PlanMerges;
  readonly cost: PlanCost;
  /** Bytes of all arrays of the plan. */
  readonly bytes: number;
  /** Stands for positions, segments and what else mask and selection read. */
  readonly inputsHash: string;
  /** The plan as a text of several lines. */
  readonly explain: () => string;
};

/** What kernels need to know of a plan. */
export type WorkPlan = Pick<AttentionPlan, "dims" | "tiles" | "bits" | "work" | "merges" | "cost">;

/**
 * Plans attention.
 *
 * @param request - see AttentionRequest; of q, k, v and bias the shapes are enough, unless `select` is MoBA
 * @returns the plan
 * @throws ShapeError or ConfigError when the request or an option does not fit
 * @throws CapabilityError when no kernel, or not the one asked for, can do it
 * @throws BudgetError when the tiles or their bits would be too large
 */
export function planAttention(request: PlanRequest, options: PlanOptions = {}): AttentionPlan {
  return planSpec(readPlanRequest(request), request.kv, options);
}

/** Most rows · keys of a tile. */
const MAX_TILE = 2 ** 24;

/** A checked request with its selection made, and without numbers where none were given. */
export type PlanSpec = { readonly spec: AttentionSpec; readonly selection: Selection | undefined };

/** Checks a request and makes its selection. */
export function readPlanRequest(request: PlanRequest): PlanSpec {
  const wantsNumbers = request.select?.kind === "moba";
  const hasNumbers = "data" in request.q && (request.kv !== undefined || "data" in request.k);
  if (wantsNumbers && !hasNumbers) {
    throw new ConfigError(
      "planAttention",
      "q and k must have numbers when select is moba",
      {},
      "Give tensors, or the result of selectKeys as select.",
    );
  }
  const dense = withDenseKeys(request as AttentionRequest, wantsNumbers ? undefined : shapeOfKv);
  const spec = normalizeAttention(dense);
  return { spec, selection: resolveSelection(spec) };
}

function planSpec({ spec, selection }: PlanSpec, kv: KeyValues | undefined, options: PlanOptions): AttentionPlan {
  const { capabilities = REFERENCE_CAPABILITIES, workers = 1, maxBytes = 2 ** 28 } = options;
  if (!(maxBytes >= 0)) throw new ConfigError("planAttention", "maxBytes must be a number of bytes", { maxBytes });
  const { dims, mask, maskInputs } = spec;
  const { Tq, Tk, H, Hk } = dims;
  const group = H / Hk;
  const needs = needsOf(spec, kv);
  const ragged = maskInputs.lengths?.some((length) => length < Tk) ?? false;
  const facts = { rows: Tq * group, keys: Tk, tileKeys: options.tile?.keys ?? 64, ragged, needs };
  const choice = chooseKernel(facts, capabilities, options.kernel);
  const { rowTile, keyTile } = tileSizes(choice.kernel, dims, kv, options.tile);

  if (!(rowTile * keyTile <= MAX_TILE)) {
    throw new ConfigError("planAttention", `a tile must have at most ${MAX_TILE} pairs`, { rowTile, keyTile });
  }

  const source = planTiles(mask, maskInputs, { rowTile, keyTile, group });
  const packed = packTiles(source, mask, maskInputs, { kvHeads: Hk, selection, maxBytes });
  const shared = shareWork(dims, packed.tiles, packed.bits, packed.visiblePairs, workers);
  const { tiles, bits, work, merges } = shared;
  const plan: Omit<AttentionPlan, "explain"> = {
    ...(choice satisfies KernelChoice),
    backend: capabilities.backend,
    needs,
    ...shared,
    bytes: bytesOf(tiles, bits, work, merges),
    inputsHash: hashInputs(spec, selection),
  };
  return Object.freeze({ ...plan, explain: () => explainPlan(plan) });
}

/**
 * Deals tiles out to workers.
 *
 * @param visiblePairs - of all planes
 */
export function shareWork(
  dims: AttentionDims,
  tiles: TilePlan,
  bits: PlanBits,
  visiblePairs: number,
  workers: number,
): WorkPlan {
  const work = planWork(tiles, { kvHeads: dims.Hk, workers, splitKeys: true });
  return { dims, tiles, bits, work, merges: listMerges(work), cost: costOf(dims, tiles, visiblePairs) };
}

/**
 * Rows and keys of a tile:
 *
 * | kernel         | rows                                   | keys                                                    |
 * |----------------|----------------------------------------|---------------------------------------------------------|
 * | tiled          | 64                                     | 64                                                      |
 * | dense          | 64                                     | all                                                     |
 * | decode, ragged | all                                    | 64                                                      |
 * | paged          | all if there are at most 64, else 64   | whole pages, 64 at most; a divisor of pages above 64    |
 */
export function tileSizes(
  kernel: KernelName,
  { Tq, Tk, H, Hk }: AttentionDims,
  kv: KeyValues | undefined,
  wanted: PlanOptions["tile"],
): { rowTile: number; keyTile: number } {
  const rows = Math.max(1, Math.min(64, (Tq * H) / Hk));
  const rowTile = wanted?.rows ?? (kernel === "dense" || kernel === "tiled" ? 64 : rows);
  if (kernel === "dense") {
    if (wanted?.keys !== undefined && wanted.keys < Tk) {
      throw new ConfigError("planAttention", "tile.keys must cover all keys in the dense kernel", {
        keys: wanted.keys,
        Tk,
      });
    }
    return { rowTile, keyTile: wanted?.keys ?? Math.max(1, Tk) };
  }
  if (kv?.layout !== "paged") return { rowTile, keyTile: wanted?.keys ?? 64 };
  const page = kv.keys.shape[1];
  const keyTile = wanted?.keys ?? pageTile(page);
  if (keyTile % page !== 0 && page % keyTile !== 0) {
    throw new ConfigError("planAttention", "tile.keys must be a multiple or a divisor of the page size", {
      keys: keyTile,
      page,
    });
  }
  return { rowTile, keyTile };
}

/** Whole pages up to 64 keys; of larger pages the largest part from 16 to 64 keys that divides them, or a page. */
function pageTile(page: number): number {
  if (page <= 64) return page * Math.floor(64 / page);
  for (let keys = 64; keys >= 16; keys--) if (page % keys === 0) return keys;
  return page;
}

/** Runs of neighbouring items of one row tile and head. */
function listMerges({ row, kvHead }: WorkItems): PlanMerges {
  const slots = new Int32Array(row.length).fill(-1);
  const starts: number[] = [];
  const ends: number[] = [];
  let count = 0;
  for (let start = 0, end = 0; start < row.length; start = end) {
    for (end = start + 1; end < row.length && row[end] === row[start] && kvHead[end] === kvHead[start]; ) end++;
    if (end - start === 1) continue;
    for (let item = start; item < end; item++) slots[item] = count++;
    starts.push(start);
    ends.push(end);
  }
  return Object.freeze({ slots, starts: Int32Array.from(starts), ends: Int32Array.from(ends), count });
}

function costOf(dims: AttentionDims, tiles: TilePlan, visible: number): PlanCost {
  const { B, Tq, Tk, H, Hk, D, Dv } = dims;
  const { planes, rowTiles, keyTiles, rowTile, rowPointers, firstPartial, group } = tiles;
  const shared = Hk / planes; // heads that run each plane
  let [full, partial, computed] = [0, 0, 0];
  for (let row = 0; row < firstPartial.length; row++) {
    const start = (row % rowTiles) * rowTile;
    const rows = Math.min(start + rowTile, Tq * group) - start;
    full += firstPartial[row] - rowPointers[row];
    partial += rowPointers[row + 1] - firstPartial[row];
    computed += rows * countKeys(tiles, rowPointers[row], firstPartial[row]);
    computed += rows * countKeys(tiles, firstPartial[row], rowPointers[row + 1]);
  }
  const pairs = B * H * Tq * Tk;
  const computedPairs = computed * shared;
  return Object.freeze({
    fullTiles: full * shared,
    partialTiles: partial * shared,
    emptyTiles: B * Hk * rowTiles * keyTiles - (full + partial) * shared,
    pairs,
    computedPairs,
    visiblePairs: visible * shared,
    flops: 2 * computedPairs * (D + Dv),
    skipped: pairs === 0 ? 0 : 1 - computedPairs / pairs,
  });
}

/** Bytes of the arrays of all parts. */
function bytesOf(...parts: readonly object[]): number {
  let bytes = 0;
  for (const part of parts) {
    for (const value of Object.values(part)) if (ArrayBuffer.isView(value)) bytes += value.byteLength;
  }
  return bytes;
}

const REPLAN = "Make a new plan.";

/**
 * Refuses a request that the plan was not made for.
 *
 * @param where - the function that refuses
 * @throws ShapeError when a size differs
 * @throws ConfigError when mask, positions, segments, selection or the needs differ
 */
export function checkPlanFits(where: string, plan: AttentionPlan, { spec, selection }: PlanSpec, kv?: KeyValues): void {
  const { dims } = spec;
  for (const name of ["B", "Tq", "Tk", "H", "Hk", "D", "Dv"] as const) {
    if (dims[name] !== plan.dims[name]) {
      throw new ShapeError(where, `the plan was made for ${name}=${plan.dims[name]}`, { [name]: dims[name] }, REPLAN);
    }
  }
  if (spec.mask.hash() !== plan.tiles.maskHash) {
    throw new ConfigError(where, "the plan was made for another mask", { mask: spec.mask.toString() }, REPLAN);
  }
  const needs = needsOf(spec, kv);
  for (const name of ["features", "layout", "queries", "keys", "values"] as const) {
    if (String(needs[name]) !== String(plan.needs[name])) {
      const expected = `the plan was made for ${name} ${JSON.stringify(plan.needs[name])}`;
      throw new ConfigError(where, expected, { [name]: needs[name] }, REPLAN);
    }
  }
  const { keyTile } = plan.tiles;
  const page = kv?.layout === "paged" ? kv.keys.shape[1] : keyTile;
  if (keyTile % page !== 0 && page % keyTile !== 0) {
    throw new ConfigError(where, `the plan was made for pages that fit tiles of ${keyTile} keys`, { page }, REPLAN);
  }
  if (hashInputs(spec, selection) !== plan.inputsHash) {
    throw new ConfigError(where, "the plan was made for other positions, segments, tables or selection", {}, REPLAN);
  }
}
