/**
 * Sums over rows and over everything, in an order that does not depend on who computes them.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitSum, type FloatingMode, fma } from "./vector-math.ts";

/** Elements of which `squares` makes one sum. */
export const SQUARES_CHUNK = 16384;

/**
 * Adds `addColumns(out, x, rows, columns, from, to)` to a module: out f32 [columns] += the sum of the rows of
 * x f32 [rows][columns], for columns [from, to).
 */
export function emitAddColumns(module: ModuleBuilder, name = "addColumns"): FunctionHandle {
  return module.function(name, (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const rows = f.parameter("rows", "i32");
    const columns = f.parameter("columns", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const column = f.local("column", "i32", from);
    const at = f.local("at", "i32");
    const outAt = f.local("outAt", "i32");
    const row = f.local("row", "i32");
    const sums = f.vectors("sum", 4);
    const total = f.local("total", "f32");
    const sumUp = (width: number, start: () => void, add: () => void): void => {
      f.while(
        () => i32.leS(i32.add(column, width), to),
        () => {
          f.set(outAt, i32.add(out, i32.shl(column, 2)));
          f.set(at, i32.add(x, i32.shl(column, 2)));
          start();
          f.for(row, 0, rows, 1, () => {
            add();
            f.set(at, i32.add(at, i32.shl(columns, 2)));
          });
          if (width === 1) f.store("f32.store", outAt, f32.add(total, f32.load(outAt)));
          else {
            for (let i = 0; i < width / 4; i++) {
              f.storeVector(outAt, f32x4.add(sums[i], v128.load(outAt, 16 * i)), 16 * i);
            }
          }
          f.set(column, i32.add(column, width));
        },
      );
    };
    for (const width of [16, 4]) {
      const used = sums.slice(0, width / 4);
      sumUp(
        width,
        () => {
          for (const sum of used) f.set(sum, f32x4.const(0));
        },
        () => {
          for (const [i, sum] of used.entries()) f.set(sum, f32x4.add(sum, v128.load(at, 16 * i)));
        },
      );
    }
    sumUp(
      1,
      () => f.set(total, 0),
      () => f.set(total, f32.add(total, f32.load(at))),
    );
  });
}

/**
 * Adds `squares(out, x, count, from, to)` to a module: out f32 [chunks] = the sums of squares of chunks [from, to) of
 * x f32 [count], each of `SQUARES_CHUNK` elements, the last of what is left.
 */
export function emitSquares(module: ModuleBuilder, mode: FloatingMode, name = "squares"): FunctionHandle {
  return module.function(name, (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const count = f.parameter("count", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const chunk = f.local("chunk", "i32");
    const size = f.local("size", "i32");
    const at = f.local("at", "i32");
    const total = f.local("total", "f32");
    const sums = f.vectors("sum", 4);
    f.for(chunk, from, to, 1, () => {
      f.set(size, i32.sub(count, i32.mul(chunk, SQUARES_CHUNK)));
      f.if(i32.gtS(size, SQUARES_CHUNK), () => f.set(size, SQUARES_CHUNK));
      f.set(at, i32.add(x, i32.mul(chunk, 4 * SQUARES_CHUNK)));
      for (const sum of sums) f.set(sum, f32x4.const(0));
      f.set(total, 0);
      emitRowLoop(
        f,
        { pointers: [[at, 4]], count: size, wide: 4 },
        (i) => f.set(sums[i], fma(mode, v128.load(at, 16 * i), v128.load(at, 16 * i), sums[i])),
        () => f.set(total, f32.add(total, f32.mul(f32.load(at), f32.load(at)))),
      );
      f.set(sums[0], f32x4.add(f32x4.add(sums[0], sums[1]), f32x4.add(sums[2], sums[3])));
      f.set(total, f32.add(total, emitSum(f, sums[0])));
      f.store("f32.store", i32.add(out, i32.shl(chunk, 2)), total);
    });
  });
}
