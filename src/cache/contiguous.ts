/**
 * One run of rows: slot s is row s.
 */

import type { KeyValues, KvView } from "../attention/index.ts";
import { BudgetError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { CopyMode } from "./row-array.ts";
import type { BlockMaker, RowBlock } from "./row-block.ts";
import type { SlotStore, ViewedSlots } from "./slot-store.ts";

const FIRST_CAPACITY = 16;

/** Grows by doubling, or has one fixed capacity from the first append on. */
export class ContiguousStore implements SlotStore {
  readonly #make: BlockMaker;
  readonly #fixed: number | undefined;
  #block: RowBlock;
  #length = 0;

  /**
   * @param make - makes blocks
   * @param fixed - rows, where the store may not grow
   */
  constructor(make: BlockMaker, fixed: number | undefined, block: RowBlock = make(0)) {
    this.#make = make;
    this.#fixed = fixed;
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
    return slot;
  }

  extend(count: number, mode: CopyMode): number {
    const needed = this.#length + count;
    const { capacity } = this.#block;
    if (this.#fixed !== undefined && needed > this.#fixed) throw capacityExceeded(needed, this.#fixed);
    if (needed > capacity) {
      // What the host fills at once is often all there will be.
      const isWhole = mode === "host" && this.#length === 0;
      const larger = isWhole ? needed : Math.max(needed, 2 * capacity, FIRST_CAPACITY);
      this.#move(this.#fixed ?? larger, mode);
    } else if (this.#block.references > 1) {
      this.#move(capacity, mode);
    }
    this.#length = needed;
    return 0;
  }

  own(): void {
    if (this.#block.references > 1) this.#move(this.#block.capacity, "host");
  }

  keep(slots: Int32Array): void {
    const old = this.#block;
    const wanted = this.#fixed ?? slots.length;
    if (old.references > 1 || old.capacity !== wanted) {
      const block = this.#make(wanted);
      gather(block, old, slots);
      old.release();
      this.#block = block;
    } else gather(old, old, slots);
    this.#length = slots.length;
  }

  crop(length: number): void {
    this.#length = length;
  }

  fork(): ContiguousStore {
    this.#block.references++;
    const fork = new ContiguousStore(this.#make, this.#fixed, this.#block);
    fork.#length = this.#length;
    return fork;
  }

  dispose(): void {
    this.#block.release();
    this.#block = this.#make(0);
    this.#length = 0;
  }

  view(slots: ViewedSlots): KeyValues {
    const { keys, values } = this.#block;
    const count = this.#length;
    if (keys.elements === "f32") {
      const rows = {
        keys: keys.slice(0, count, [count]) as Tensor<"f32">,
        values: values.slice(0, count, [count]) as Tensor<"f32">,
      };
      return { ...rows, ...slots } satisfies KvView;
    }
    const outer = [1, count];
    return {
      layout: "contiguous",
      keys: keys.slice(0, count, outer),
      values: values.slice(0, count, outer),
      ...slots,
    };
  }

  #move(capacity: number, mode: CopyMode): void {
    const old = this.#block;
    const block = this.#make(capacity);
    if (this.#length > 0) block.copyRows(old, 0, 0, this.#length, mode);
    old.release();
    this.#block = block;
  }
}

/** Rows of ascending slots, moved to the front of a block. */
function gather(to: RowBlock, from: RowBlock, slots: Int32Array): void {
  for (let at = 0; at < slots.length; ) {
    let count = 1;
    while (at + count < slots.length && slots[at + count] === slots[at] + count) count++;
    if (to !== from || slots[at] !== at) to.copyRows(from, slots[at], at, count, "host");
    at += count;
  }
}

/** The refusal of an append beyond a fixed capacity. */
export function capacityExceeded(rows: number, capacity: number): BudgetError {
  return new BudgetError(
    "cache.append",
    "the rows must fit the layer's capacity",
    { rows, capacity },
    "Forget rows first (erase, compact, shiftContext), or plan a larger capacity.",
  );
}
