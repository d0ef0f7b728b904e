/**
 * Attention that columns get: softmax of rows, each over the columns it sees, brought together by column.
 */

import { f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { storeFirst } from "./elementwise.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitMax } from "./softmax.ts";
import { emitExp, emitSum, type FloatingMode, fma } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type ColumnMassSpec = FloatingMode & {
  /** Export name; that of the operation unless told. */
  readonly name?: string;
  /** How the rows of a head come together: added up, or the largest. */
  readonly reduce: "sum" | "max";
};

/** Elements of a row that are added up before their sum joins that of the row. */
const SUMMED = 1024;

/**
 * Adds `columnMass(out, logits, starts, ends, weights, rows, width, from, to)` to a module: for heads [from, to),
 * out f32 [H][T] = Σ (or the largest) over the head's rows of weight · softmax(logits[start, end)), where
 * logits f32 [H][W][T], starts and ends i32 [H][W] and weights f32 [H][W]. W is `rows`, T is `width`. Columns that no row
 * sees become 0, and so do rows that see nothing. The logits that are seen become exp(logit − max).
 *
 * A probability is within (T/1024 + 260 + |logit − max|) · 2^−24 of itself, at the very worst, those below 1e-38 are 0; a sum
 * of W of them loses W · 2^−24 more.
 */
export function emitColumnMass(module: ModuleBuilder, spec: ColumnMassSpec): FunctionHandle {
  return module.function(spec.name ?? "columnMass", (f) => {
    const out = f.parameter("out", "i32");
    const logits = f.parameter("logits", "i32");
    const starts = f.parameter("starts", "i32");
    const ends = f.parameter("ends", "i32");
    const weights = f.parameter("weights", "i32");
    const rows = f.parameter("rows", "i32");
    const width = f.parameter("width", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const head = f.local("head", "i32");
    const row = f.local("row", "i32");
    const lastRow = f.local("lastRow", "i32");
    const start = f.local("first", "i32"); // column
    const count = f.local("count", "i32"); // columns
    const left = f.local("left", "i32"); // columns whose exponentials are not yet there
    const size = f.local("size", "i32");
    const rowAt = f.local("rowAt", "i32");
    const headAt = f.local("headAt", "i32");
    const at = f.local("at", "i32");
    const outAt = f.local("outAt", "i32");
    const total = f.local("total", "f32");
    const [max, sum, factor, result, r, n] = ["max", "sum", "factor", "result", "r", "n"].map((name) =>
      f.local(name, "v128"),
    );
    const first = v128.words(-1, 0, 0, 0);
    const ofRow = (array: typeof starts) => i32.add(array, i32.shl(row, 2));
    const exponential = (four: V128): void => emitExp(f, spec, result, f32x4.sub(four, max), [r, n]);
    const combine = (before: V128, four: V128): V128 =>
      spec.reduce === "sum" ? fma(spec, four, factor, before) : f32x4.pmax(before, f32x4.mul(four, factor));

    f.for(head, from, to, 1, () => {
      f.set(headAt, i32.add(out, i32.shl(i32.mul(head, width), 2)));
      f.set(outAt, headAt);
      emitRowLoop(
        f,
        { pointers: [[outAt, 4]], count: width },
        () => f.storeVector(outAt, f32x4.const(0)),
        () => f.store("f32.store", outAt, 0),
      );
      f.set(lastRow, i32.mul(i32.add(head, 1), rows));
      f.for(row, i32.mul(head, rows), lastRow, 1, () => {
        f.set(start, i32.load(ofRow(starts)));
        f.set(count, i32.sub(i32.load(ofRow(ends)), start));
        f.if(i32.gtS(count, 0), () => {
          f.set(rowAt, i32.add(logits, i32.shl(i32.add(i32.mul(row, width), start), 2)));
          f.set(at, rowAt);
          emitMax(f, max, at, count);
          f.set(at, rowAt);
          f.set(total, 0);
          f.for(left, 0, count, SUMMED, () => {
            f.set(size, i32.sub(count, left));
            f.if(i32.gtS(size, SUMMED), () => f.set(size, SUMMED));
            f.set(sum, f32x4.const(0));
            emitRowLoop(
              f,
              { pointers: [[at, 4]], count: size },
              () => {
                exponential(v128.load(at));
                f.set(sum, f32x4.add(sum, result));
                f.storeVector(at, result);
              },
              () => {
                exponential(v128.load32Splat(at));
                f.set(sum, f32x4.add(sum, v128.and(result, first)));
                storeFirst(f, at, result);
              },
            );
            f.set(total, f32.add(total, emitSum(f, sum)));
          });
          f.set(factor, f32x4.splat(f32.div(f32.load(ofRow(weights)), total)));
          f.set(at, rowAt);
          f.set(outAt, i32.add(headAt, i32.shl(start, 2)));
          emitRowLoop(
            f,
            {
              pointers: [
                [at, 4],
                [outAt, 4],
              ],
              count,
            },
            () => f.storeVector(outAt, combine(v128.load(outAt), v128.load(at))),
            () => storeFirst(f, outAt, combine(v128.load32Zero(outAt), v128.load32Zero(at))),
          );
        });
      });
    });
  });
}
