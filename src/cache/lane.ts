/**
 * A lane: rows that share positions. A layer has one lane for all its heads, or one for each after heads have kept
 * different rows; and as many before those for older rows whose keys hold some of their channels, if there are any.
 */

import type { KeyValues } from "../attention/index.ts";
import { rows as rowRange, type Tensor } from "../tensor.ts";
import type { KvMemory, KvRows } from "./cache.ts";
import { ContiguousStore } from "./contiguous.ts";
import { headRowBytes, type ResolvedLayer } from "./layer-spec.ts";
import type { PagePools } from "./page-pools.ts";
import { PagedStore, PagePool } from "./paged.ts";
import { RingStore } from "./ring.ts";
import { RowBlock } from "./row-block.ts";
import { SlotColumns, type SlotGrowth } from "./slot-columns.ts";
import { runsOf, type SlotStore } from "./slot-store.ts";
import type { SlotVersions } from "./slot-versions.ts";

/** Where new slots are: their positions, segments, and position on each axis. */
export type SlotPlaces = {
  readonly positions: Int32Array;
  readonly segments: Int32Array;
  readonly axes: readonly Int32Array[];
};

/** What sets a lane apart from most. */
export type LaneKind = {
  /** i32 [heads][width], the channels that the keys hold, ascending; absent: all. */
  readonly channels?: readonly Int32Array[] | undefined;
  /** Rows of a page, where other lanes draw from the same fixed number of them. */
  readonly sharedPageSize?: number | undefined;
};

/** Rows of `heads` heads with their places. */
export class Lane {
  readonly heads: number;
  readonly store: SlotStore;
  /**
   * Columns: position, segment, an axis each; then, where keys are kept as they came, the position and axes that
   * those are rotated at.
   */
  readonly columns: SlotColumns;
  /** What the rows are; of keys that hold some of their channels the width is how many. */
  readonly layer: ResolvedLayer;
  /** i32 [heads][width], the channels that the keys hold, ascending; absent: all. */
  readonly channels: readonly Int32Array[] | undefined;
  readonly #axes: number;
  /** Rows of a page, where other lanes draw from the same fixed number of them. */
  readonly #sharedPageSize: number | undefined;
  /** Whether a ring has let old rows go since it was last empty. */
  hasDropped = false;

  constructor(
    layer: ResolvedLayer,
    axes: number,
    heads: number,
    store: SlotStore,
    columns: SlotColumns,
    { channels, sharedPageSize }: LaneKind = {},
  ) {
    this.heads = heads;
    this.store = store;
    this.columns = columns;
    this.layer = layer;
    this.channels = channels;
    this.#axes = axes;
    this.#sharedPageSize = sharedPageSize;
  }

  get length(): number {
    return this.columns.length;
  }

  get positions(): Int32Array {
    return this.columns.column(0);
  }

  get segments(): Int32Array {
    return this.columns.column(1);
  }

