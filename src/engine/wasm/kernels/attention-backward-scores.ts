/**
 * From scores and gradients of probabilities to probabilities and gradients of scores.
 */

import { f32, f32x4, i32, i32x4, v128 } from "../assembler/expression.ts";
import type { Local } from "../assembler/function.ts";
import { type BackwardTile, forEachBlock, scoreAt } from "./attention-backward-products.ts";
import { type AttentionBackwardSpec, SCORE_PITCH } from "./attention-backward-scratch.ts";
import { emitKept, KEY_FACTOR } from "./attention-dropout.ts";
import { ScoreEmitter, type ScoreOperands } from "./attention-score.ts";
import { OPTIONS, ROW_BITS } from "./attention-tile.ts";
import { emitExp } from "./vector-math.ts";

/** Scores become probabilities, with what dropout makes of them, and gradients of probabilities those of scores. */
export function emitProbabilities(tile: BackwardTile): void {
  const { f, spec, layout, scratch, bits, slot, block, key, keyEnd, at, into, pointer, acc, a, b, x } = tile;
  const emitter = new ScoreEmitter(f, spec);
  const rows = f.local("blockRows", "i32"); // the block's first row in tables by row
  const bitsAt = f.local("bitsAt", "i32");
  const keyBytes = f.local("keyBytes", "i32");
  const [lses, deltas, scores, probabilities] = [0, 2, 4, 6].map((n) => acc.slice(n, n + 2));
  const [r, n] = f.vectors("exp", 2);
  const work = [[a, b] as const, [r, n] as const];
  const toGradients = layout.gradients - layout.scores;
  const columnAt = (column: number, half: number): number => layout.columns + column * SCORE_PITCH + half * 16;
  const operands = (half: number, score: Local<"v128">): ScoreOperands => ({
    score,
    row: (column) => v128.load(rows, columnAt(column, half)),
    rowAt: (column, lane) => ({ address: rows, offset: columnAt(column, half) + lane * 4 }),
    key: pointer,
    keyBytes,
  });

  const emitKey = (): void => {
    if (spec.score || spec.dropout) {
      f.set(into, i32.add(slot, key));
      f.set(keyBytes, i32.shl(into, 2));
    }
    if (spec.keyColumns > 0) {
      f.set(pointer, i32.add(i32.load(tile.options, OPTIONS.keyTable), i32.mul(into, spec.keyColumns * 4)));
    }
    for (const [half, score] of scores.entries()) {
      f.set(score, v128.load(at, half * 16));
      if (spec.softcap) {
        // The derivative, 1 − (capped / cap)², goes where the score was.
        emitter.emit([spec.softcap.code], operands(half, score));
        f.set(x, f32x4.mul(score, f.constant(1 / spec.softcap.cap)));
        f.storeVector(at, f32x4.sub(f.constant(1), f32x4.mul(x, x)), half * 16);
      }
      emitter.emit(spec.score ?? [], operands(half, score));
      emitExp(f, spec, probabilities[half], f32x4.sub(score, lses[half]), work[half]);
    }
    f.if(bits, () => {
      f.set(x, i32x4.splat(i32.load8u(i32.add(bitsAt, key))));
      for (const [half, p] of probabilities.entries()) {
        f.set(p, v128.and(p, i32x4.ne(v128.and(x, ROW_BITS[half]), i32x4.const(0))));
      }
    });
    for (const [half, p] of probabilities.entries()) {
      const ds = scores[half];
      f.set(ds, v128.load(at, toGradients + half * 16));
      f.set(a, p);
      if (spec.dropout) {
        const hash = i32x4.add(v128.load(rows, columnAt(0, half)), i32x4.splat(i32.mul(into, KEY_FACTOR)));
        emitKept(f, x, hash, v128.load32Splat(tile.options, OPTIONS.dropThreshold));
        f.set(x, v128.and(x, v128.load32Splat(tile.options, OPTIONS.dropKept)));
        f.set(ds, f32x4.mul(ds, x));
        f.set(a, f32x4.mul(a, x));
      }
      f.set(ds, f32x4.mul(p, f32x4.sub(ds, deltas[half])));
      if (spec.bias) emitBiasGradient(tile, ds, spec.bias, operands(half, ds), keyBytes);
      if (spec.distance) {
        const slopes = layout.slopes + half * 16;
        emitter.emit([spec.distance], operands(half, x));
        f.storeVector(rows, f32x4.sub(v128.load(rows, slopes), f32x4.mul(x, ds)), slopes);
      }
      if (spec.softcap) f.set(ds, f32x4.mul(ds, v128.load(at, half * 16)));
      f.storeVector(at, ds, toGradients + half * 16);
      f.storeVector(at, a, half * 16);
    }
  };

  f.set(bitsAt, bits);
  forEachBlock(tile, () => {
    emitZeroScores(tile);
    f.set(rows, i32.add(scratch, i32.shl(block, 5)));
    for (const half of [0, 1]) {
      f.set(lses[half], v128.load(rows, layout.lse + half * 16));
      f.set(deltas[half], v128.load(rows, layout.delta + half * 16));
    }
    f.set(at, scoreAt(tile, layout.scores, key, i32.shl(block, 5)));
    f.while(
      () => i32.ltS(key, keyEnd),
      () => {
        emitKey();
        f.set(at, i32.add(at, SCORE_PITCH));
        f.set(key, i32.add(key, 1));
      },
    );
    f.if(bits, () => f.set(bitsAt, i32.add(bitsAt, spec.bitsStride)));
  });
}

/** Adds to the gradients of the bias of four rows and one key. */
function emitBiasGradient(
  { f, biasShift, end }: BackwardTile,
  ds: Local<"v128">,
  { column, perKey }: NonNullable<AttentionBackwardSpec["bias"]>,
  { rowAt }: ScoreOperands,
  keyBytes: Local<"i32">,
): void {
  for (let lane = 0; lane < 4; lane++) {
    const { address, offset } = rowAt(column, lane);
    f.set(end, i32.add(i32.load(address, offset), biasShift));
    if (perKey) f.set(end, i32.add(end, keyBytes));
    f.store("f32.store", end, f32.add(f32.load(end), f32x4.lane(ds, lane)));
  }
}

/** Writes zeros for the keys that the block does not look at, up to a multiple of four: others of its rows may. */
function emitZeroScores(tile: BackwardTile): void {
  const { f, layout, count, block, key, keyEnd, at, end, x } = tile;
  const toGradients = layout.gradients - layout.scores;
  const zero = f.local("zeroKey", "i32");
  f.set(x, f32x4.const(0));
  const zeroRange = (from: Local<"i32"> | number, to: Local<"i32">): void => {
    f.set(zero, typeof from === "number" ? i32.const(from) : from);
    f.set(at, scoreAt(tile, layout.scores, zero, i32.shl(block, 5)));
    f.while(
      () => i32.ltS(zero, to),
      () => {
        for (const offset of [0, 16, toGradients, toGradients + 16]) f.storeVector(at, x, offset);
        f.set(at, i32.add(at, SCORE_PITCH));
        f.set(zero, i32.add(zero, 1));
      },
    );
  };
  zeroRange(0, key);
  f.set(end, i32.and(i32.add(count, 3), -4));
  zeroRange(keyEnd, end);
}
