/**
 * Rows of a sliding window: slot s is row (start + s) mod capacity, and new rows take the place of the oldest.
 */

import type { KeyValues } from "../attention/index.ts";
import { BudgetError } from "../errors.ts";
import type { CopyMode } from "./row-array.ts";
import type { BlockMaker, RowBlock } from "./row-block.ts";
import type { SlotStore, ViewedSlots } from "./slot-store.ts";

/** A ring of window + maxChunk − 1 rows, allocated at the first append. */
export class RingStore implements SlotStore {
  readonly #make: BlockMaker;
  readonly #window: number;
  readonly #capacity: number;
  #block: RowBlock;
  #start = 0;
  #length = 0;

  constructor(make: BlockMaker, window: number, maxChunk: number, block: RowBlock = make(0)) {
    this.#make = make;
    this.#window = window;
    this.#capacity = window + maxChunk - 1;
    this.#block = block;
  }

  get length(): number {
    return this.#length;
  }

  get block(): RowBlock {
    return this.#block;
  }

  get sharedBytes(): number {
    return this.#block.references > 1 ? this.#block.allocatedBytes : 0;
  }

  rowOf(slot: number): number {
    return (this.#start + slot) % this.#capacity;
  }

  extend(count: number, mode: CopyMode): number {
    const maxRows = this.#capacity - Math.min(this.#length, this.#window - 1);
    if (count > maxRows) {
      throw new BudgetError(
        "cache.append",
        "a ring must keep the window of the first new row",
        { rows: count, window: this.#window, maxRows },
        "Append fewer rows at a time, or make the cache with a larger maxChunk.",
      );
    }
    const kept = Math.min(this.#length, this.#capacity - count);
    if (count > 0) this.#own(mode);
    const dropped = this.#length - kept;
    this.#start = this.rowOf(dropped);
    this.#length = kept + count;
    return dropped;
  }

  own(): void {
    this.#own("host");
  }

  keep(slots: Int32Array): void {
    this.own();
    slots.forEach((slot, at) => {
      const [from, to] = [this.rowOf(slot), this.rowOf(at)];
      if (from !== to) this.#block.copyRows(this.#block, from, to, 1, "host");
    });
    this.#length = slots.length;
  }

  crop(length: number): void {
    this.#length = length;
  }

  fork(): RingStore {
    this.#block.references++;
    const fork = new RingStore(this.#make, this.#window, this.#capacity - this.#window + 1, this.#block);
    fork.#start = this.#start;
    fork.#length = this.#length;
    return fork;
  }

  dispose(): void {
    this.#block.release();
    this.#block = this.#make(0);
    this.#start = 0;
    this.#length = 0;
  }

  view(slots: ViewedSlots): KeyValues {
    const { keys, values, capacity } = this.#block;
    const outer = [1, capacity];
    return {
      layout: "ring",
      keys: keys.slice(0, capacity, outer),
      values: values.slice(0, capacity, outer),
      starts: Int32Array.of(this.#start),
      ...slots,
    };
  }

  #own(mode: CopyMode): void {
    const old = this.#block;
    if (old.references === 1 && old.capacity > 0) return;
    this.#block = this.#make(this.#capacity);
    if (old.capacity > 0) this.#block.copyRows(old, 0, 0, old.capacity, mode);
    old.release();
  }
}
