/** Room in a backend's memory for what compression computes there, and the way of cached rows into it. */

import type { HeadRows } from "../compress/index.ts";
import type { Backend } from "../engine/index.ts";
import { BudgetError } from "../errors.ts";
import { reshape, rows, sizeOf, type Tensor, tensor } from "../tensor.ts";

/** Multiplications below which loops in JavaScript are as fast. */
const WORTH_ISSUING = 2 ** 18;

/** Tensors borrowed from a backend: those of one computation serve the next, and all are given back together. */
export class Scratch {
  readonly backend: Backend;
  #held: { readonly tensor: Tensor<"f32">; taken: boolean; used: boolean }[] = [];

  constructor(backend: Backend) {
    this.backend = backend;
  }

  /** A tensor of any numbers. */
  take(...shape: number[]): Tensor<"f32"> {
    const size = sizeOf(shape);
    const free = this.#held.find(({ taken, tensor: { data } }) => !taken && data.length === size);
    const chosen = free ?? { tensor: this.backend.allocate([size]), taken: true, used: true };
    if (free === undefined) this.#held.push(chosen);
    chosen.taken = chosen.used = true;
    return reshape(chosen.tensor, shape);
  }

  /** Says that a tensor is not needed any more. */
  giveBack({ data }: Tensor<"f32">): void {
    for (const held of this.#held) if (held.tensor.data === data) held.taken = false;
  }

  /** Ends a computation. What it had no use for is not kept for the next. */
  reset(): void {
    for (const { tensor, used } of this.#held) if (!used) this.backend.release(tensor);
    this.#held = this.#held.filter(({ used }) => used);
    for (const held of this.#held) held.taken = held.used = false;
  }

  /** Gives everything back to the backend. */
  release(): void {
    for (const { tensor } of this.#held.splice(0)) this.backend.release(tensor);
  }
}

/**
 * Runs a computation that takes from a scratch memory.
 *
 * @param products - multiplications that it takes
 * @returns undefined where it is not worth it, or there is no room
 */
export async function withScratch<T>(
  scratch: Scratch,
  products: number,
  compute: () => Promise<T>,
): Promise<T | undefined> {
  if (products < WORTH_ISSUING) return undefined;
  try {
    return await compute();
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error;
    await scratch.backend.flush(); // what was issued before
    return undefined;
  } finally {
    scratch.reset();
  }
}

/**
 * A number of rows not below T, one of four in every doubling: kernels are made for a width, and few widths mean few
 * kernels.
 */
export function paddedRows(T: number): number {
  const step = Math.max(16, 2 ** (Math.floor(Math.log2(Math.max(1, T - 1))) - 2));
  return Math.max(step, Math.ceil(T / step) * step);
}

/**
 * Copies rows [start, end) of consecutive heads into tensors of one head each, which nothing that is issued still reads;
 * where heads lie side by side, the backend does.
 *
 * @param out - one for every head, from `head` on
 * @param at - the first row that is written
 */
export function copyRows(
  backend: Backend,
  out: readonly Tensor<"f32">[],
  at: number,
  { data, dim, starts, stride }: HeadRows,
  { head, start, end }: { readonly head: number; readonly start: number; readonly end: number },
): void {
  const count = end - start;
  if (count === 0) return;
  let all: Tensor<"f32"> | undefined; // one array, so that it is copied into the backend's memory but once
  for (const [n, to] of out.entries()) {
    const target = rows(to, at, at + count);
    const from = starts[head + n] + start * stride;
    if (stride === dim) {
      target.data.set(data.subarray(from, from + count * dim));
      continue;
    }
    const first = from - (from % stride); // where the row of all heads begins
    if (stride % dim === 0 && from % dim === 0 && first + count * stride <= data.length) {
      if (all === undefined || all.data.byteOffset !== data.byteOffset + 4 * first) {
        all = tensor("f32", [count, stride / dim, dim], data.subarray(first, first + count * stride));
      }
      backend.copy(target, all, (from - first) / dim);
      continue;
    }
    for (let t = 0; t < count; t++) {
      target.data.set(data.subarray(from + t * stride, from + t * stride + dim), t * dim);
    }
  }
}
