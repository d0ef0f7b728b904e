/**
 * The queries of the last tokens of every layer, kept while a policy wants to look from them.
 *
 * A step issues one copy of its last rows per layer, into the backend's memory, before those rows are overwritten.
 * Without a policy that needs queries there is no window, and nothing is copied.
 */

import type { Backend } from "../engine/index.ts";
import { reshape, rows, type Tensor } from "../tensor.ts";

/** A run of rows in a buffer that forks may share until one of them writes. */
type Shared = { readonly tensors: readonly Tensor<"f32">[]; readonly capacity: number; holders: number };

/** Rows per layer, oldest first, with the position each was rotated at. */
export class QueryWindow {
  /** [L] heads and their width. */
  readonly #shapes: readonly { readonly heads: number; readonly headDim: number }[];
  readonly #backend: Backend;
  #buffer: Shared | undefined;
  #start = 0;
  /** Where queries are now, and where they were when they were rotated. */
  #positions: Int32Array = new Int32Array(0);
  #rotatedAt: Int32Array = new Int32Array(0);
  /** Rows of the step under way: where they go, and how many of its first rows are left out. */
  #target = { row: 0, skip: 0, count: 0 };

  constructor(backend: Backend, shapes: readonly { readonly heads: number; readonly headDim: number }[]) {
    this.#backend = backend;
    this.#shapes = shapes;
  }

  /** Queries held. */
  get length(): number {
    return this.#positions.length;
  }

  /** i32 [length] where the queries are. */
  get positions(): Int32Array {
    return this.#positions;
  }

  /** i32 [length] where the rows are rotated at; the same, unless keys have moved since. */
  get rotatedAt(): Int32Array {
    return this.#rotatedAt;
  }

  /** Bytes taken. */
  get allocatedBytes(): number {
    return (this.#buffer?.tensors ?? []).reduce((sum, { data }) => sum + data.byteLength, 0);
  }

  /** f32 [length, H, D] of a layer; shares memory. Only between steps. */
  layer(index: number): Tensor<"f32"> {
    const { heads, headDim } = this.#shapes[index];
    const held = this.#buffer?.tensors[index];
    if (held === undefined) throw new Error("no step has been captured");
    const all = reshape(held, [held.shape[0], heads, headDim]);
    return rows(all, this.#start, this.#start + this.length);
  }

  /**
   * Makes room for a step of T tokens.
   *
   * @param limit - rows to hold after it at most
   */
  begin(T: number, limit: number): void {
    const count = Math.min(T, limit);
    const kept = Math.min(this.length, limit - count);
    const end = this.#start + this.length;
    const wanted = kept === 0 ? count : 2 * limit;
    const fits = this.#buffer !== undefined && this.#buffer.holders === 1 && this.#buffer.capacity >= wanted;
    const tooLarge = this.#buffer !== undefined && this.#buffer.capacity > 4 * Math.max(limit, count);
    if (!fits || tooLarge) this.#move(Math.max(wanted, kept + count), end - kept, kept);
    else if (end + count > (this.#buffer as Shared).capacity) this.#shift(end - kept, kept);
    else this.#start = end - kept;
    this.#positions = this.#positions.slice(this.length - kept);
    this.#rotatedAt = this.#rotatedAt.slice(this.#rotatedAt.length - kept);
    this.#target = { row: this.#start + kept, skip: T - count, count };
  }

  /** Issues the copy of a step's queries f32 [T, H, D], as they are rotated. */
  capture(layer: number, queries: Tensor<"f32">): void {
    const { row, skip, count } = this.#target;
    const { tensors } = this.#buffer as Shared;
    this.#backend.copy(rows(tensors[layer], row, row + count), rows(queries, skip, skip + count));
  }

  /** Ends a step of tokens at these positions. */
  end(positions: Int32Array): void {
    const added = positions.subarray(this.#target.skip);
    this.#positions = concatenate(this.#positions, added);
    this.#rotatedAt = concatenate(this.#rotatedAt, added);
  }

  /** Says that the tokens have moved together, by this much. */
  shift(by: number): void {
    this.#positions = this.#positions.map((position) => position + by);
  }

  /** Puts saved rows in place. */
  restore(positions: Int32Array, rotatedAt: Int32Array, layers: readonly Float32Array[]): void {
    this.clear();
    if (positions.length === 0) return;
    this.begin(positions.length, positions.length);
    for (const [layer, data] of layers.entries()) (this.#buffer as Shared).tensors[layer].data.set(data);
    this.#positions = positions;
    this.#rotatedAt = rotatedAt;
  }

  clear(): void {
    this.#release();
    this.#buffer = undefined;
    this.#start = 0;
    this.#positions = new Int32Array(0);
    this.#rotatedAt = new Int32Array(0);
  }

  /** A window of the same queries, which shares their memory until one of the two writes. */
  fork(): QueryWindow {
    const fork = new QueryWindow(this.#backend, this.#shapes);
    if (this.#buffer) this.#buffer.holders++;
    fork.#buffer = this.#buffer;
    fork.#start = this.#start;
    fork.#positions = this.#positions;
    fork.#rotatedAt = this.#rotatedAt;
    return fork;
  }

  /** Into a new buffer. */
  #move(capacity: number, from: number, count: number): void {
    const tensors = this.#shapes.map(({ heads, headDim }) => this.#backend.allocate([capacity, heads * headDim]));
    const old = this.#buffer;
    for (const [layer, to] of tensors.entries()) if (old) this.#copyRows(to, 0, old.tensors[layer], from, count);
    this.#release();
    this.#buffer = { tensors, capacity, holders: 1 };
    this.#start = 0;
  }

  /** To the front of the buffer, which is long enough that the two runs do not meet. */
  #shift(from: number, count: number): void {
    for (const tensor of (this.#buffer as Shared).tensors) this.#copyRows(tensor, 0, tensor, from, count);
    this.#start = 0;
  }

  #copyRows(to: Tensor<"f32">, row: number, from: Tensor<"f32">, first: number, count: number): void {
    if (count > 0) this.#backend.copy(rows(to, row, row + count), rows(from, first, first + count));
  }

  #release(): void {
    if (this.#buffer === undefined) return;
    this.#buffer.holders--;
    if (this.#buffer.holders === 0) for (const tensor of this.#buffer.tensors) this.#backend.release(tensor);
  }
}

function concatenate(a: Int32Array, b: Int32Array): Int32Array {
  const joined = new Int32Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
