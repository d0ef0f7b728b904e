/**
 * What a cache's owner knows about every slot beside its row: which token of the text it came from, however often it
 * moved since, and, where a policy asks for it, how much attention it was given.
 */

import type { KeyValues } from "../attention/index.ts";
import type { PositionedCache } from "../cache/index.ts";
import type { AttentionMass } from "../compress/index.ts";

/** How records are kept. */
export type RecordOptions = {
  /** [L] query heads and key-value heads. */
  readonly layers: readonly { readonly heads: number; readonly kvHeads: number }[];
  /** Whether attention mass is kept. */
  readonly mass: boolean;
  /** Slots to make room for at once; growing by doubling when absent. */
  readonly capacity?: number | undefined;
  /** Whether heads share a fixed number of pages instead: each then has room for its own pages. */
  readonly pages?: boolean;
};

type Column = Int32Array | Float64Array;

/** Slots that there is room for from the start; or room that follows the number of slots, exactly by pages or freely. */
type RecordRoom = number | "pages" | "any";

const PAGE_SIZE = 16;

function wholePages(slots: number): number {
  return PAGE_SIZE * Math.ceil(slots / PAGE_SIZE);
}

/** Records of the slots of one lane, which is one head of a layer or all of them. */
class RecordLane {
  length = 0;
  /** Sources; then, where mass is kept, a sum per query head and a count per key-value head. */
  #columns: Column[];
  readonly #room: RecordRoom;

  constructor(columns: Column[], room: RecordRoom) {
    this.#columns = columns;
    this.#room = room;
  }

  static empty(massColumns: number, room: RecordRoom): RecordLane {
    const slots = typeof room === "number" ? room : 0;
    const columns: Column[] = [new Int32Array(slots)];
    for (let n = 0; n < massColumns; n++) columns.push(new Float64Array(slots));
    return new RecordLane(columns, room);
  }

  get allocatedBytes(): number {
    return this.#columns.reduce((sum, column) => sum + column.byteLength, 0);
  }

  column(n: number): Column {
    return this.#columns[n].subarray(0, this.length);
  }

