/**
 * What the backward kernels of attention are specialised for, their work items, and a worker's scratch memory.
 */

import type { ScoreCode } from "./attention-score.ts";
import { MAX_BLOCKS, TILE_KEYS } from "./attention-scratch.ts";
import type { FloatingMode } from "./vector-math.ts";

/** Most rows of a work item. */
export const TILE_ROWS: number = 8 * MAX_BLOCKS;

/** Bytes from one key's scores to those of the next: a number for every row. */
export const SCORE_PITCH: number = TILE_ROWS * 4;

/** What the generated code is specialised for. */
export type AttentionBackwardSpec = FloatingMode & {
  /** H. */
  readonly heads: number;
  /** G, query heads per key-value head. */
  readonly group: number;
  /** D. */
  readonly keyDim: number;
  /** Dv. */
  readonly valueDim: number;
  /** Bytes from one stored key, or value, to the next of the same head; f32. */
  readonly keyStride: number;
  readonly valueStride: number;
  /** Bytes from the visibility bits of one block of eight rows to those of the next: the keys of a tile of the plan. */
  readonly bitsStride: number;
  /** The first step: a soft cap, and its code. */
  readonly softcap?: { readonly cap: number; readonly code: ScoreCode };
  /** What becomes of a score after the soft cap, one step after the other; their derivatives must be 1. */
  readonly score?: readonly ScoreCode[];
  /** |Δposition|, where gradients of ALiBi slopes are wanted. */
  readonly distance?: ScoreCode;
  /** The row column that has the address of a row's bias, where its gradient is wanted. */
  readonly bias?: { readonly column: number; readonly perKey: boolean };
  /** Whether probabilities are dropped; the first row column is the rows' hash then. */
  readonly dropout?: boolean;
  /** 32-bit numbers that each row, and each key, has for `score`, `distance` and `dropout`. */
  readonly rowColumns: number;
  readonly keyColumns: number;
};

/**
 * One work item, i32 words: the rows of a tile and all keys they look at. Packed row r is query r div G of the batch
 * entry, head r mod G of the group.
 */
export const BACKWARD_ITEM = {
  /** First packed row. */
  rowStart: 0,
  /** Rows, at most `TILE_ROWS`. */
  rowCount: 1,
  /** First query of the batch entry, among all queries. */
  queryBase: 2,
  /** First query head of the group. */
  headBase: 3,
  /** Where stored row 0 of the head is, in bytes from the first key and the first value. */
  keys: 4,
  values: 5,
  /** Address of the first entry of the tile list (see `ENTRY_BYTES`), and of what follows the last. */
  entries: 6,
  entriesEnd: 7,
  /** Addresses of the sums of key 0 of all batch entries, f32 [B·Tk][pitch]; only those of the item's entry exist. */
  dk: 8,
  dv: 9,
  /** The bytes to set to 0 first: all sums of a part at its first item, else none. */
  clear: 10,
  clearEnd: 11,
} as const;

/** Words of a work item. */
export const BACKWARD_ITEM_WORDS = 12;

/** Bytes of a row of keys or of their sums: whole pairs of vectors. */
export function backwardPitch(width: number): number {
  return Math.ceil(width / 8) * 32;
}

/** Offsets in a worker's scratch memory, in bytes. Rows are those of the item. */
export type BackwardScratch = {
  /** f32 [TILE_KEYS][TILE_ROWS]: scores, then probabilities. */
  readonly scores: number;
  /** f32 [TILE_KEYS][TILE_ROWS]: gradients of probabilities, then of scores. */
  readonly gradients: number;
  /** f32 [TILE_KEYS][D] and [TILE_KEYS][Dv], with pitch. */
  readonly keys: number;
  readonly values: number;
  /** f32 [TILE_ROWS][D], scaled queries, and [TILE_ROWS][Dv], gradients of outputs, with pitch. */
  readonly queryRows: number;
  readonly outRows: number;
  /** The same as blocks of eight rows: f32 [D][8] and [Dv][8]. */
  readonly queries: number;
  readonly outs: number;
  /** f32 [TILE_ROWS][D], with pitch. */
  readonly dq: number;
  /** f32 [TILE_ROWS] each; an lse of +Infinity stands for a row without keys. */
  readonly lse: number;
  readonly delta: number;
  readonly slopes: number;
  /** 32-bit numbers [rowColumns][TILE_ROWS]. */
  readonly columns: number;
  /** i32 [MAX_BLOCKS]: the keys that a block of rows looks at, from a multiple of four to before the end. */
  readonly firstKeys: number;
  readonly endKeys: number;
  readonly keyPitch: number;
  readonly valuePitch: number;
  /** Bytes of a block of `queries` and of `outs`. */
  readonly queryBlock: number;
  readonly outBlock: number;
  readonly bytes: number;
};

/** Lays out the scratch memory. */
export function backwardScratch({ keyDim, valueDim, rowColumns }: AttentionBackwardSpec): BackwardScratch {
  const [keyPitch, valuePitch] = [backwardPitch(keyDim), backwardPitch(valueDim)];
  const [queryBlock, outBlock] = [8 * keyPitch, 8 * valuePitch];
  let bytes = 0;
  const take = (size: number): number => {
    bytes += size;
    return bytes - size;
  };
  return {
    scores: take(TILE_KEYS * SCORE_PITCH),
    gradients: take(TILE_KEYS * SCORE_PITCH),
    keys: take(TILE_KEYS * keyPitch),
    values: take(TILE_KEYS * valuePitch),
    queryRows: take(TILE_ROWS * keyPitch),
    outRows: take(TILE_ROWS * valuePitch),
    queries: take(MAX_BLOCKS * queryBlock),
    outs: take(MAX_BLOCKS * outBlock),
    dq: take(TILE_ROWS * keyPitch),
    lse: take(SCORE_PITCH),
    delta: take(SCORE_PITCH),
    slopes: take(SCORE_PITCH),
    columns: take(rowColumns * SCORE_PITCH),
    firstKeys: take(MAX_BLOCKS * 4),
    endKeys: take(MAX_BLOCKS * 4),
    keyPitch,
    valuePitch,
    queryBlock,
    outBlock,
    bytes,
  };
}
