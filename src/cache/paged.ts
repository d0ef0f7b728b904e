/**
 * Rows in pages: slot s is row s mod P of page table[floor(s / P)]. Forks share pages, and a page is copied only when
 * one of them writes to it.
 *
 * @see https://arxiv.org/abs/2309.06180 PagedAttention
 */

import type { KeyValues } from "../attention/index.ts";
import { tensor } from "../tensor.ts";
import { capacityExceeded } from "./contiguous.ts";
import type { CopyMode } from "./row-array.ts";
import type { BlockMaker, RowBlock } from "./row-block.ts";
import type { SlotStore, ViewedSlots } from "./slot-store.ts";

const FIRST_PAGES = 4;

/** Pages of one layer, for all lanes and forks. */
export class PagePool {
  readonly pageSize: number;
  readonly #make: BlockMaker;
  readonly #fixed: number | undefined;
  #block: RowBlock;
  /** Holders of each page; 0 is free. */
  readonly #references: number[] = [];
  readonly #free: number[] = [];
  #stores = 0;

  /** @param fixed - pages, where the pool may not grow */
  constructor(make: BlockMaker, pageSize: number, fixed: number | undefined) {
    this.#make = make;
    this.pageSize = pageSize;
    this.#fixed = fixed;
    this.#block = make(0);
  }

  get block(): RowBlock {
    return this.#block;
  }

  get pages(): number {
    return this.#references.length;
  }

  references(page: number): number {
    return this.#references[page];
  }

  /**
   * Makes sure that `count` pages are free.
   *
   * @param exact - do not take more than that
   */
  reserve(count: number, mode: CopyMode, exact: boolean): void {
    if (this.#free.length >= count) return;
    const needed = this.pages - this.#free.length + count;
    if (this.#fixed !== undefined && needed > this.#fixed) {
      throw capacityExceeded(needed * this.pageSize, this.#fixed * this.pageSize);
    }
    const pages = this.#fixed ?? (exact ? needed : Math.max(needed, 2 * this.pages, FIRST_PAGES));
    const block = this.#make(pages * this.pageSize);
    if (this.pages > 0) block.copyRows(this.#block, 0, 0, this.#block.capacity, mode);
    this.#block.release();
    this.#block = block;
    const present = this.pages;
    for (let page = pages - 1; page >= present; page--) this.#free.push(page);
    while (this.#references.length < pages) this.#references.push(0);
  }

  /** A free page, which `reserve` has made sure of. */
  take(): number {
    const page = this.#free.pop() as number;
    this.#references[page] = 1;
    return page;
  }

  share(page: number): void {
    this.#references[page]++;
  }

  giveBack(page: number): void {
    this.#references[page]--;
    if (this.#references[page] === 0) this.#free.push(page);
  }

  enter(): void {
    this.#stores++;
  }

  /** Gives the memory back with the last store. */
  leave(): void {
    this.#stores--;
    if (this.#stores > 0) return;
    this.#block.release();
    this.#block = this.#make(0);
    this.#references.length = 0;
    this.#free.length = 0;
  }
}

/** The pages of one lane. */
export class PagedStore implements SlotStore {
  readonly #pool: PagePool;
  #table: number[] = [];
  #length = 0;

  constructor(pool: PagePool) {
    this.#pool = pool;
    pool.enter();
  }

  get length(): number {
    return this.#length;
  }

  get block(): RowBlock {
    return this.#pool.block;
  }

  get sharedBytes(): number {
    const shared = this.#table.filter((page) => this.#pool.references(page) > 1).length;
    return shared === 0 ? 0 : (shared * this.block.allocatedBytes) / this.#pool.pages;
  }

  rowOf(slot: number): number {
    const { pageSize } = this.#pool;
    return this.#table[Math.floor(slot / pageSize)] * pageSize + (slot % pageSize);
  }

  extend(count: number, mode: CopyMode): number {
    const { pageSize } = this.#pool;
    const needed = this.#length + count;
    const last = Math.floor(this.#length / pageSize); // the page of the first new slot
    const copies = count > 0 && last < this.#table.length && this.#isShared(last);
    const added = Math.max(0, Math.ceil(needed / pageSize) - this.#table.length);
    // What the host fills at once is often all there will be.
    this.#pool.reserve(added + (copies ? 1 : 0), mode, mode === "host" && this.#length === 0);
    if (copies) this.#ownPage(last, mode);
    for (let n = 0; n < added; n++) this.#table.push(this.#pool.take());
    this.#length = needed;
    return 0;
  }

  own(from: number, to: number): void {
    const { pageSize } = this.#pool;
    const [first, end] = [Math.floor(from / pageSize), Math.ceil(to / pageSize)];
    let copies = 0;
    for (let n = first; n < end; n++) if (this.#isShared(n)) copies++;
    this.#pool.reserve(copies, "host", true);
    for (let n = first; n < end; n++) if (this.#isShared(n)) this.#ownPage(n, "host");
  }

  keep(slots: Int32Array): void {
    let first = 0; // the first slot that moves
    while (first < slots.length && slots[first] === first) first++;
    if (first < slots.length) {
      this.own(first, slots.length);
      const { block } = this;
      for (let at = first; at < slots.length; at++) {
        block.copyRows(block, this.rowOf(slots[at]), this.rowOf(at), 1, "host");
      }
    }
    this.crop(slots.length);
  }

  /** Whole pages go back to the pool. */
  crop(length: number): void {
    const pages = Math.ceil(length / this.#pool.pageSize);
    for (const page of this.#table.splice(pages)) this.#pool.giveBack(page);
    this.#length = length;
  }

  fork(): PagedStore {
    const fork = new PagedStore(this.#pool);
    for (const page of this.#table) this.#pool.share(page);
    fork.#table = [...this.#table];
    fork.#length = this.#length;
    return fork;
  }

  dispose(): void {
    this.crop(0);
    this.#pool.leave();
  }

  view(slots: ViewedSlots): KeyValues {
    return pagedView([this], this.#pool, slots);
  }

  /** i32 ids of the lane's pages. */
  get pageIds(): readonly number[] {
    return this.#table;
  }

  get pool(): PagePool {
    return this.#pool;
  }

  #isShared(n: number): boolean {
    return this.#pool.references(this.#table[n]) > 1;
  }

  #ownPage(n: number, mode: CopyMode): void {
    const { pageSize } = this.#pool;
    const [old, page] = [this.#table[n], this.#pool.take()];
    this.block.copyRows(this.block, old * pageSize, page * pageSize, pageSize, mode);
    this.#pool.giveBack(old);
    this.#table[n] = page;
  }
}

/** Lanes of one pool as the batch entries of one view. */
export function pagedView(lanes: readonly PagedStore[], pool: PagePool, slots: ViewedSlots): KeyValues {
  const { keys, values, capacity } = pool.block;
  const columns = Math.max(0, ...lanes.map(({ pageIds }) => pageIds.length));
  const table = new Int32Array(lanes.length * columns).fill(-1);
  lanes.forEach(({ pageIds }, b) => {
    table.set(pageIds, b * columns);
  });
  const outer = [pool.pages, pool.pageSize];
  return {
    layout: "paged",
    keys: keys.slice(0, capacity, outer),
    values: values.slice(0, capacity, outer),
    pageTable: tensor("i32", [lanes.length, columns], table),
    ...slots,
    ...(lanes.length > 1 && { lengths: Int32Array.from(lanes, ({ length }) => length) }),
  };
}
