/**
 * The log-sum-exp of rows from what the forward kernels note down: the largest score and the sum relative to it.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import { LOWEST_SCORE } from "./attention-tile.ts";
import { emitExp, emitLog, type FloatingMode } from "./vector-math.ts";

/**
 * Adds `logSumExp(from, to, stats, lse, sinks)`: lse [rows] of the rows from … to − 1.
 *
 * `stats` is f32 [rows][2] as `attend` writes it, rows are [B, Tq, H]; `sinks` is 0 or f32 [H]. A row without keys has
 * −Infinity, or its sink.
 */
export function emitLogSumExp(module: ModuleBuilder, spec: FloatingMode & { readonly heads: number }): void {
  module.function("logSumExp", (f) => {
    const row = f.parameter("row", "i32");
    const to = f.parameter("to", "i32");
    const stats = f.parameter("stats", "i32");
    const lse = f.parameter("lse", "i32");
    const sinks = f.parameter("sinks", "i32");
    const at = f.local("at", "i32");
    const [max, sum, sink, top, result] = ["max", "sum", "sink", "top", "result"].map((name) => f.local(name, "v128"));
    const work = f.vectors("work", 3);
    const [a, b, c] = work;
    f.forAtLeastOnce(row, to, 1, () => {
      f.set(at, i32.add(stats, i32.shl(row, 3)));
      f.set(max, v128.load32Splat(at));
      f.set(sum, v128.load32Splat(at, 4));
      f.if(sinks, () => {
        f.set(sink, v128.load32Splat(i32.add(sinks, i32.shl(i32.remU(row, spec.heads), 2))));
        f.set(top, f32x4.pmax(f32x4.pmax(max, sink), f32x4.const(LOWEST_SCORE)));
        emitExp(f, spec, result, f32x4.sub(max, top), [a, b]);
        f.set(sum, f32x4.mul(sum, result));
        emitExp(f, spec, result, f32x4.sub(sink, top), [a, b]);
        f.set(sum, f32x4.add(sum, result));
        f.set(max, top);
      });
      emitLog(f, spec, result, sum, [a, b, c]);
      f.store("f32.store", i32.add(lse, i32.shl(row, 2)), f32.add(f32x4.lane(max, 0), f32x4.lane(result, 0)));
    });
  });
}
