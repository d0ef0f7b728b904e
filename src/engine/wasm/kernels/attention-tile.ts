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

import { f32, f32x4, i32, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { type AttentionSpec, attentionScratch, type BlockLayout, blockLayout, TILE_KEYS } from "./attention-scratch.ts";
import { emitExp, fma } from "./vector-math.ts";

/** Stands for the maximum of no score; finite, so that no difference is NaN. */
export const LOWEST_SCORE = -3.4e38;

/** One entry of a tile list: i32 {first key, number of keys, address of visibility bits or 0}. */
export const ENTRY_BYTES = 12;

/** Where an item's data is: addresses. */
export type TilePointers = {
  /** Entry to start with; advanced to `entriesEnd`. */
  readonly entries: Local<"i32">;
  readonly entriesEnd: Local<"i32">;
  /** First key of the head. */
  readonly keys: Local<"i32">;
  /** First value of the head. */
  readonly values: Local<"i32">;
  readonly scratch: Local<"i32">;
  /** Rows of the item. */
  readonly rowCount: Local<"i32">;
};

/** Brings the states of all blocks up to date with all key tiles of a list. */
export function emitAttendTiles(f: FunctionBuilder, spec: AttentionSpec, pointers: TilePointers): void {
  const { entries, entriesEnd, keys, values, scratch, rowCount } = pointers;
  const scratchAt = attentionScratch(spec);
  const tileKeys = f.local("tileKeys", "i32");
  const tileValues = f.local("tileValues", "i32");
  const tileCount = f.local("tileCount", "i32");
  const tileBits = f.local("tileBits", "i32");
  const blocksEnd = f.local("blocksEnd", "i32");
  const tile: Tile = {
    f,
    spec,
    keyStride: spec.packed ? spec.keyDim * 4 : spec.keyStride,
    valueStride: spec.packed ? spec.valueDim * 4 : spec.valueStride,
    layout: blockLayout(spec),
    block: f.local("block", "i32"),
    keys: f.local("blockKeys", "i32"),
    values: f.local("blockValues", "i32"),
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
  };
  const blocks = i32.divU(i32.add(rowCount, spec.rows - 1), spec.rows);
  f.set(blocksEnd, i32.add(scratch, i32.add(scratchAt.blocks, i32.mul(blocks, scratchAt.blockBytes))));
  f.while(
    () => i32.ltS(entries, entriesEnd),
    () => {
      f.set(tileKeys, i32.add(keys, i32.mul(i32.load(entries), spec.keyStride)));
      f.set(tileValues, i32.add(values, i32.mul(i32.load(entries), spec.valueStride)));
      f.set(tileCount, i32.load(entries, 4));
      f.set(tileBits, i32.load(entries, 8));
      if (spec.packed) {
        emitPack(tile, tileCount, tileKeys, spec.keyStride, spec.keyDim, i32.add(scratch, scratchAt.keys));
        emitPack(tile, tileCount, tileValues, spec.valueStride, spec.valueDim, i32.add(scratch, scratchAt.values));
        f.set(tileKeys, i32.add(scratch, scratchAt.keys));
        f.set(tileValues, i32.add(scratch, scratchAt.values));
      }
      if (spec.rows === 4) {
        emitTouch(tile, tileCount, tileKeys, tile.keyStride, spec.keyDim);
        emitTouch(tile, tileCount, tileValues, tile.valueStride, spec.valueDim);
      }
      f.set(tile.block, i32.add(scratch, scratchAt.blocks));
      f.doWhile(
        () => {
          f.set(tile.keys, tileKeys);
          f.set(tile.values, tileValues);
          f.set(tile.count, tileCount);
          f.set(tile.bits, tileBits);
          f.if(tileBits, () => {
            emitTrim(tile);
            f.set(tileBits, i32.add(tileBits, TILE_KEYS));
          });
          f.if(i32.gtS(tile.count, 0), () => {
            f.set(tile.scoresEnd, i32.add(tile.scores, i32.mul(tile.count, spec.rows * 4)));
            emitScores(tile);
            emitSoftmax(tile);
            emitValues(tile);
          });
          f.set(tile.block, i32.add(tile.block, scratchAt.blockBytes));
        },
        () => i32.ltS(tile.block, blocksEnd),
      );
      f.set(entries, i32.add(entries, ENTRY_BYTES));
    },
  );
}

/** Locals of the function that works on a tile, and what is known of it. */
type Tile = {
  readonly f: FunctionBuilder;
  readonly spec: AttentionSpec;
  /** Bytes between keys and values where they are read. */
  readonly keyStride: number;
  readonly valueStride: number;
  readonly layout: BlockLayout;
  /** The present block. */
  readonly block: Local<"i32">;
  /** First key and value that the block looks at, and their number. */
  readonly keys: Local<"i32">;
  readonly values: Local<"i32">;
  readonly count: Local<"i32">;
  /** u8 [key], one bit a row; 0 where every row sees every key. */
  readonly bits: Local<"i32">;
  readonly scores: Local<"i32">;
  readonly scoresEnd: Local<"i32">;
  readonly acc: readonly Local<"v128">[];
  readonly max: readonly Local<"v128">[];
  readonly a: Local<"v128">;
  readonly b: Local<"v128">;
  readonly x: Local<"v128">;
  readonly key: Local<"i32">;
  readonly at: Local<"i32">;
  readonly end: Local<"i32">;
  readonly pointer: Local<"i32">;
};

/** Copies `count` rows of `width` floats from a stride to one after the other. */
function emitPack(
  { f, x, key, at, end, pointer }: Tile,
  count: Local<"i32">,
  from: Local<"i32">,
  stride: number,
  width: number,
  into: ReturnType<typeof i32.add>,
): void {
  const wholeBytes = Math.floor(width / 4) * 16;
  f.set(at, into);
  f.for(key, 0, count, 1, () => {
    f.set(pointer, i32.add(from, i32.mul(key, stride)));
    if (wholeBytes > 0) {
      f.set(end, i32.add(at, wholeBytes));
      f.doWhile(
        () => {
          f.set(x, v128.load(pointer));
          f.storeVector(at, x);
          f.set(pointer, i32.add(pointer, 16));
          f.set(at, i32.add(at, 16));
        },
        () => i32.ltS(at, end),
      );
    }
    for (let rest = wholeBytes; rest < width * 4; rest += 4) {
      f.store("f32.store", at, f32.load(pointer, rest - wholeBytes), rest - wholeBytes);
    }
    f.set(at, i32.add(at, width * 4 - wholeBytes));
  });
}

/**
 * Reads one word of every cache line of `count` rows. With few rows to a key the pace is that of memory, and the loops
 * below read keys and values in orders that no prefetcher follows; this one it does.
 */
function emitTouch(
  { f, key, pointer }: Tile,
  count: Local<"i32">,
  from: Local<"i32">,
  stride: number,
  width: number,
): void {
  f.for(key, 0, count, 1, () => {
    f.set(pointer, i32.add(from, i32.mul(key, stride)));
    for (let line = 0; line < width * 4; line += 64) f.run(i32.load(pointer, line));
  });
}

/** Leaves out the keys at both ends that no row of the block sees, four at a time. */
function emitTrim({ f, keyStride, valueStride, keys, values, count, bits, key, end }: Tile): void {
  const unseen = (at: Local<"i32">) => i32.eqz(i32.load(i32.add(bits, at)));
  f.set(key, 0);
  f.while(
    () => i32.and(i32.ltS(key, count), unseen(key)),
    () => f.set(key, i32.add(key, 4)),
  );
  // Bits of keys that do not exist are 0, so whole words may be read up to the end of the tile.
  f.set(end, i32.and(i32.add(count, 3), -4));
  f.while(
    () => i32.and(i32.gtS(end, key), i32.eqz(i32.load(i32.sub(i32.add(bits, end), 4)))),
    () => f.set(end, i32.sub(end, 4)),
  );
  f.if(i32.ltS(end, count), () => f.set(count, end));
  f.set(count, i32.sub(count, key));
  f.set(keys, i32.add(keys, i32.mul(key, keyStride)));
  f.set(values, i32.add(values, i32.mul(key, valueStride)));
  f.set(bits, i32.add(bits, key));
}

/** The bit of each row, by lane. */
const ROW_BITS = [v128.words(1, 2, 4, 8), v128.words(16, 32, 64, 128)];

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
    () => i32.ltS(at, end),
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
    () => i32.ltS(at, end),
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

/** Hides what the bits hide, updates max, and stores the scores of the keys from `key` on. */
function emitStoreScores({ f, spec, bits, scores, max, x, key, at }: Tile, vectors: readonly Local<"v128">[]): void {
  const halves = spec.rows / 4;
  f.if(bits, () => {
    for (const [n, score] of vectors.entries()) {
      if (n % halves === 0) f.set(x, i32x4.splat(i32.load8u(i32.add(bits, key), n / halves)));
      const visible = i32x4.ne(v128.and(x, ROW_BITS[n % halves]), i32x4.const(0));
      f.set(score, v128.select(score, f32x4.const(-Infinity), visible));
    }
  });
  f.set(at, i32.add(scores, i32.mul(key, spec.rows * 4)));
  for (const [n, score] of vectors.entries()) {
    f.set(max[n % halves], f32x4.pmax(max[n % halves], score));
    f.storeVector(at, score, n * 16);
  }
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
    () => i32.ltS(at, scoresEnd),
  );
  for (const half of max.keys()) f.storeVector(block, sums[half], layout.sum + half * 16);
}

