/**
 * The one memory of a WASM engine: blocks taken and given back, counted to the byte, within a limit.
 */

import { type DType, type DTypeArrays, viewBytes } from "../../dtype.ts";
import { BudgetError } from "../../errors.ts";

/** Bytes of a WebAssembly page. */
export const PAGE_BYTES = 65536;
/** The most a 32-bit memory can have. */
export const MAX_PAGES = 65536;
/** Blocks start at multiples of this: a cache line, so that no two workers write to one. */
const ALIGNMENT = 64;
/** Address 0 stays unused, so that 0 can mean "none". */
const FIRST_ADDRESS = ALIGNMENT;

/** A run of bytes in the memory. */
export type Block = { readonly address: number; readonly bytes: number };

/** How a memory is made. */
export type MemoryOptions = {
  /** Whether workers share it. */
  readonly shared: boolean;
  /** The most it may hold; 4 GiB when absent, 1 GiB when not shared. */
  readonly maxBytes?: number | undefined;
};

/** First fit over a list of free blocks in address order; neighbours are joined when given back. */
export class WasmMemory {
  readonly memory: WebAssembly.Memory;
  readonly shared: boolean;
  readonly #maximumPages: number;
  readonly #free: Block[] = [];
  readonly #taken = new Map<number, number>();
  /** Growth gives a shared memory a new buffer object; arrays on the old ones still lie in it. */
  readonly #buffers = new WeakSet<ArrayBufferLike>();
  /** End of what was ever handed out. */
  #top = FIRST_ADDRESS;
  #usedBytes = 0;

  constructor({ shared, maxBytes = shared ? MAX_PAGES * PAGE_BYTES : 2 ** 30 }: MemoryOptions) {
    this.shared = shared;
    this.#maximumPages = Math.min(MAX_PAGES, Math.max(1, Math.floor(maxBytes / PAGE_BYTES)));
    // Growth detaches the views on a memory that is not shared, so such a memory has its full size from the start.
    const initial = shared ? 1 : this.#maximumPages;
    this.memory = new WebAssembly.Memory({ initial, maximum: this.#maximumPages, shared });
  }

  /** Bytes of all blocks that are taken. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Bytes the memory has grown to; it never shrinks. */
  get reservedBytes(): number {
    return this.memory.buffer.byteLength;
  }

  /** Pages the memory may grow to, which modules must name when they import it. */
  get maximumPages(): number {
    return this.#maximumPages;
  }

  /**
   * Takes a block of zeros.
   *
   * @throws BudgetError when the memory's limit does not hold it; nothing has been taken then
   */
  take(bytes: number): Block {
    const size = Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
    const fit = this.#free.findIndex((block) => block.bytes >= size);
    let address: number;
    if (fit >= 0) {
      const block = this.#free[fit];
      address = block.address;
      if (block.bytes === size) this.#free.splice(fit, 1);
      else this.#free[fit] = { address: address + size, bytes: block.bytes - size };
      new Uint8Array(this.memory.buffer, address, size).fill(0);
    } else {
      address = this.#extend(size);
    }
    this.#taken.set(address, size);
    this.#usedBytes += size;
    return { address, bytes: size };
  }

  /** Gives a block back. Giving back what is not taken does nothing. */
  release({ address }: Pick<Block, "address">): void {
    const bytes = this.#taken.get(address);
    if (bytes === undefined) return;
    this.#taken.delete(address);
    this.#usedBytes -= bytes;
    let at = this.#free.findIndex((block) => block.address > address);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { address, bytes });
    this.#join(at);
    if (at > 0) this.#join(at - 1);
    const last = this.#free.at(-1);
    if (last && last.address + last.bytes === this.#top) {
      this.#top = last.address;
      this.#free.pop();
    }
  }

  /** A typed array over memory; it stays valid when the memory grows. */
  view<T extends DType>(dtype: T, address: number, length: number): DTypeArrays[T] {
    const { buffer } = this.memory;
    this.#buffers.add(buffer);
    return viewBytes(dtype, buffer, address, length);
  }

  /** The address of an array that lies in this memory; undefined for others. */
  addressOf({ buffer, byteOffset }: ArrayBufferView): number | undefined {
    return this.#buffers.has(buffer) ? byteOffset : undefined;
  }

  #extend(size: number): number {
    const address = this.#top;
    const end = address + size;
    const present = this.reservedBytes / PAGE_BYTES;
    const pages = Math.ceil(end / PAGE_BYTES) - present;
    if (present + pages > this.#maximumPages) throw this.#exceeded(size);
    const usedBefore = Math.min(end, this.reservedBytes); // what grows is zero already
    if (pages > 0) {
      // In steps that grow with the memory, so that many small blocks do not mean many small steps.
      const generous = Math.min(this.#maximumPages - present, Math.max(pages, Math.ceil(present / 4)));
      if (!this.#grow(generous) && !this.#grow(pages)) throw this.#exceeded(size);
    }
    new Uint8Array(this.memory.buffer, address, usedBefore - address).fill(0);
    this.#top = end;
    return address;
  }

  #grow(pages: number): boolean {
    try {
      this.memory.grow(pages);
      return true;
    } catch {
      return false;
    }
  }

  #join(at: number): void {
    const block = this.#free[at];
    const next = this.#free[at + 1];
    if (next === undefined || block.address + block.bytes !== next.address) return;
    this.#free.splice(at, 2, { address: block.address, bytes: block.bytes + next.bytes });
  }

  #exceeded(size: number): BudgetError {
    return new BudgetError(
      "createEngine",
      "the engine's memory cannot hold another block",
      { bytes: size, usedBytes: this.#usedBytes, maxBytes: this.#maximumPages * PAGE_BYTES },
      "Release tensors or caches, raise maxBytes (at most 4 GiB), or choose a smaller cache budget.",
    );
  }
}
