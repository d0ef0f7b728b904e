/**
 * Memory that one call takes and gives back.
 */

import type { CallMemory } from "./attention-lowering.ts";
import type { Block } from "./memory.ts";
import type { WasmRuntime } from "./runtime.ts";

/** The blocks of one call. */
export class CallBlocks implements CallMemory {
  readonly #runtime: WasmRuntime;
  readonly #blocks: Block[] = [];

  constructor(runtime: WasmRuntime) {
    this.#runtime = runtime;
  }

  /** Takes bytes that are zero. */
  take(bytes: number): number {
    const block = this.#runtime.memory.take(bytes);
    this.#blocks.push(block);
    return block.address;
  }

  /** Copies numbers into the engine's memory. */
  place(values: ArrayBufferView): number {
    const address = this.take(values.byteLength);
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    this.#runtime.memory.view("u8", address, values.byteLength).set(bytes);
    return address;
  }

  /** The address of numbers, copied when they lie elsewhere. */
  locate(values: ArrayBufferView): number {
    return this.#runtime.memory.addressOf(values) ?? this.place(values);
  }

  release(): void {
    for (const block of this.#blocks) this.#runtime.memory.release(block);
  }
}