/** output = output · factor + probabilities · values. */
function emitValues(tile: Tile): void {
  const { f, spec, key: column } = tile;
  const wholeBytes = Math.floor(spec.valueDim / 8) * 32;
  for (let firstRow = 0; firstRow < spec.rows; firstRow += 4) {
    f.for(column, 0, wholeBytes, 32, () => emitValueBlock(tile, firstRow, 2));
    if (spec.valueDim % 8 >= 4) {
      f.set(column, wholeBytes);
      emitValueBlock(tile, firstRow, 1);
    }
  }
  for (let rest = spec.valueDim - (spec.valueDim % 4); rest < spec.valueDim; rest++) emitValueColumn(tile, rest * 4);
}

/** Four rows by `wide` vectors of columns, from the byte `column` on. */
function emitValueBlock(tile: Tile, firstRow: number, wide: 1 | 2): void {
  const {
    f,
    spec,
    valueStride,
    layout,
    block,
    values,
    scores,
    scoresEnd,
    acc,
    a,
    b,
    x,
    key: column,
    at,
    pointer,
  } = tile;
  const vectors = [a, b].slice(0, wide);
  const sums = [0, 1, 2, 3].map((row) => acc.slice(2 * row, 2 * row + wide));
  /** Offset of a row's columns from the block's address plus the column. */
  const outputAt = (row: number, n: number): number => layout.output + (firstRow + row) * layout.outputPitch + n * 16;
  f.set(pointer, i32.add(block, column));
  for (const [row, rowSums] of sums.entries()) {
    f.set(x, v128.load32Splat(block, layout.factor + (firstRow + row) * 4));
    for (const [n, sum] of rowSums.entries()) f.set(sum, f32x4.mul(v128.load(pointer, outputAt(row, n)), x));
  }
  f.set(pointer, i32.add(values, column));
  f.set(at, scores);
  f.doWhile(
    () => {
      for (const [n, vector] of vectors.entries()) f.set(vector, v128.load(pointer, n * 16));
      for (const [row, rowSums] of sums.entries()) {
        f.set(x, v128.load32Splat(at, (firstRow + row) * 4));
        for (const [n, sum] of rowSums.entries()) f.set(sum, fma(spec, x, vectors[n], sum));
      }
      f.set(pointer, i32.add(pointer, valueStride));
      f.set(at, i32.add(at, spec.rows * 4));
    },
    () => i32.ltS(at, scoresEnd),
  );
  f.set(pointer, i32.add(block, column));
  for (const [row, rowSums] of sums.entries()) {
    for (const [n, sum] of rowSums.entries()) f.storeVector(pointer, sum, outputAt(row, n));
  }
}

/** All rows by the single column at a byte offset: for the last of a width that is no multiple of 4. */
function emitValueColumn(tile: Tile, column: number): void {
  const { f, spec, valueStride, layout, block, values, scores, scoresEnd, acc, x, at, pointer } = tile;
  const sums = acc.slice(0, spec.rows / 4);
  for (const sum of sums) f.set(sum, f32x4.const(0));
  f.set(pointer, values);
  f.set(at, scores);
  f.doWhile(
    () => {
      f.set(x, v128.load32Splat(pointer, column));
      for (const [half, sum] of sums.entries()) f.set(sum, fma(spec, x, v128.load(at, half * 16), sum));
      f.set(pointer, i32.add(pointer, valueStride));
      f.set(at, i32.add(at, spec.rows * 4));
    },
    () => i32.ltS(at, scoresEnd),
  );
  for (let row = 0; row < spec.rows; row++) {
    const offset = layout.output + row * layout.outputPitch + column;
    const old = f32.mul(f32.load(block, offset), f32.load(block, layout.factor + row * 4));
    f.store("f32.store", block, f32.add(old, f32x4.lane(sums[row >> 2], row & 3)), offset);
  }
}
