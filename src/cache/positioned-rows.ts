/**
 * The rows of a cache, layer by layer: storing new ones, looking at what is there. What changes rows is in
 * `positioned-cache.ts`.
 */

import type { KeyValues, KvView, KvViews, NarrowedKv } from "../attention/index.ts";
import { CapabilityError, ShapeError } from "../errors.ts";
import type { KvCache, KvMemory, KvRows } from "./cache.ts";
import { checkRows } from "./check.ts";
import { createLanes, type Lane, type LaneOwner } from "./lane.ts";
import type { ResolvedLayer } from "./layer-spec.ts";
import { wideView } from "./narrow.ts";
import type { PagePools } from "./page-pools.ts";
import { PagedStore, pagedView } from "./paged.ts";
import { rowKind } from "./row-kind.ts";
import { SlotVersions } from "./slot-versions.ts";

/** A layer and its lanes. */
export type LayerState = {
  readonly spec: ResolvedLayer;
  /** One for all heads, or one per head. */
  lanes: readonly Lane[];
  /** As many for older rows, whose keys hold some of their channels; empty where there are none. */
  narrow: readonly Lane[];
};

/** All lanes of a layer, older rows first. */
export function lanesOf({ narrow, lanes }: LayerState): readonly Lane[] {
  return narrow.length > 0 ? [...narrow, ...lanes] : lanes;
}

/** What a cache holds, and how rows come in. */
export abstract class PositionedRows<View extends KeyValues = KeyValues> implements KvCache<View> {
  /** For the parts of the cache only. */
  readonly states: readonly LayerState[];
  /** Positions per slot beside the one that masks compare. */
  readonly axes: number;
  /**
   * Tokens that length-dependent schedules were resolved for when the stored keys were rotated; 0 when not known. The
   * caller sets it with the first append; only dynamic NTK and LongRoPE need it.
   */
  scheduleLength = 0;
  /** For the parts of the cache only. */
  readonly memory: KvMemory;
  /** For the parts of the cache only. */
  readonly versions: SlotVersions = new SlotVersions();
  /** For the parts of the cache only. */
  readonly headsApart: boolean;
  /** For the parts of the cache only. */
  pools: PagePools | undefined;
  protected next = 0;

  /** Use `createKvCache`. */
  constructor(made: Omit<LaneOwner, "versions">, specs: readonly ResolvedLayer[], states?: readonly LayerState[]) {
    this.memory = made.memory;
    this.axes = made.axes;
    this.headsApart = made.headsApart;
    this.pools = made.pools;
    this.states = states ?? specs.map((spec) => ({ spec, lanes: createLanes(this, spec, false), narrow: [] }));
  }

  get layers(): number {
    return this.states.length;
  }

  get nextPosition(): number {
    return this.next;
  }

  /** Bytes of the rows held: keys, values and scales, without spare capacity. */
  get bytes(): number {
    return this.states.flatMap(lanesOf).reduce((sum, lane) => sum + lane.bytes, 0);
  }

  /** Bytes taken: rows with spare capacity, positions and segments. Rows shared with forks count in each of them. */
  get allocatedBytes(): number {
    const lanes = this.states.flatMap(lanesOf);
    const blocks = new Set(lanes.map((lane) => lane.store.block));
    let bytes = 0;
    for (const block of blocks) bytes += block.allocatedBytes;
    for (const lane of lanes) bytes += lane.listBytes;
    return bytes;
  }

  /** The part of `allocatedBytes` that is shared with forks now. */
  get sharedBytes(): number {
    return this.states.flatMap(lanesOf).reduce((sum, { store }) => sum + store.sharedBytes, 0);
  }

  length(layer?: number, head?: number): number {
    const states = layer === undefined ? this.states : [this.state("length", layer)];
    if (layer !== undefined && head !== undefined) {
      return this.parts("length", layer, head).reduce((sum, lane) => sum + lane.length, 0);
    }
    return Math.max(
      0,
      ...states.flatMap(({ lanes, narrow }) => lanes.map((lane, n) => (narrow[n]?.length ?? 0) + lane.length)),
    );
  }

  /** Whether the heads of a layer hold rows of different positions, each its own. */
  isRagged(layer: number): boolean {
    return this.state("isRagged", layer).lanes.length > 1;
  }

  /** Whether older rows of a layer have keys that hold some of their channels. */
  isNarrowed(layer: number): boolean {
    return this.state("isNarrowed", layer).narrow.length > 0;
  }

  /**
   * i32 positions of the rows of a layer, in slot order; a ragged layer needs the head. Shares memory where the layer is
   * not narrowed.
   */
  positions(layer: number, head?: number): Int32Array {
    return joined(this.parts("positions", layer, head).map((lane) => lane.positions));
  }

  /** i32 segments of the rows of a layer, as {@link positions}. */
  segments(layer: number, head?: number): Int32Array {
    return joined(this.parts("segments", layer, head).map((lane) => lane.segments));
  }

  /** i32 positions on each axis, where the cache has axes, as {@link positions}. */
  axisPositions(layer: number, head?: number): readonly Int32Array[] {
    const parts = this.parts("axisPositions", layer, head);
    return Array.from({ length: this.axes }, (_, a) => joined(parts.map((lane) => lane.axes[a])));
  }

