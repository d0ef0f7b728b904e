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
   * @param room - rows to take memory for, which is then kept; unless told, as many as `limit` needs
   */
  begin(T: number, limit: number, room?: number): void {
    const count = Math.min(T, limit);
    const kept = Math.min(this.length, limit - count);
    if (kept === 0) this.#forgetRows(); // also where memory for new ones is not to be had
    const end = this.#start + this.length;
    const wanted = room ?? (kept === 0 ? count : 2 * limit);
    const fits = this.#buffer !== undefined && this.#buffer.holders === 1 && this.#buffer.capacity >= wanted;
    const most = room ?? 4 * Math.max(limit, count);
    const tooLarge = this.#buffer !== undefined && this.#buffer.capacity > most;
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

  /** Forgets the queries at a position or behind it, which are the last ones. */
  dropAfter(position: number): void {
    const kept = this.#positions.filter((at) => at < position).length;
    this.#positions = this.#positions.subarray(0, kept);
    this.#rotatedAt = this.#rotatedAt.subarray(0, kept);
  }

  /** Says that the tokens have moved together, by this much. */
  shift(by: number): void {
    this.#positions = this.#positions.map((position) => position + by);
  }

  /**
   * Puts saved rows in place.
   *
   * @param room - rows to take memory for; the last rows are kept that it holds. As many as there are unless told.
   */
  restore(positions: Int32Array, rotatedAt: Int32Array, layers: readonly Float32Array[], room?: number): void {
    this.clear();
    const skip = Math.max(0, positions.length - (room ?? Infinity));
    if (positions.length === skip) return;
    this.begin(positions.length - skip, positions.length - skip, room);
    for (const [layer, data] of layers.entries()) {
      const width = data.length / positions.length;
      (this.#buffer as Shared).tensors[layer].data.set(data.subarray(skip * width));
    }
    this.#positions = positions.slice(skip);
    this.#rotatedAt = rotatedAt.slice(skip);
  }

  clear(): void {
    this.#release();
    this.#forgetRows();
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

  #forgetRows(): void {
    this.#start = 0;
    this.#positions = new Int32Array(0);
    this.#rotatedAt = new Int32Array(0);
  }

  /** Into a new buffer. */
  #move(capacity: number, from: number, count: number): void {
    if (count === 0) this.#release();
    const old = this.#buffer;
    const tensors: Tensor<"f32">[] = [];
    try {
      for (const { heads, headDim } of this.#shapes) tensors.push(this.#backend.allocate([capacity, heads * headDim]));
      for (const [layer, to] of tensors.entries()) if (old) this.#copyRows(to, 0, old.tensors[layer], from, count);
    } catch (error) {
      for (const tensor of tensors) this.#backend.release(tensor);
      throw error;
    }
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
    const buffer = this.#buffer;
    this.#buffer = undefined;
    if (buffer === undefined) return;
    buffer.holders--;
    if (buffer.holders === 0) for (const tensor of buffer.tensors) this.#backend.release(tensor);
  }
}

function concatenate(a: Int32Array, b: Int32Array): Int32Array {
  const joined = new Int32Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
