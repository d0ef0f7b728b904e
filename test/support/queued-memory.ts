/**
 * A memory that behaves as an engine's: what is issued takes effect at `flush`, in order, and what was given back
 * turns into something no test mistakes for numbers.
 */

import type { KvMemory } from "../../src/cache/index.ts";
import { HOST_MEMORY } from "../../src/cache/index.ts";
import { type Tensor, zeros } from "../../src/tensor.ts";

export class QueuedMemory implements KvMemory {
  /** Tensors that have not been given back. */
  readonly taken = new Set<ArrayBufferLike>();
  /** Bytes copied by issued operations since the test set this to 0. */
  copiedBytes = 0;
  readonly #queue: (() => void)[] = [];
  #writes = 0;

  get pending(): boolean {
    return this.#writes > 0;
  }

  get takenBytes(): number {
    let bytes = 0;
    for (const buffer of this.taken) bytes += buffer.byteLength;
    return bytes;
  }

  allocate(shape: readonly number[]): Tensor<"f32"> {
    const t = zeros("f32", shape);
    this.taken.add(t.data.buffer);
    return t;
  }

  copy(out: Tensor<"f32">, x: Tensor<"f32">, head?: number): void {
    if (out.data.length !== x.data.length / (head === undefined ? 1 : x.shape[1]))
      throw new Error("copy: sizes differ");
    this.copiedBytes += out.data.byteLength;
    this.#write(() => HOST_MEMORY.copy(out, x, head));
  }

  release(t: Tensor<"f32">): void {
    this.#queue.push(() => {
      if (!this.taken.delete(t.data.buffer)) throw new Error("release: given back twice");
      t.data.fill(Number.NaN);
    });
  }

  quantize: NonNullable<KvMemory["quantize"]> = (out, x, head) => {
    this.#write(() => HOST_MEMORY.quantize?.(out, x, head));
  };

  flush(): void {
    for (const run of this.#queue.splice(0)) run();
    this.#writes = 0;
  }

  #write(run: () => void): void {
    this.#writes++;
    this.#queue.push(run);
  }
}
