/**
 * The five products of a tile on the way back through attention, each with eight accumulators and six loads a turn.
 */

import { type Expression, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { type AttentionBackwardSpec, type BackwardScratch, SCORE_PITCH } from "./attention-backward-scratch.ts";
import { fma } from "./vector-math.ts";

/** Locals of the function that works on a tile, and what is known of it. */
export type BackwardTile = Record<"options" | "biasShift" | "scratch", Local<"i32">> & {
  readonly f: FunctionBuilder;
  readonly spec: AttentionBackwardSpec;
  readonly layout: BackwardScratch;
  /** Rows of the item, and blocks of eight of them. */
  readonly rowCount: Local<"i32">;
  readonly blocks: Local<"i32">;
  /** Keys of the tile. */
  readonly count: Local<"i32">;
  /** Visibility bits of the first block, or 0. */
  readonly bits: Local<"i32">;
  /** Number of the first key among those of all batch entries. */
  readonly slot: Local<"i32">;
  readonly acc: readonly Local<"v128">[];
} & Record<"a" | "b" | "x", Local<"v128">> &
  Record<"block" | "key" | "keyEnd" | "row" | "rowEnd" | "column" | "at" | "end" | "pointer" | "into", Local<"i32">>;

/** Runs `body` for each block of rows, with `key` and `keyEnd` set to its keys. */
export function forEachBlock(
  { f, layout, scratch, blocks, block, key, keyEnd, at }: BackwardTile,
  body: () => void,
): void {
  f.for(block, 0, blocks, 1, () => {
    f.set(at, i32.add(scratch, i32.shl(block, 2)));
    f.set(key, i32.load(at, layout.firstKeys));
    f.set(keyEnd, i32.load(at, layout.endKeys));
    body();
  });
}

/** The address of a score, in one of the two tables. */
export function scoreAt(
  { scratch }: BackwardTile,
  table: number,
  key: Local<"i32">,
  rowBytes: Expression<"i32">,
): Expression<"i32"> {
  return i32.add(i32.add(scratch, table), i32.add(i32.mul(key, SCORE_PITCH), rowBytes));
}

/** Where the operands of a product over columns are: offsets in scratch. */
type DotOperands = { readonly keys: number; readonly pitch: number; readonly rows: number; readonly width: number };

/** target[key][row] = keys · rows; each element of a key is splat and meets eight rows. */
export function emitDots(
  tile: BackwardTile,
  { keys, pitch, rows, width }: DotOperands,
  target: "scores" | "gradients",
): void {
  const { f, spec, layout, scratch, block, key, keyEnd, at, end, pointer, into, acc, a, b, x } = tile;
  const blockBytes = pitch * 8;
  forEachBlock(tile, () => {
    f.while(
      () => i32.ltS(key, keyEnd),
      () => {
        f.set(pointer, i32.add(scratch, i32.add(keys, i32.mul(key, pitch))));
        f.set(at, i32.add(scratch, i32.add(rows, i32.mul(block, blockBytes))));
        f.set(end, i32.add(at, width * 32));
        for (const sum of acc) f.set(sum, f32x4.const(0));
        f.while(
          () => i32.ltU(at, end),
          () => {
            f.set(a, v128.load(at));
            f.set(b, v128.load(at, 16));
            for (let n = 0; n < 4; n++) {
              f.set(x, v128.load32Splat(pointer, n * pitch));
              f.set(acc[2 * n], fma(spec, x, a, acc[2 * n]));
              f.set(acc[2 * n + 1], fma(spec, x, b, acc[2 * n + 1]));
            }
            f.set(pointer, i32.add(pointer, 4));
            f.set(at, i32.add(at, 32));
          },
        );
        f.set(into, scoreAt(tile, layout[target], key, i32.shl(block, 5)));
        for (const [n, sum] of acc.entries()) f.storeVector(into, sum, (n >> 1) * SCORE_PITCH + (n & 1) * 16);
        f.set(key, i32.add(key, 4));
      },
    );
  });
}

/** sums[key] += weights[key][row] · rows[row], four keys by eight columns. */
export function emitKeySums(
  tile: BackwardTile,
  sums: Local<"i32">,
  weights: "scores" | "gradients",
  rows: number,
  pitch: number,
): void {
  const { f, layout, scratch, count, key, row, rowEnd, column, at, end, pointer, into } = tile;
  f.for(key, 0, count, 4, () => {
    emitRowRange(tile);
    f.if(i32.ltS(row, rowEnd), () => {
      f.set(into, i32.add(sums, i32.mul(key, pitch)));
      emitFourSums(tile, { pitch, across: SCORE_PITCH, along: 4 }, () => {
        f.set(pointer, i32.add(scratch, i32.add(i32.add(rows, column), i32.mul(row, pitch))));
        f.set(at, scoreAt(tile, layout[weights], key, i32.shl(row, 2)));
        f.set(end, i32.add(at, i32.shl(i32.sub(rowEnd, row), 2)));
      });
    });
  });
}

/** row to rowEnd = the rows of the blocks that look at one of the four keys from `key` on, and those between them. */
function emitRowRange({ f, layout, scratch, rowCount, bits, blocks, block, key, row, rowEnd, at }: BackwardTile): void {
  f.set(row, 0);
  f.set(rowEnd, rowCount);
  f.if(bits, () => {
    f.set(rowEnd, 0);
    f.for(block, 0, blocks, 1, () => {
      f.set(at, i32.add(scratch, i32.shl(block, 2)));
      const sees = i32.and(i32.leS(i32.load(at, layout.firstKeys), key), i32.gtS(i32.load(at, layout.endKeys), key));
      f.if(sees, () => {
        f.if(i32.eqz(rowEnd), () => f.set(row, i32.shl(block, 3)));
        f.set(rowEnd, i32.shl(i32.add(block, 1), 3));
      });
    });
    f.if(i32.gtS(rowEnd, rowCount), () => f.set(rowEnd, rowCount));
  });
}

/** dq[row] += ds[key][row] · k[key], four rows by eight columns. */
export function emitRowSums(tile: BackwardTile): void {
  const { f, layout, scratch, rowCount, key, keyEnd, row, column, at, end, pointer, into } = tile;
  const { keyPitch: pitch } = layout;
  f.for(row, 0, rowCount, 4, () => {
    f.set(at, i32.add(scratch, i32.shl(i32.shrU(row, 3), 2)));
    f.set(key, i32.load(at, layout.firstKeys));
    f.set(keyEnd, i32.load(at, layout.endKeys));
    f.if(i32.ltS(key, keyEnd), () => {
      f.set(into, i32.add(scratch, i32.add(layout.dq, i32.mul(row, pitch))));
      emitFourSums(tile, { pitch, across: 4, along: SCORE_PITCH }, () => {
        f.set(pointer, i32.add(scratch, i32.add(i32.add(layout.keys, column), i32.mul(key, pitch))));
        f.set(at, scoreAt(tile, layout.gradients, key, i32.shl(row, 2)));
        f.set(end, i32.add(at, i32.mul(i32.sub(keyEnd, key), SCORE_PITCH)));
      });
    });
  });
}

/**
 * Adds weights · vectors to the four sums at `into`, eight columns at a time.
 *
 * @param pitch - bytes from one sum, and from one vector, to the next
 * @param across - bytes from the weight of one sum to that of the next
 * @param along - bytes from the weight of one vector to that of the next
 * @param start - sets `pointer` to the present column of the first vector, `at` and `end` to the weights
 */
function emitFourSums(
  tile: BackwardTile,
  { pitch, across, along }: Record<"pitch" | "across" | "along", number>,
  start: () => void,
): void {
  const { f, spec, column, at, end, pointer, into, acc, a, b, x } = tile;
  if (pitch === 0) return;
  f.for(column, 0, pitch, 32, () => {
    start();
    for (const [n, sum] of acc.entries()) f.set(sum, v128.load(into, (n >> 1) * pitch + (n & 1) * 16));
    f.doWhile(
      () => {
        f.set(a, v128.load(pointer));
        f.set(b, v128.load(pointer, 16));
        for (let n = 0; n < 4; n++) {
          f.set(x, v128.load32Splat(at, n * across));
          f.set(acc[2 * n], fma(spec, x, a, acc[2 * n]));
          f.set(acc[2 * n + 1], fma(spec, x, b, acc[2 * n + 1]));
        }
        f.set(pointer, i32.add(pointer, pitch));
        f.set(at, i32.add(at, along));
      },
      () => i32.ltU(at, end),
    );
    for (const [n, sum] of acc.entries()) f.storeVector(into, sum, (n >> 1) * pitch + (n & 1) * 16);
    f.set(into, i32.add(into, 32));
  });
}