  get axes(): Int32Array[] {
    return Array.from({ length: this.#axes }, (_, a) => this.columns.column(2 + a));
  }

  /** Position and axes that the pristine keys are rotated at. */
  get origins(): { positions: Int32Array; axes: Int32Array[] } {
    const first = 2 + this.#axes;
    return {
      positions: this.columns.column(first),
      axes: Array.from({ length: this.#axes }, (_, a) => this.columns.column(first + 1 + a)),
    };
  }

  /** Bytes of the rows held, without spare capacity. */
  get bytes(): number {
    return this.length * this.heads * headRowBytes(this.layer);
  }

  /** Bytes of lists on the heap: what belongs to slots, and which channels there are. */
  get listBytes(): number {
    const { channels = [] } = this;
    return channels.reduce((sum, list) => sum + list.byteLength, this.columns.allocatedBytes);
  }

  /** All slots. */
  get slots(): Int32Array {
    return Int32Array.from({ length: this.length }, (_, slot) => slot);
  }

  /** Places of the slots, one list per column. */
  get places(): SlotPlaces {
    return { positions: this.positions, segments: this.segments, axes: this.axes };
  }

  /**
   * Issues the storing of new rows.
   *
   * @param rows - [T, heads, width]; with `head` [T, H, width] of all heads, of which that one is stored
   */
  append(places: SlotPlaces, { keys, values }: Pick<KvRows, "keys" | "values">, head?: number): void {
    const count = places.positions.length;
    this.#dropped(this.store.extend(count, "issue"));
    const first = this.store.length - count;
    const { block } = this.store;
    try {
      for (const { slot, row, count: length } of runsOf(this.store, first, first + count)) {
        const part = (x: Tensor<"f32">): Tensor<"f32"> => rowRange(x, slot - first, slot - first + length);
        block.keys.put(row, part(keys), head);
        block.pristine?.put(row, part(keys), head);
        block.values.put(row, part(values), head);
      }
    } catch (error) {
      this.store.crop(first);
      throw error;
    }
    this.columns.append(this.#withOrigins(places));
  }

  /**
   * Copies slots of another lane to the end of this one, at once. Key channels that the other has not are 0, those that
   * this one has not are left out.
   *
   * @param head - the first head of this lane among the other's
   */
  appendCopies(other: Lane, head: number, slots: Int32Array): void {
    this.addSlots(other.columns.lists.map((list) => slots.map((slot) => list[slot])));
    const first = this.store.length - slots.length;
    const channels = this.#channelsOf(other, head);
    slots.forEach((slot, at) => {
      const from = other.store.rowOf(slot) * other.heads + head;
      const to = this.store.rowOf(first + at) * this.heads;
      this.store.block.copyUnits(other.store.block, from, to, this.heads, channels);
    });
  }

  /**
   * Adds slots whose rows the caller then writes at once.
   *
   * @param columns - a list per column, all of one length
   */
  addSlots(columns: readonly Int32Array[]): void {
    this.#dropped(this.store.extend(columns[0].length, "host"));
    this.columns.append(columns);
  }

  keep(slots: Int32Array): void {
    if (slots.length === this.length) return;
    this.store.keep(slots);
    this.columns.keep(slots);
    if (this.layer.capacity === undefined) this.columns.trim();
    else this.#trimToPages();
  }

  /** Gives spare memory back. */
  trim(): void {
    this.store.keep(this.slots);
    this.columns.trim();
  }

  /** Keeps the first slots and all memory, but for pages that other heads may take. */
  crop(length: number): void {
    this.store.crop(length);
    this.columns.crop(length);
    this.#trimToPages();
    if (length === 0) this.hasDropped = false;
  }

  /** Gives the slots other positions, and other positions on each axis. */
  moveTo({ positions, axes }: Pick<SlotPlaces, "positions" | "axes">): void {
    this.columns.replace(0, positions);
    axes.forEach((axis, a) => {
      this.columns.replace(2 + a, axis);
    });
  }

  fork(): Lane {
    const { layer, heads, store, columns, channels } = this;
    const kind = { channels, sharedPageSize: this.#sharedPageSize };
    const fork = new Lane(layer, this.#axes, heads, store.fork(), columns.clone(), kind);
    fork.hasDropped = this.hasDropped;
    return fork;
  }

  view(): KeyValues {
    return this.store.view({ positions: this.positions, segments: this.segments, order: this.columns.order });
  }

  /** Lanes that share a fixed number of pages have no more positions than pages, whichever of them is long. */
  #trimToPages(): void {
    if (this.#sharedPageSize !== undefined) this.columns.trim(this.#sharedPageSize);
  }

  /** Where another lane's keys have the channels of these, [heads]; undefined where both have the same. */
  #channelsOf(other: Lane, firstHead: number): Int32Array[] | undefined {
    if (this.channels === undefined && other.channels === undefined) return undefined;
    return Array.from({ length: this.heads }, (_, head) => {
      const held = other.channels?.[firstHead + head];
      const wanted = this.channels?.[head] ?? Int32Array.from({ length: this.layer.keyDim }, (_, d) => d);
      return held === undefined ? wanted : wanted.map((channel) => held.indexOf(channel));
    });
  }

  #dropped(count: number): void {
    if (count === 0) return;
    this.columns.drop(count);
    this.hasDropped = true;
  }

  #withOrigins({ positions, segments, axes }: SlotPlaces): Int32Array[] {
    const columns = [positions, segments, ...axes];
    return this.layer.pristineKeys ? [...columns, positions, ...axes] : columns;
  }
}

/** What lanes need of the cache they belong to. */
export type LaneOwner = {
  readonly memory: KvMemory;
  /** Positions per slot beside the one that masks compare. */
  readonly axes: number;
  readonly versions: SlotVersions;
  /** Whether every head always has a lane. */
  readonly headsApart: boolean;
  /** Where the lanes of all layers share pages. */
  readonly pools: PagePools | undefined;
};

/**
 * Empty lanes of a layer.
 *
 * @param owner - the cache
 * @param split - one lane for each head instead of one for all
 */
export function createLanes(owner: LaneOwner, layer: ResolvedLayer, split: boolean): Lane[] {
  const { memory, axes, versions, pools } = owner;
  const { layout, kvHeads, capacity } = layer;
  const perHead = split || owner.headsApart;
  const heads = perHead ? 1 : kvHeads;
  const lanes = perHead ? kvHeads : 1;
  const make = (rows: number): RowBlock => new RowBlock(memory, layer, heads, rows);
  const sharesPages = layout.type === "paged" && capacity !== undefined && (lanes > 1 || pools !== undefined);
  const growth = slotGrowth(layer, sharesPages);
  const lane = (store: SlotStore): Lane => {
    const columns = new SlotColumns(columnCount(layer, axes), growth, versions);
    return new Lane(layer, axes, heads, store, columns, sharesPages ? { sharedPageSize: layout.pageSize } : {});
  };
  const stores = (create: () => SlotStore): Lane[] => Array.from({ length: lanes }, () => lane(create()));
  switch (layout.type) {
    case "contiguous":
      return stores(() => new ContiguousStore(make, capacity));
    case "ring":
      return stores(() => new RingStore(make, layout.window, layout.maxChunk));
    case "paged": {
      const pages = capacity === undefined ? undefined : lanes * Math.ceil(capacity / layout.pageSize);
      const pool = pools?.of(layer) ?? new PagePool(make, layout.pageSize, pages);
      return stores(() => new PagedStore(pool));
    }
  }
}

/**
 * Empty lanes of a layer for rows whose keys hold some of their channels. Nothing is ever appended to such rows, so they
 * lie in one run whatever the layer's layout, and forks share them until rows go.
 *
 * @param channels - i32 [Hk][D′], ascending
 */
export function createNarrowLanes(
  { memory, axes, versions }: LaneOwner,
  layer: ResolvedLayer,
  channels: readonly Int32Array[],
  perHead: boolean,
): Lane[] {
  const narrow: ResolvedLayer = {
    ...layer,
    keyDim: channels[0].length,
    layout: { type: "contiguous" },
    capacity: undefined,
  };
  const groups = perHead ? channels.map((list) => [list]) : [channels];
  return groups.map((lists) => {
    const make = (rows: number): RowBlock => new RowBlock(memory, narrow, lists.length, rows);
    const columns = new SlotColumns(columnCount(narrow, axes), slotGrowth(narrow, false), versions);
    return new Lane(narrow, axes, lists.length, new ContiguousStore(make, undefined), columns, { channels: lists });
  });
}

/** Integers per slot. */
export function columnCount({ pristineKeys }: ResolvedLayer, axes: number): number {
  return (pristineKeys ? 2 : 1) * (1 + axes) + 1;
}

/** Lists grow with the rows: to a fixed size at once, by pages, or by doubling. */
function slotGrowth({ layout, capacity }: ResolvedLayer, sharesPages: boolean): SlotGrowth {
  if (layout.type === "ring") return () => layout.window + layout.maxChunk - 1;
  if (capacity === undefined) return (needed, present) => Math.max(needed, 2 * present);
  if (layout.type === "contiguous") return () => capacity;
  const { pageSize } = layout;
  // One head may have more than its share of the pages.
  return (needed) => pageSize * Math.ceil((sharesPages ? needed : capacity) / pageSize);
}
