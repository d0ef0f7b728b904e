/**
 * What attention kernels are specialised for, and how a worker's scratch memory is laid out.
 */

import type { FloatingMode } from "./vector-math.ts";

/** Most keys of a tile. */
export const TILE_KEYS = 64;

/** Most blocks of rows of a work item. */
export const MAX_BLOCKS = 8;

/** What the generated code is specialised for. */
export type AttentionSpec = FloatingMode & {
  /** Rows of a block, side by side in vectors: 8, or 4 where there are no more. */
  readonly rows: 4 | 8;
  /**
   * Whether key tiles are copied to scratch first, one row after the other. It costs a little, and pays when several
   * blocks use the tile: heads that lie far apart in memory collide in the cache.
   */
  readonly packed: boolean;
  /** H. */
  readonly heads: number;
  /** G, query heads per key-value head. */
  readonly group: number;
  /** D, a multiple of 4 where rows is 4. */
  readonly keyDim: number;
  /** Dv. */
  readonly valueDim: number;
  /** Bytes from one key to the next of the same head. */
  readonly keyStride: number;
  /** Bytes from one value to the next of the same head. */
  readonly valueStride: number;
};

/** Offsets in a worker's scratch memory, in bytes. */
export type AttentionScratch = {
  /** f32 [TILE_KEYS][rows], of the present block. */
  readonly scores: number;
  /** f32 [TILE_KEYS][D] and [TILE_KEYS][Dv], where tiles are packed. */
  readonly keys: number;
  readonly values: number;
  /** The first block. */
  readonly blocks: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
  readonly bytes: number;
};

/** Offsets in a block, in bytes. What begins at `max` is the block's state. */
export type BlockLayout = {
  /** f32, scaled: [D][8] for eight rows, [4][D] for four. */
  readonly queries: number;
  /** f32 [rows], largest score. */
  readonly max: number;
  /** f32 [rows], Σ exp(score − max). */
  readonly sum: number;
  /** f32 [rows], what a new maximum multiplies sums and outputs by. */
  readonly factor: number;
  /** f32 [rows][pitch], not yet divided by the sums. */
  readonly output: number;
  /** Bytes from one row of the output to the next: whole vectors. */
  readonly outputPitch: number;
  readonly stateBytes: number;
  readonly bytes: number;
};

/** Lays out a block. */
export function blockLayout({ rows, keyDim, valueDim }: AttentionSpec): BlockLayout {
  const row = rows * 4;
  const outputPitch = Math.ceil(valueDim / 4) * 16;
  const max = keyDim * row;
  const output = max + 3 * row;
  const stateBytes = 3 * row + rows * outputPitch;
  return {
    queries: 0,
    max,
    sum: max + row,
    factor: max + 2 * row,
    output,
    outputPitch,
    stateBytes,
    bytes: max + stateBytes,
  };
}

/** Lays out the scratch memory. */
export function attentionScratch(spec: AttentionSpec): AttentionScratch {
  const blockBytes = blockLayout(spec).bytes;
  const keys = TILE_KEYS * spec.rows * 4;
  const values = keys + (spec.packed ? TILE_KEYS * spec.keyDim * 4 : 0);
  const blocks = values + (spec.packed ? TILE_KEYS * spec.valueDim * 4 : 0);
  return { scores: 0, keys, values, blocks, blockBytes, bytes: blocks + MAX_BLOCKS * blockBytes };
}