  /**
   * Adds rows to one layer.
   *
   * @throws ShapeError when sizes do not fit
   * @throws BudgetError when a capacity, a ring's window or the memory cannot hold them; nothing is added then
   */
  append(layer: number, rows: KvRows): void {
    const { spec, lanes } = this.state("append", layer);
    checkRows("cache.append", rows, spec, this.axes);
    const { keys, values, positions, segments } = rows;
    const axes = rows.axes ?? Array.from({ length: this.axes }, () => positions);
    const before = lanes.map((lane) => lane.length);
    try {
      lanes.forEach((lane, head) => {
        lane.append({ positions, segments, axes }, { keys, values }, lanes.length > 1 ? head : undefined);
      });
    } catch (error) {
      lanes.forEach((lane, head) => {
        if (lane.length > before[head]) lane.crop(before[head]);
      });
      throw error;
    }
    for (const list of [positions, ...axes]) this.next = Math.max(this.next, positionAfter(list));
  }

  /**
   * The rows of one layer; shares memory, valid until the next operation on the cache.
   *
   * @throws CapabilityError when the layer is ragged, or narrowed
   */
  view(layer: number): View {
    const { lanes } = this.state("view", layer);
    this.#refuseNarrow("view", layer);
    if (lanes.length === 1) return lanes[0].view() as View;
    throw new CapabilityError(
      "cache.view",
      "heads that hold the same positions",
      { layer, heads: lanes.length },
      "Use headViews: one view per head.",
    );
  }

  /**
   * The rows of a ragged layer, one view per key-value head with Hk = 1.
   *
   * @throws CapabilityError when the layer is not ragged, or narrowed
   */
  headViews(layer: number): View[] {
    this.#refuseNarrow("headViews", layer);
    return this.raggedLanes("headViews", layer).map((lane) => lane.view() as View);
  }

  /**
   * The rows of a ragged layer as one paged view with B = Hk and Hk = 1: query heads come as [Hk, T, G, D].
   *
   * @throws CapabilityError when the layer is not ragged, not paged, or narrowed
   */
  headBatch(layer: number): KeyValues {
    this.#refuseNarrow("headBatch", layer);
    const lanes = this.raggedLanes("headBatch", layer);
    const stores = lanes.map(({ store }) => store).filter((store) => store instanceof PagedStore);
    if (stores.length === 0) {
      throw new CapabilityError("cache.headBatch", "a paged layer", { layer }, "Use headViews: one view per head.");
    }
    const slots = this.length(layer);
    const positions = new Int32Array(lanes.length * slots);
    const segments = new Int32Array(lanes.length * slots).fill(-1);
    lanes.forEach((lane, head) => {
      positions.set(lane.positions, head * slots);
      segments.set(lane.segments, head * slots);
    });
    return pagedView(stores, stores[0].pool, { positions, segments });
  }

  /** The rows of one layer as a backend attends over them, whatever its heads and key channels. Shares memory. */
  attended(layer: number): KvViews | NarrowedKv {
    const { lanes, narrow } = this.state("attended", layer);
    const full = viewsOf(lanes);
    if (narrow.length === 0) return full;
    return { narrow: viewsOf(narrow), channels: narrow.flatMap(({ channels = [] }) => channels), full };
  }

  /**
   * Copies of the rows of one layer as plain numbers with keys of full width, channels that are gone as 0: one view for
   * all heads, or one per head where they are ragged.
   */
  wideViews(layer: number): KvView[] {
    const { spec, lanes, narrow } = this.state("wideViews", layer);
    return lanes.map((lane, n) => wideView(spec, narrow[n] ? [narrow[n], lane] : [lane]));
  }

  /** What rows must have in common to be in this cache, as text that can be compared. */
  rowKind(scheduleLength: number = this.scheduleLength): string {
    return rowKind(
      this.states.map((state) => state.spec),
      this.axes,
      scheduleLength,
    );
  }

  abstract clear(): void;

  protected raggedLanes(method: string, layer: number): readonly Lane[] {
    const { lanes } = this.state(method, layer);
    if (lanes.length > 1) return lanes;
    throw new CapabilityError(`cache.${method}`, "a layer whose heads are ragged", { layer }, "Use view.");
  }

  /** The lanes of a head, older rows first. */
  protected parts(method: string, layer: number, head?: number): readonly Lane[] {
    const { spec, lanes, narrow } = this.state(method, layer);
    const index = head ?? 0;
    if (!(Number.isInteger(index) && index >= 0 && index < spec.kvHeads) || (lanes.length > 1 && head === undefined)) {
      throw new ShapeError(`cache.${method}`, "a head of the layer", { head, heads: spec.kvHeads, layer });
    }
    const at = lanes.length === 1 ? 0 : index;
    return narrow.length > 0 ? [narrow[at], lanes[at]] : [lanes[at]];
  }

  #refuseNarrow(method: string, layer: number): void {
    if (!this.isNarrowed(layer)) return;
    throw new CapabilityError(
      `cache.${method}`,
      "a layer whose keys all hold all channels",
      { layer },
      "Use attended for a backend, or wideViews for a copy with the others as 0.",
    );
  }

  protected state(method: string, index: number): LayerState {
    const state = this.states[index];
    if (state === undefined) {
      throw new ShapeError(`cache.${method}`, "a layer of the cache", { layer: index, layers: this.layers });
    }
    return state;
  }
}

function viewsOf(lanes: readonly Lane[]): KvViews {
  return lanes.length === 1 ? lanes[0].view() : lanes.map((lane) => lane.view());
}

function joined(lists: readonly Int32Array[]): Int32Array {
  if (lists.length === 1) return lists[0];
  const all = new Int32Array(lists.reduce((sum, list) => sum + list.length, 0));
  let at = 0;
  for (const list of lists) {
    all.set(list, at);
    at += list.length;
  }
  return all;
}

/** The position after the largest one. */
export function positionAfter(positions: Int32Array): number {
  let next = 0;
  for (const position of positions) next = Math.max(next, position + 1);
  return next;
}
