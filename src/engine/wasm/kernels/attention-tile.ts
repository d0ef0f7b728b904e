/**
 * Attention of blocks of rows over a list of key tiles, by online softmax.
 *
 * The rows of a block lie side by side in vectors: scores and probabilities are [key][rows], so that maximum,
 * exponential and sum are vertical. A key tile serves all blocks of the item before the next one is fetched.
 *
 *     for every key tile, for every block of rows:
 *         s[key][rows]  = Σ_d k[key][d] · q[d][rows]        eight registers at a time
 *         m'            = max(m, max_key s)
 *         p[key][rows]  = exp(s − m'),  l = l·exp(m − m') + Σ_key p
 *         o[rows][Dv]   = o·exp(m − m') + Σ_key p·v[key]    four rows by eight columns at a time
 */

import { f32x4, i32, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { emitKept, KEY_FACTOR } from "./attention-dropout.ts";
import { type BlockKeys, emitPack, emitTouch, emitTrim, type FetchWork } from "./attention-fetch.ts";
import { ScoreEmitter } from "./attention-score.ts";
import {
  type AttentionSpec,
  attentionScratch,
  type BlockLayout,
  blockLayout,
  packsKeys,
  packsValues,
} from "./attention-scratch.ts";
import { emitValues } from "./attention-values.ts";
import { emitExp, fma } from "./vector-math.ts";

/** Stands for the maximum of no score: the lowest f32, finite so that no difference is NaN. */
export const LOWEST_SCORE = -3.4028234663852886e38;

/**
 * One entry of a tile list: i32 {stored row of the first key, number of keys, address of visibility bits or 0, number
 * of the first key among the keys of all batch entries}.
 */
export const ENTRY_BYTES = 16;

/** Offsets in the block of options, in bytes: addresses, and what has no place among the arguments. */
export const OPTIONS = {
  /** 32-bit numbers [rows][rowColumns]. */
  rowTable: 0,
  /** 32-bit numbers [B·Tk][keyColumns]. */
  keyTable: 4,
  /** f32, see `KvStorage`. */
  keyScales: 8,
  valueScales: 12,
  /** u32: a probability is kept when its bits are at least this. */
  dropThreshold: 16,
  /** f32, the factor of kept probabilities. */
  dropKept: 20,
} as const;

/** Bytes of the block of options. */
export const OPTIONS_BYTES = 24;

/** Where an item's data is: addresses. */
export type TilePointers = {
  /** Entry to start with; advanced to `entriesEnd`. */
  readonly entries: Local<"i32">;
  readonly entriesEnd: Local<"i32">;
  /** Stored row 0 of the head. */
  readonly keys: Local<"i32">;
  readonly values: Local<"i32">;
  /** Scales of stored row 0 of the head. */
  readonly keyScales: Local<"i32">;
  readonly valueScales: Local<"i32">;
  readonly options: Local<"i32">;
  readonly scratch: Local<"i32">;
  /** Rows of the item. */
  readonly rowCount: Local<"i32">;
};

/** Brings the states of all blocks up to date with all key tiles of a list. */
export function emitAttendTiles(f: FunctionBuilder, spec: AttentionSpec, pointers: TilePointers): void {
  const { entries, entriesEnd, options, scratch, rowCount } = pointers;
  const scratchAt = attentionScratch(spec);
  const tileKeys = f.local("tileKeys", "i32");
  const tileValues = f.local("tileValues", "i32");
  const tileCount = f.local("tileCount", "i32");
  const tileBits = f.local("tileBits", "i32");
  const blocksEnd = f.local("blocksEnd", "i32");
  const tile: Tile = {
    f,
    spec,
    options,
    keyStride: packsKeys(spec) ? spec.keyDim * 4 : spec.keys.stride,
    valueStride: packsValues(spec) ? spec.valueDim * 4 : spec.values.stride,
    layout: blockLayout(spec),
    block: f.local("block", "i32"),
    keys: f.local("blockKeys", "i32"),
    values: f.local("blockValues", "i32"),
    slot: f.local("blockSlot", "i32"),
    count: f.local("blockCount", "i32"),
    bits: f.local("bits", "i32"),
    scores: f.local("scores", "i32", i32.add(scratch, scratchAt.scores)),
    scoresEnd: f.local("scoresEnd", "i32"),
    acc: f.vectors("acc", 8),
    max: f.vectors("max", spec.rows / 4),
    a: f.local("a", "v128"),
    b: f.local("b", "v128"),
    x: f.local("x", "v128"),
    key: f.local("key", "i32"),
    at: f.local("at", "i32"),
    end: f.local("end", "i32"),
    pointer: f.local("pointer", "i32"),
    scale: f.local("rowScale", "f32"),
  };
  const blocks = i32.divU(i32.add(rowCount, spec.rows - 1), spec.rows);
  f.set(blocksEnd, i32.add(scratch, i32.add(scratchAt.blocks, i32.mul(blocks, scratchAt.blockBytes))));
  f.while(
    () => i32.ltU(entries, entriesEnd),
    () => {
      f.set(tileCount, i32.load(entries, 4));
      f.set(tileBits, i32.load(entries, 8));
      emitFetch(tile, pointers, "keys", tileKeys, tileCount);
      emitFetch(tile, pointers, "values", tileValues, tileCount);
      f.set(tile.block, i32.add(scratch, scratchAt.blocks));
      f.doWhile(
        () => {
          f.set(tile.keys, tileKeys);
          f.set(tile.values, tileValues);
          f.set(tile.slot, i32.load(entries, 12));
          f.set(tile.count, tileCount);
          f.set(tile.bits, tileBits);
          f.if(tileBits, () => {
            emitTrim(f, tile, tile);
            f.set(tileBits, i32.add(tileBits, spec.bitsStride));
          });
          f.if(i32.gtS(tile.count, 0), () => {
            f.set(tile.scoresEnd, i32.add(tile.scores, i32.mul(tile.count, spec.rows * 4)));
            emitScores(tile);
            if (spec.score) emitModifyScores(tile);
            emitSoftmax(tile);
            if (spec.dropout) emitDropout(tile);
            emitValues(tile);
          });
          f.set(tile.block, i32.add(tile.block, scratchAt.blockBytes));
        },
        () => i32.ltU(tile.block, blocksEnd),
      );
      f.set(entries, i32.add(entries, ENTRY_BYTES));
    },
  );
}

/** Sets `tileRows` to where the keys or values of the present entry are to be read. */
function emitFetch(
  tile: Tile,
  pointers: TilePointers,
  side: "keys" | "values",
  tileRows: Local<"i32">,
  count: Local<"i32">,
): void {
  const { f, spec } = tile;
  const { entries, scratch } = pointers;
  const storage = spec[side];
  const [packs, width] = side === "keys" ? [packsKeys(spec), spec.keyDim] : [packsValues(spec), spec.valueDim];
  f.set(tileRows, i32.add(pointers[side], i32.mul(i32.load(entries), storage.stride)));
  if (packs) {
    const [from, scales, into] = [tile.keys, tile.bits, tileRows]; // free before the first block
    f.set(from, tileRows);
    if (storage.scaleStride > 0) {
      const headScales = side === "keys" ? pointers.keyScales : pointers.valueScales;
      f.set(scales, i32.add(headScales, i32.mul(i32.load(entries), storage.scaleStride)));
    }
    f.set(into, i32.add(scratch, attentionScratch(spec)[side]));
    emitPack(f, tile, storage, { count, from, scales, into, width });
  } else if (spec.rows === 4) {
    emitTouch(f, tile, { count, from: tileRows, stride: storage.stride, width });
  }
}

/** Locals of the function that works on a tile, and what is known of it. */
export type Tile = BlockKeys &
  FetchWork & {
    readonly f: FunctionBuilder;
    readonly spec: AttentionSpec;
    readonly layout: BlockLayout;
    readonly options: Local<"i32">;
    /** The present block. */
    readonly block: Local<"i32">;
    readonly scores: Local<"i32">;
    readonly scoresEnd: Local<"i32">;
    readonly acc: readonly Local<"v128">[];
    readonly max: readonly Local<"v128">[];
  };

/** The bit of each row, by lane. */
export const ROW_BITS: readonly V128[] = [v128.words(1, 2, 4, 8), v128.words(16, 32, 64, 128)];

/** scores = keys · queries, −Infinity where hidden; max = their maximum. */
function emitScores(tile: Tile): void {
  const { f, count, max, key } = tile;
  const wide = tile.spec.rows === 8 ? 4 : 2;
  const block = tile.spec.rows === 8 ? emitDotsAcrossRows : emitDotsAlongDims;
  for (const half of max) f.set(half, f32x4.const(LOWEST_SCORE));
  f.set(key, 0);
  for (const keys of [wide, 1]) {
    f.while(
      () => i32.leS(i32.add(key, keys), count),
      () => {
        emitStoreScores(tile, block(tile, keys));
        f.set(key, i32.add(key, keys));
      },
    );
  }
}

/**
 * Eight rows: each element of a key is splat and meets eight rows of packed queries [D][8].
 *
 * @returns the score vectors, two a key
 */
function emitDotsAcrossRows(tile: Tile, wide: number) {
  const { f, spec, keyStride, layout, block, keys, acc, a, b, x, key, at, end, pointer } = tile;
  const scores = acc.slice(0, 2 * wide);
  f.set(pointer, i32.add(keys, i32.mul(key, keyStride)));
  f.set(at, i32.add(block, layout.queries));
  f.set(end, i32.add(at, spec.keyDim * 32));
  for (const score of scores) f.set(score, f32x4.const(0));
  f.doWhile(
    () => {
      f.set(a, v128.load(at));
      f.set(b, v128.load(at, 16));
      for (let n = 0; n < wide; n++) {
        f.set(x, v128.load32Splat(pointer, n * keyStride));
        f.set(acc[2 * n], fma(spec, x, a, acc[2 * n]));
        f.set(acc[2 * n + 1], fma(spec, x, b, acc[2 * n + 1]));
      }
      f.set(pointer, i32.add(pointer, 4));
      f.set(at, i32.add(at, 32));
    },
    () => i32.ltU(at, end),
  );
  return scores;
}

/**
 * Four rows: four elements of a key meet four elements of each query [4][D], and the four partial sums of every dot
 * product are added at the end. (Splatting keys as for eight rows would take a load for every multiplication.)
 *
 * @returns the score vectors, one a key
 */
function emitDotsAlongDims(tile: Tile, wide: number) {
  const { f, spec, keyStride, layout, block, keys, acc, a, b, x, key, at, end, pointer } = tile;
  const rowBytes = spec.keyDim * 4;
  const keyVectors = [a, b].slice(0, wide);
  f.set(pointer, i32.add(keys, i32.mul(key, keyStride)));
  f.set(at, i32.add(block, layout.queries));
  f.set(end, i32.add(at, rowBytes));
  for (let n = 0; n < 4 * wide; n++) f.set(acc[n], f32x4.const(0));
  f.doWhile(
    () => {
      for (const [n, vector] of keyVectors.entries()) f.set(vector, v128.load(pointer, n * keyStride));
      for (let row = 0; row < 4; row++) {
        f.set(x, v128.load(at, row * rowBytes));
        for (const [n, vector] of keyVectors.entries()) f.set(acc[4 * n + row], fma(spec, x, vector, acc[4 * n + row]));
      }
      f.set(pointer, i32.add(pointer, 16));
      f.set(at, i32.add(at, 16));
    },
    () => i32.ltU(at, end),
  );
  return keyVectors.map((_, n) => {
    const [s0, s1, s2, s3] = acc.slice(4 * n, 4 * n + 4);
    // Lanes (s0, s1) of both halves, then (s2, s3), then all four.
    f.set(a, f32x4.add(f32x4.shuffle(s0, s1, 0, 4, 1, 5), f32x4.shuffle(s0, s1, 2, 6, 3, 7)));
    f.set(x, f32x4.add(f32x4.shuffle(s2, s3, 0, 4, 1, 5), f32x4.shuffle(s2, s3, 2, 6, 3, 7)));
    f.set(s0, f32x4.add(f32x4.shuffle(a, x, 0, 1, 4, 5), f32x4.shuffle(a, x, 2, 3, 6, 7)));
    return s0;
  });
}

/** Hides what the bits hide, updates max, and stores the scores of the keys from `key` on; modifiers come later. */
function emitStoreScores(tile: Tile, vectors: readonly Local<"v128">[]): void {
  const { f, spec, scores, max, key, at } = tile;
  const halves = spec.rows / 4;
  if (!spec.score) {
    f.if(tile.bits, () => {
      for (const [n, score] of vectors.entries()) emitHide(tile, score, Math.floor(n / halves), n % halves);
    });
  }
  f.set(at, i32.add(scores, i32.mul(key, spec.rows * 4)));
  for (const [n, score] of vectors.entries()) {
    if (!spec.score) f.set(max[n % halves], f32x4.pmax(max[n % halves], score));
    f.storeVector(at, score, n * 16);
  }
}

/** −Infinity where the bits of key `key` + n hide it; the bits of the first half are kept in `x` for the second. */
function emitHide({ f, bits, x, key }: Tile, score: Local<"v128">, n: number, half: number): void {
  if (half === 0) f.set(x, i32x4.splat(i32.load8u(i32.add(bits, key), n)));
  const visible = i32x4.ne(v128.and(x, ROW_BITS[half]), i32x4.const(0));
  f.set(score, v128.select(score, f32x4.const(-Infinity), visible));
}

/** Applies soft cap, modifier, ALiBi and bias to the stored scores, then hides and finds the maximum. */
function emitModifyScores(tile: Tile): void {
  const { f, spec, layout, block, scores, count, bits, max, acc, key, at, pointer, end: keyBytes } = tile;
  const emitter = new ScoreEmitter(f, spec);
  const [score] = acc;
  const columnAt = (column: number, half: number): number => layout.columns + column * spec.rows * 4 + half * 16;
  for (const half of max) f.set(half, f32x4.const(LOWEST_SCORE));
  f.for(key, 0, count, 1, () => {
    f.set(at, i32.add(scores, i32.mul(key, spec.rows * 4)));
    const slot = i32.add(tile.slot, key);
    f.set(keyBytes, i32.shl(slot, 2));
    if (spec.keyColumns > 0) {
      f.set(pointer, i32.add(i32.load(tile.options, OPTIONS.keyTable), i32.mul(slot, spec.keyColumns * 4)));
    }
    for (const [half, halfMax] of max.entries()) {
      f.set(score, v128.load(at, half * 16));
      emitter.emit(spec.score ?? [], {
        score,
        row: (column) => v128.load(block, columnAt(column, half)),
        rowAt: (column, lane) => ({ address: block, offset: columnAt(column, half) + lane * 4 }),
        key: pointer,
        keyBytes,
      });
      f.if(bits, () => emitHide(tile, score, 0, half));
      f.set(halfMax, f32x4.pmax(halfMax, score));
      f.storeVector(at, score, half * 16);
    }
  });
}

/** Multiplies the probabilities by 0 or by the factor of those that are kept. The first row column is the rows' hash. */
function emitDropout(tile: Tile): void {
  const { f, spec, layout, block, scores, count, acc, a, b, x, key, at, options } = tile;
  const [kept] = acc;
  f.set(a, v128.load32Splat(options, OPTIONS.dropThreshold));
  f.set(b, v128.load32Splat(options, OPTIONS.dropKept));
  f.for(key, 0, count, 1, () => {
    f.set(at, i32.add(scores, i32.mul(key, spec.rows * 4)));
    f.set(x, i32x4.splat(i32.mul(i32.add(tile.slot, key), KEY_FACTOR)));
    for (let half = 0; half < spec.rows * 4; half += 16) {
      emitKept(f, kept, i32x4.add(v128.load(block, layout.columns + half), x), a);
      f.storeVector(at, v128.and(f32x4.mul(v128.load(at, half), b), kept), half);
    }
  });
}

/** Scores become probabilities; maximum, sum and factor of the rows are brought up to date. */
function emitSoftmax({ f, spec, layout, block, scores, scoresEnd, acc, max, a, b, x, at }: Tile): void {
  const sums = [acc[0], acc[1]];
  const results = [acc[2], acc[3]];
  const work = [[a, b] as const, [acc[4], x] as const];
  for (const [half, newMax] of max.entries()) {
    const old = v128.load(block, layout.max + half * 16);
    f.set(newMax, f32x4.pmax(newMax, old));
    emitExp(f, spec, results[half], f32x4.sub(old, newMax), work[half]);
    f.storeVector(block, newMax, layout.max + half * 16);
    f.storeVector(block, results[half], layout.factor + half * 16);
    f.set(sums[half], f32x4.mul(v128.load(block, layout.sum + half * 16), results[half]));
  }
  f.set(at, scores);
  f.doWhile(
    () => {
      for (const [half, newMax] of max.entries()) {
        const shifted: V128 = f32x4.sub(v128.load(at, half * 16), newMax);
        emitExp(f, spec, results[half], shifted, work[half]);
        f.storeVector(at, results[half], half * 16);
        f.set(sums[half], f32x4.add(sums[half], results[half]));
      }
      f.set(at, i32.add(at, spec.rows * 4));
    },
    () => i32.ltU(at, scoresEnd),
  );
  for (const half of max.keys()) f.storeVector(block, sums[half], layout.sum + half * 16);
}
