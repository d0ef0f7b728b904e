/**
 * Integers of every slot, by column: its position, its segment, and what else belongs to a slot.
 */

import type { SlotOrder } from "../attention/index.ts";
import type { SlotVersion, SlotVersions } from "./slot-versions.ts";

/** Slots to make room for when so many are needed. */
export type SlotGrowth = (needed: number, capacity: number) => number;

/** Columns of equal length that grow together; the first two are positions and segments. */
export class SlotColumns {
  #columns: Int32Array[];
  readonly #growth: SlotGrowth;
  readonly #versions: SlotVersions;
  #version: SlotVersion;
  /** Whether positions never fall from slot to slot. What is true stays true when slots go. */
  #ascending = true;
  /** The segment of all slots; undefined where they differ. */
  #segment: number | undefined;
  #length = 0;

  constructor(columns: number, growth: SlotGrowth, versions: SlotVersions) {
    this.#columns = Array.from({ length: columns }, () => new Int32Array(0));
    this.#growth = growth;
    this.#versions = versions;
    this.#version = versions.empty;
  }

  get length(): number {
    return this.#length;
  }

  get allocatedBytes(): number {
    return this.#columns.reduce((sum, column) => sum + column.byteLength, 0);
  }

  /** What is known of positions and segments. */
  get order(): SlotOrder {
    return { version: this.#version, ascending: this.#ascending, segment: this.#segment };
  }

  /** A column, sharing memory until the next change; not to be written. */
  column(index: number): Int32Array {
    return this.#columns[index].subarray(0, this.#length);
  }

  /** All columns, sharing memory until the next change; not to be written. */
  get lists(): Int32Array[] {
    return this.#columns.map((_, index) => this.column(index));
  }

  /** Adds slots at the end, one list for each column. */
  append(added: readonly Int32Array[]): void {
    const needed = this.#length + added[0].length;
    const capacity = this.#columns[0].length;
    if (needed > capacity) this.#resize(this.#growth(needed, capacity));
    added.forEach((values, c) => {
      this.#columns[c].set(values, this.#length);
    });
    const first = this.#length;
    this.#length = needed;
    this.#describe(first);
    this.#become("append", added.slice(0, 2));
  }

  /** Gives the slots other positions, or other values of another column. */
  replace(index: number, values: Int32Array): void {
    this.#columns[index].set(values);
    if (index > 1) return;
    this.#describe(0);
    this.#become("replace", [Int32Array.of(index), values]);
  }

  /** Forgets the first slots. */
  drop(count: number): void {
    for (const column of this.#columns) column.copyWithin(0, count, this.#length);
    this.#length -= count;
    this.#become("drop", [Int32Array.of(count)]);
  }

  /** Keeps the given slots, ascending. */
  keep(slots: Int32Array): void {
    for (const column of this.#columns) {
      slots.forEach((slot, at) => {
        column[at] = column[slot];
      });
    }
    this.#length = slots.length;
    this.#describe(0);
    this.#become("keep", [slots]);
  }

  crop(length: number): void {
    if (length === this.#length) return;
    this.#length = length;
    this.#become("crop", [Int32Array.of(length)]);
  }

  /** Gives spare memory back, but for what fills a page. */
  trim(pageSize = 1): void {
    const room = pageSize * Math.ceil(this.#length / pageSize);
    if (this.#columns[0].length > room) this.#resize(room);
  }

  clone(): SlotColumns {
    const copy = new SlotColumns(0, this.#growth, this.#versions);
    copy.#columns = this.#columns.map((column) => column.slice());
    copy.#version = this.#version;
    copy.#ascending = this.#ascending;
    copy.#segment = this.#segment;
    copy.#length = this.#length;
    return copy;
  }

  #become(change: string, values: readonly Int32Array[]): void {
    const { empty } = this.#versions;
    this.#version = this.#length === 0 ? empty : this.#versions.after(this.#version, change, values);
  }

  /** Brings what is known up to date with the slots from `first` on. */
  #describe(first: number): void {
    if (this.#length === 0) return;
    const [positions, segments] = this.#columns;
    if (first === 0) {
      this.#ascending = true;
      this.#segment = segments[0];
    }
    for (let slot = first; slot < this.#length; slot++) {
      if (slot > 0 && positions[slot] < positions[slot - 1]) this.#ascending = false;
      if (segments[slot] !== this.#segment) this.#segment = undefined;
    }
  }

  #resize(capacity: number): void {
    this.#columns = this.#columns.map((column) => {
      const resized = new Int32Array(capacity);
      resized.set(column.subarray(0, this.#length));
      return resized;
    });
  }
}
