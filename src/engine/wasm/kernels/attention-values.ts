/**
 * The product of probabilities and values of one tile and block of rows.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { Tile } from "./attention-tile.ts";
import { fma } from "./vector-math.ts";

/** output = output · factor + probabilities · values. */
export function emitValues(tile: Tile): void {
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
    () => i32.ltU(at, scoresEnd),
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
    () => i32.ltU(at, scoresEnd),
  );
  for (let row = 0; row < spec.rows; row++) {
    const offset = layout.output + row * layout.outputPitch + column;
    const old = f32.mul(f32.load(block, offset), f32.load(block, layout.factor + row * 4));
    f.store("f32.store", block, f32.add(old, f32x4.lane(sums[row >> 2], row & 3)), offset);
  }
}
