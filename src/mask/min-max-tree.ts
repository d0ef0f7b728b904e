/**
 * Smallest and largest value over blocks of an array, and over runs of blocks that double in length.
 */

/**
 * A binary tree in heap order: node 1 covers all blocks, node i has the children 2i and 2i + 1, and the leaf of
 * block b is node `leaves + b`. Nodes beyond the last block are empty: their lo is above their hi.
 */
export class MinMaxTree {
  /** Number of leaves, a power of two. */
  readonly leaves: number;
  /** i32 [2 · leaves], smallest value under each node. */
  readonly lo: Int32Array;
  /** i32 [2 · leaves], largest value under each node. */
  readonly hi: Int32Array;

  /**
   * @param values - read now; not kept
   * @param blockSize - values of a block, at least 1
   */
  constructor(values: Int32Array, blockSize: number) {
    this.leaves = leavesFor(Math.ceil(values.length / blockSize));
    const { leaves } = this;
    const lo = new Int32Array(2 * leaves).fill(2 ** 31 - 1);
    const hi = new Int32Array(2 * leaves).fill(-(2 ** 31));
    for (let start = 0, node = leaves; start < values.length; start += blockSize, node++) {
      const end = Math.min(start + blockSize, values.length);
      let least = values[start] as number;
      let most = least;
      for (let i = start + 1; i < end; i++) {
        const value = values[i] as number;
        if (value < least) least = value;
        if (value > most) most = value;
      }
      lo[node] = least;
      hi[node] = most;
    }
    for (let node = leaves - 1; node >= 1; node--) {
      lo[node] = Math.min(lo[2 * node] as number, lo[2 * node + 1] as number);
      hi[node] = Math.max(hi[2 * node] as number, hi[2 * node + 1] as number);
    }
    this.lo = lo;
    this.hi = hi;
  }

  /** Extends `into` by the values of the blocks `first` to `last`, both included and existing. */
  widen(first: number, last: number, into: { lo: number; hi: number }): void {
    let left = first + this.leaves;
    let right = last + this.leaves;
    while (left <= right) {
      if (left % 2 === 1) this.#join(left++, into);
      if (right % 2 === 0) this.#join(right--, into);
      left >>= 1;
      right >>= 1;
    }
  }

  #join(node: number, into: { lo: number; hi: number }): void {
    into.lo = Math.min(into.lo, this.lo[node] as number);
    into.hi = Math.max(into.hi, this.hi[node] as number);
  }
}

/** The smallest power of two that is at least `count` and 1. */
export function leavesFor(count: number): number {
  let leaves = 1;
  while (leaves < count) leaves *= 2;
  return leaves;
}
