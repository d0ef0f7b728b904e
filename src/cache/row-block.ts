/**
 * Keys and values of the same rows, which several caches may share.
 */

import { CapabilityError } from "../errors.ts";
import type { KvMemory } from "./cache.ts";
import type { ResolvedLayer } from "./layer-spec.ts";
import { type CopyMode, RowArray } from "./row-array.ts";

/** Makes an empty block of so many rows. */
export type BlockMaker = (capacity: number) => RowBlock;

/** Arrays of one capacity: keys, values, and keys as they came where those are kept. */
export class RowBlock {
  readonly keys: RowArray;
  readonly values: RowArray;
  readonly pristine: RowArray | undefined;
  readonly capacity: number;
  /** Caches that hold this block. Whoever writes must be the only one. */
  references = 1;

  constructor(memory: KvMemory, layer: ResolvedLayer, heads: number, capacity: number) {
    const { elements, keyDim, valueDim, pristineKeys } = layer;
    const dims = [keyDim, valueDim, ...(pristineKeys ? [keyDim] : [])];
    const made: RowArray[] = [];
    try {
      for (const dim of dims) made.push(new RowArray(memory, elements, [capacity, heads, dim]));
    } catch (error) {
      for (const array of made) array.release();
      throw error;
    }
    [this.keys, this.values, this.pristine] = made;
    this.capacity = capacity;
  }

  get arrays(): readonly RowArray[] {
    return this.pristine ? [this.keys, this.values, this.pristine] : [this.keys, this.values];
  }

  get allocatedBytes(): number {
    return this.arrays.reduce((sum, array) => sum + array.allocatedBytes, 0);
  }

  /** Lets go of the block; the last one to do so gives its memory back. */
  release(): void {
    this.references--;
    if (this.references === 0) for (const array of this.arrays) array.release();
  }

  copyRows(source: RowBlock, from: number, to: number, count: number, mode: CopyMode): void {
    this.arrays.forEach((array, n) => {
      array.copyRows(source.arrays[n], from, to, count, mode);
    });
  }

  /**
   * Copies one row, or one head of it, at once.
   *
   * @param channels - i32 [count][D], the source's channel that each key channel is, or −1; absent: keys are alike
   */
  copyUnits(source: RowBlock, from: number, to: number, count: number, channels?: readonly Int32Array[]): void {
    this.arrays.forEach((array, n) => {
      const other = source.arrays[n];
      if (channels === undefined || array === this.values) array.copyUnits(other, from, to, count);
      else
        channels.forEach((list, unit) => {
          array.copyChannels(other, from + unit, to + unit, list);
        });
    });
  }
}

/** @throws CapabilityError when the memory cannot hold the layer's elements */
export function checkMemory(where: string, memory: KvMemory, { elements }: ResolvedLayer): void {
  if (elements === "f32" || memory.quantize) return;
  throw new CapabilityError(
    where,
    "quantised rows need a memory that quantises",
    { elements },
    "Use f32 elements, or host memory.",
  );
}
