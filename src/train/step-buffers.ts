/** The activations of one step length, allocated once and used by every step. */

import type { TrainingBackend } from "../engine/index.ts";
import { sizeOf, type Tensor } from "../tensor.ts";

/** Named tensors in a backend's memory. */
export class StepBuffers {
  readonly #backend: TrainingBackend;
  readonly #named = new Map<string, Tensor<"f32">>();

  constructor(backend: TrainingBackend) {
    this.#backend = backend;
  }

  /** Bytes of all tensors. */
  get bytes(): number {
    let bytes = 0;
    for (const t of this.#named.values()) bytes += 4 * sizeOf(t.shape);
    return bytes;
  }

  /** The tensor of that name and shape; zeros when it is asked for the first time. */
  take(name: string, shape: readonly number[]): Tensor<"f32"> {
    const key = `${name}:${shape.join()}`;
    let found = this.#named.get(key);
    if (found === undefined) {
      found = this.#backend.allocate(shape);
      this.#named.set(key, found);
    }
    return found;
  }

  /** Gives all memory back. */
  release(): void {
    for (const t of this.#named.values()) this.#backend.release(t);
    this.#named.clear();
  }
}
