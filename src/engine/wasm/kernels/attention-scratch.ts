/**
 * What attention kernels are specialised for, and how a worker's scratch memory is laid out.
 */

import type { KvType } from "./attention-elements.ts";
import type { ScoreCode } from "./attention-score.ts";
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
   * Whether key tiles are copied to scratch first, one row after the other, as f32. It costs a little, and pays when
   * several blocks use the tile: heads that lie far apart in memory collide in the cache. Other types than f32 are
   * always copied.
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
  readonly keys: KvStorage;
  readonly values: KvStorage;
  /** Bytes from the visibility bits of one block of rows to those of the next: the keys of a tile of the plan. */
  readonly bitsStride: number;
  /** What becomes of a score after scaling, one step after the other; absent: nothing. */
  readonly score?: readonly ScoreCode[];
  /** Whether probabilities are dropped. */
  readonly dropout?: boolean;
  /** 32-bit numbers that each row, and each key, has for `score` and `dropout`. */
  readonly rowColumns: number;
  readonly keyColumns: number;
};

/** How keys or values are stored. */
export type KvStorage = {
  readonly type: KvType;
  /** Bytes from one row to the next of the same head. */
  readonly stride: number;
  /** Bytes from the scale of one row to that of the next; 0 where there are no scales. */
  readonly scaleStride: number;
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
  /** 32-bit numbers [rowColumns][rows]. */
  readonly columns: number;
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

/** Whether keys are copied to scratch before they are used. */
export function packsKeys({ packed, keys }: AttentionSpec): boolean {
  return packed || keys.type !== "f32";
}

/** Whether values are copied to scratch before they are used. */
export function packsValues({ packed, values }: AttentionSpec): boolean {
  return packed || values.type !== "f32";
}

/** Lays out a block. */
export function blockLayout({ rows, keyDim, valueDim, rowColumns }: AttentionSpec): BlockLayout {
  const row = rows * 4;
  const outputPitch = Math.ceil(valueDim / 4) * 16;
  const columns = keyDim * row;
  const max = columns + rowColumns * row;
  const output = max + 3 * row;
  const stateBytes = 3 * row + rows * outputPitch;
  return {
    queries: 0,
    columns,
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
  const values = keys + (packsKeys(spec) ? TILE_KEYS * spec.keyDim * 4 : 0);
  const blocks = values + (packsValues(spec) ? TILE_KEYS * spec.valueDim * 4 : 0);
  return { scores: 0, keys, values, blocks, blockBytes, bytes: blocks + MAX_BLOCKS * blockBytes };
}
