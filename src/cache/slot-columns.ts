/**
 * Integers of every slot, by column: its position, its segment, and what else belongs to a slot.
 */

/** Slots to make room for when so many are needed. */
export type SlotGrowth = (needed: number, capacity: number) => number;

/** Columns of equal length that grow together. */
export class SlotColumns {
  #columns: Int32Array[];
  readonly #growth: SlotGrowth;
  #length = 0;

  constructor(columns: number, growth: SlotGrowth) {
    this.#columns = Array.from({ length: columns }, () => new Int32Array(0));
    this.#growth = growth;
  }

  get length(): number {
    return this.#length;
  }

  get allocatedBytes(): number {
    return this.#columns.reduce((sum, column) => sum + column.byteLength, 0);
  }

  /** A column, sharing memory until the next change. */
  column(index: number): Int32Array {
    return this.#columns[index].subarray(0, this.#length);
  }

  /** All columns, sharing memory until the next change. */
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
    this.#length = needed;
  }

  /** Forgets the first slots. */
  drop(count: number): void {
    for (const column of this.#columns) column.copyWithin(0, count, this.#length);
    this.#length -= count;
  }

  /** Keeps the given slots, ascending. */
  keep(slots: Int32Array): void {
    for (const column of this.#columns) {
      slots.forEach((slot, at) => {
        column[at] = column[slot];
      });
    }
    this.#length = slots.length;
  }

  crop(length: number): void {
    this.#length = length;
  }

  /** Gives spare memory back. */
  trim(): void {
    if (this.#columns[0].length > this.#length) this.#resize(this.#length);
  }

  clone(): SlotColumns {
    const copy = new SlotColumns(0, this.#growth);
    copy.#columns = this.#columns.map((column) => column.slice());
    copy.#length = this.#length;
    return copy;
  }

  #resize(capacity: number): void {
    this.#columns = this.#columns.map((column) => {
      const resized = new Int32Array(capacity);
      resized.set(column.subarray(0, this.#length));
      return resized;
    });
  }
}