  append(sources: Int32Array): void {
    const needed = this.length + sources.length;
    if (needed > this.#columns[0].length) {
      this.#resize(this.#room === "pages" ? wholePages(needed) : Math.max(needed, 2 * this.#columns[0].length, 16));
    }
    this.#columns.forEach((column, n) => {
      if (n === 0) column.set(sources, this.length);
      else column.fill(0, this.length, needed);
    });
    this.length = needed;
  }

  keep(slots: Int32Array): void {
    for (const column of this.#columns) for (let at = 0; at < slots.length; at++) column[at] = column[slots[at]];
    this.length = slots.length;
    const room = this.#columns[0].length;
    if (this.#room === "pages" && wholePages(this.length) < room) this.#resize(wholePages(this.length));
    if (this.#room === "any" && 2 * this.length < room) this.#resize(this.length);
  }

  crop(length: number): void {
    this.length = Math.max(0, length);
    if (this.#room === "pages") this.#resize(wholePages(this.length));
  }

  drop(count: number): void {
    if (count <= 0) return;
    for (const column of this.#columns) column.copyWithin(0, count, this.length);
    this.length -= count;
  }

  /** A lane of some columns and slots of this one. */
  pick(columns: readonly number[], slots: Int32Array): RecordLane {
    const room = typeof this.#room === "number" ? this.#columns[0].length : slots.length;
    const picked = columns.map((n) => {
      const from = this.#columns[n];
      const to = from instanceof Int32Array ? new Int32Array(room) : new Float64Array(room);
      slots.forEach((slot, at) => {
        to[at] = from[slot];
      });
      return to;
    });
    const lane = new RecordLane(picked, this.#room);
    lane.length = slots.length;
    return lane;
  }

  clone(): RecordLane {
    const copy = new RecordLane(
      this.#columns.map((column) => column.slice()),
      this.#room,
    );
    copy.length = this.length;
    return copy;
  }

  #resize(capacity: number): void {
    this.#columns = this.#columns.map((column) => {
      const resized = column instanceof Int32Array ? new Int32Array(capacity) : new Float64Array(capacity);
      resized.set(column.subarray(0, this.length));
      return resized;
    });
  }
}

/** Records of all slots of a cache, changed in step with it. */
export class SlotRecords {
  #options: RecordOptions;
  #layers: RecordLane[][];

  constructor(options: RecordOptions) {
    this.#options = options;
    this.#layers = options.layers.map((_, layer) => [this.#emptyLane(layer, false)]);
  }

  /** Bytes taken. */
  get allocatedBytes(): number {
    return this.#layers.flat().reduce((sum, lane) => sum + lane.allocatedBytes, 0);
  }

  /** i32 [rows] the token that each slot of a head came from. Shares memory. */
  sources(layer: number, head: number): Int32Array {
    return this.#lane(layer, head).column(0) as Int32Array;
  }

  /** Attention mass of a layer; shares memory. */
  mass(layer: number): AttentionMass {
    const { heads, kvHeads } = this.#options.layers[layer];
    const lanes = this.#layers[layer];
    const group = heads / kvHeads;
    const column = (kvHead: number, ofOne: number, ofAll: number): Float64Array => {
      const lane = this.#lane(layer, kvHead);
      return lane.column(1 + (lanes.length > 1 ? ofOne : ofAll)) as Float64Array;
    };
    return {
      sums: Array.from({ length: heads }, (_, h) => column(Math.floor(h / group), h % group, h)),
      counts: Array.from({ length: kvHeads }, (_, h) => column(h, group, heads + h)),
    };
  }

  /** New slots at the end of a layer; as many old ones as the cache let go of go first. */
  append(layer: number, sources: Int32Array, dropped: number): void {
    for (const lane of this.#layers[layer]) {
      if (dropped > 0) lane.drop(dropped);
      lane.append(sources);
    }
  }

  /** After the last rows of a layer were taken back: forgets what its rows do not reach. */
  fit<View extends KeyValues>(layer: number, count: number, cache: PositionedCache<View>): void {
    for (const [head, lane] of this.#layers[layer].entries()) {
      lane.crop(lane.length - count);
      lane.drop(lane.length - cache.length(layer, head)); // what a ring has let go
    }
  }

  /** Keeps chosen slots of every head; lists that differ give every head records of its own. */
  keep(layer: number, kept: readonly Int32Array[], ragged: boolean): void {
    const lanes = this.#layers[layer];
    if (ragged && lanes.length === 1) this.#split(layer, kept);
    else for (const [head, lane] of lanes.entries()) lane.keep(kept[head]);
  }

  /** Appends the records of a cache that was merged into this one; its tokens follow `offset` of this one's. */
  merge<View extends KeyValues>(other: SlotRecords, offset: number, cache: PositionedCache<View>): void {
    for (const [layer, lanes] of other.#layers.entries()) {
      if (cache.isRagged(layer) && this.#layers[layer].length === 1) {
        const all = Int32Array.from({ length: this.#layers[layer][0].length }, (_, slot) => slot);
        this.#split(
          layer,
          Array.from({ length: this.#options.layers[layer].kvHeads }, () => all),
        );
      }
      for (const [head, lane] of this.#layers[layer].entries()) {
        const added = lanes[Math.min(head, lanes.length - 1)].column(0) as Int32Array;
        lane.append(added.map((source) => source + offset));
      }
    }
  }

  /** Empty records for so many lanes. */
  reset(layer: number, lanes: number): void {
    this.#layers[layer] = Array.from({ length: lanes }, () => this.#emptyLane(layer, lanes > 1));
  }

  /** Puts records of other lanes in place: after a restore. */
  restore(
    layer: number,
    lanes: readonly { readonly sources: Int32Array; readonly mass: readonly Float64Array[] }[],
  ): void {
    this.#layers[layer] = lanes.map(({ sources, mass }) => {
      const lane = this.#emptyLane(layer, lanes.length > 1);
      lane.append(sources);
      mass.forEach((column, n) => {
        (lane.column(1 + n) as Float64Array).set(column);
      });
      return lane;
    });
  }

  /** The records of a layer, lane by lane, for a snapshot; share memory. */
  lanesOf(layer: number): { readonly sources: Int32Array; readonly mass: readonly Float64Array[] }[] {
    const count = this.#options.mass ? this.massColumns(layer, this.#layers[layer].length > 1) : 0;
    return this.#layers[layer].map((lane) => ({
      sources: lane.column(0) as Int32Array,
      mass: Array.from({ length: count }, (_, n) => lane.column(1 + n) as Float64Array),
    }));
  }

  /** Where a column of a head's attention mass is among those of all heads together. */
  columnTogether(layer: number, head: number, column: number): number {
    const { heads, kvHeads } = this.#options.layers[layer];
    const group = heads / kvHeads;
    return column < group ? head * group + column : heads + head;
  }

  /** Columns of attention mass that a lane has. */
  massColumns(layer: number, perHead: boolean): number {
    if (!this.#options.mass) return 0;
    const { heads, kvHeads } = this.#options.layers[layer];
    return perHead ? heads / kvHeads + 1 : heads + kvHeads;
  }

  clone(): SlotRecords {
    const copy = new SlotRecords({ ...this.#options, layers: [] });
    copy.#options = this.#options;
    copy.#layers = this.#layers.map((lanes) => lanes.map((lane) => lane.clone()));
    return copy;
  }

  #lane(layer: number, head: number): RecordLane {
    const lanes = this.#layers[layer];
    return lanes.length > 1 ? lanes[head] : lanes[0];
  }

  #emptyLane(layer: number, perHead: boolean): RecordLane {
    const { capacity = "any", pages = false } = this.#options;
    return RecordLane.empty(this.massColumns(layer, perHead), pages ? "pages" : capacity);
  }

  #split(layer: number, kept: readonly Int32Array[]): void {
    const [whole] = this.#layers[layer];
    const { heads, kvHeads } = this.#options.layers[layer];
    const group = heads / kvHeads;
    this.#layers[layer] = kept.map((slots, head) => {
      const mass = Array.from({ length: group }, (_, g) => 1 + head * group + g);
      return whole.pick(this.#options.mass ? [0, ...mass, 1 + heads + head] : [0], slots);
    });
  }
}

/**
 * Bytes of the records of one slot in all layers, where every head has its own: with attention mass twice, because what a
 * step adds is there beside the sums.
 */
export function recordBytesPerSlot({ layers, mass }: Pick<RecordOptions, "layers" | "mass">): number {
  return layers.reduce((sum, { heads, kvHeads }) => sum + 4 * kvHeads + (mass ? 16 * (heads + kvHeads) : 0), 0);
}
