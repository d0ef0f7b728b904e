/**
 * The loss of a language model and its gradient.
 */

import { f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitMax, type LogitsSpec } from "./softmax.ts";
import { emitExp, emitLog, emitSum } from "./vector-math.ts";

/**
 * Adds `crossEntropy(losses, logits, targets, from, to, gradientScale: f32)` to a module: for rows [from, to),
 * losses f32 [T] = log Σ exp(logits) − logits[target], and logits f32 [T][V] become
 * (softmax(logits) − onehot(target)) · gradientScale. Targets i32 [T] are below V, which the caller has checked; a
 * negative one makes loss and gradient 0.
 */
export function emitCrossEntropy(module: ModuleBuilder, spec: Omit<LogitsSpec, "xStride">): FunctionHandle {
  const { width } = spec;
  return module.function(spec.name ?? "crossEntropy", (f) => {
    const losses = f.parameter("losses", "i32");
    const logits = f.parameter("logits", "i32");
    const targets = f.parameter("targets", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const gradientScale = f.parameter("gradientScale", "f32");
    const row = f.local("row", "i32");
    const start = f.local("rowStart", "i32");
    const at = f.local("at", "i32");
    const target = f.local("target", "i32");
    const wanted = f.local("wanted", "f32"); // the target's logit
    const total = f.local("total", "f32");
    const [max, sum, factor, result, r, n, e] = ["max", "sum", "factor", "result", "r", "n", "e"].map((name) =>
      f.local(name, "v128"),
    );
    const first = v128.words(-1, 0, 0, 0);
    const lossAt = i32.add(losses, i32.shl(row, 2));
    const each = (four: () => void, one: () => void): void => {
      f.set(at, start);
      emitRowLoop(f, { pointers: [[at, 4]], count: width }, four, one);
    };
    const exponential = (four: V128): void => emitExp(f, spec, result, f32x4.sub(four, max), [r, n]);

    f.for(row, from, to, 1, () => {
      f.set(start, i32.add(logits, i32.mul(row, 4 * width)));
      f.set(target, i32.load(i32.add(targets, i32.shl(row, 2))));
      f.if(
        i32.ltS(target, 0),
        () => {
          f.store("f32.store", lossAt, 0);
          each(
            () => f.storeVector(at, f32x4.const(0)),
            () => f.store("f32.store", at, 0),
          );
        },
        () => {
          f.set(target, i32.add(start, i32.shl(target, 2)));
          f.set(wanted, f32.load(target));
          f.set(at, start);
          emitMax(f, max, at, width);
          f.set(sum, f32x4.const(0));
          each(
            () => {
              exponential(v128.load(at));
              f.set(sum, f32x4.add(sum, result));
              f.storeVector(at, result);
            },
            () => {
              exponential(v128.load32Splat(at));
              f.set(sum, f32x4.add(sum, v128.and(result, first)));
              f.store("f32.store", at, f32x4.lane(result, 0));
            },
          );
          f.set(total, emitSum(f, sum));
          emitLog(f, spec, result, f32x4.splat(total), [r, n, e]);
          f.store("f32.store", lossAt, f32.add(f32x4.lane(result, 0), f32.sub(f32x4.lane(max, 0), wanted)));
          f.set(factor, f32x4.splat(f32.div(gradientScale, total)));
          each(
            () => f.storeVector(at, f32x4.mul(v128.load(at), factor)),
            () => f.store("f32.store", at, f32.mul(f32.load(at), f32x4.lane(factor, 0))),
          );
          f.store("f32.store", target, f32.sub(f32.load(target), gradientScale));
        },
      );
    });
  });
}
