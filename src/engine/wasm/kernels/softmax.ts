/**
 * Probabilities and the largest element of rows of logits.
 */

import { f32, f32x4, type I32, i32, i32x4, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitExp, emitSum, type FloatingMode } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type LogitsSpec = FloatingMode & {
  /** Export name; that of the operation unless told. */
  readonly name?: string;
  /** V, elements of a row; any. */
  readonly width: number;
  /** Bytes between the rows of x; 4·V unless told. */
  readonly xStride?: number;
};

/** Below every number, and still a number: a difference of two such is not NaN. */
const LOWEST = -3.4e38;

/**
 * Adds `softmax(out, x, from, to, inverseTemperature: f32)` to a module: rows [from, to) of
 * out f32 [T, V] = exp((x − max x) · inverseTemperature) / their sum; out may be x. The inverse temperature is above 0.
 * −Infinity becomes 0; a row of nothing else becomes NaN.
 */
export function emitSoftmax(
  module: ModuleBuilder,
  spec: LogitsSpec & {
    /** Bytes between the rows of out; 4·V unless told. */
    readonly outStride?: number;
  },
): FunctionHandle {
  const { width, xStride = 4 * width, outStride = 4 * width } = spec;
  return module.function(spec.name ?? "softmax", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const inverseTemperature = f.parameter("inverseTemperature", "f32");
    const row = f.local("row", "i32");
    const xAt = f.local("xAt", "i32");
    const outAt = f.local("outAt", "i32");
    const max = f.local("max", "v128");
    const sum = f.local("sum", "v128");
    const factor = f.local("factor", "v128");
    const [result, r, n] = ["result", "r", "n"].map((name) => f.local(name, "v128"));
    const first = v128.words(-1, 0, 0, 0);

    const exponential = (four: V128): void => {
      const scaled = f32x4.mul(f32x4.sub(four, max), f32x4.splat(inverseTemperature));
      emitExp(f, spec, result, scaled, [r, n]);
    };
    f.for(row, from, to, 1, () => {
      f.set(xAt, i32.add(x, i32.mul(row, xStride)));
      emitMax(f, max, xAt, width);
      f.set(xAt, i32.add(x, i32.mul(row, xStride)));
      f.set(outAt, i32.add(out, i32.mul(row, outStride)));
      f.set(sum, f32x4.const(0));
      emitRowLoop(
        f,
        {
          pointers: [
            [xAt, 4],
            [outAt, 4],
          ],
          count: width,
        },
        () => {
          exponential(v128.load(xAt));
          f.set(sum, f32x4.add(sum, result));
          f.storeVector(outAt, result);
        },
        () => {
          exponential(v128.load32Splat(xAt));
          f.set(sum, f32x4.add(sum, v128.and(result, first)));
          f.store("f32.store", outAt, f32x4.lane(result, 0));
        },
      );
      f.set(factor, f32x4.splat(f32.div(1, emitSum(f, sum))));
      f.set(outAt, i32.add(out, i32.mul(row, outStride)));
      emitRowLoop(
        f,
        { pointers: [[outAt, 4]], count: width },
        () => f.storeVector(outAt, f32x4.mul(v128.load(outAt), factor)),
        () => f.store("f32.store", outAt, f32.mul(f32.load(outAt), f32x4.lane(factor, 0))),
      );
    });
  });
}

/**
 * Adds `argmax(out, x, from, to)` to a module: out i32 [T] = the lowest index of the largest element of rows
 * [from, to) of x [T, V]. NaN is never the largest; a row without a number above −3.4e38 gives 0.
 */
export function emitArgmax(module: ModuleBuilder, spec: Omit<LogitsSpec, "relaxed">): FunctionHandle {
  const { width, xStride = 4 * width } = spec;
  return module.function(spec.name ?? "argmax", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const row = f.local("row", "i32");
    const xAt = f.local("xAt", "i32");
    const best = f.local("best", "v128"); // of every fourth element
    const indices = f.local("indices", "v128"); // where those lie
    const here = f.local("here", "v128");
    const index = f.local("index", "v128");
    const greater = f.local("greater", "v128");
    const top = f.local("top", "f32");
    const winner = f.local("winner", "i32");
    const element = f.local("element", "i32");
    f.for(row, from, to, 1, () => {
      f.set(xAt, i32.add(x, i32.mul(row, xStride)));
      f.set(best, f32x4.const(LOWEST));
      f.set(indices, i32x4.const(0));
      f.set(index, v128.words(0, 1, 2, 3));
      f.set(element, width - (width % 4));
      f.set(top, LOWEST);
      f.set(winner, 0);
      emitRowLoop(
        f,
        { pointers: [[xAt, 4]], count: width },
        () => {
          f.set(here, v128.load(xAt));
          f.set(greater, f32x4.gt(here, best));
          f.set(best, v128.select(here, best, greater));
          f.set(indices, v128.select(index, indices, greater));
          f.set(index, i32x4.add(index, i32x4.const(4)));
        },
        () => {
          f.if(f32.gt(f32.load(xAt), top), () => {
            f.set(top, f32.load(xAt));
            f.set(winner, element);
          });
          f.set(element, i32.add(element, 1));
        },
      );
      // Of equals the lowest index wins.
      for (const lane of [0, 1, 2, 3]) {
        const [value, at] = [f32x4.lane(best, lane), i32x4.lane(indices, lane)];
        const wins = i32.or(f32.gt(value, top), i32.and(f32.eq(value, top), i32.ltS(at, winner)));
        f.if(wins, () => {
          f.set(top, value);
          f.set(winner, at);
        });
      }
      f.store("i32.store", i32.add(out, i32.shl(row, 2)), winner);
    });
  });
}

/** Sets all lanes of `max` to the largest element of a row; NaN is never the largest. Moves `xAt` on. */
export function emitMax(f: FunctionBuilder, max: Local<"v128">, xAt: Local<"i32">, width: I32): void {
  f.set(max, f32x4.const(LOWEST));
  emitRowLoop(
    f,
    { pointers: [[xAt, 4]], count: width },
    () => f.set(max, f32x4.pmax(max, v128.load(xAt))),
    () => f.set(max, f32x4.pmax(max, v128.load32Splat(xAt))),
  );
  f.set(max, f32x4.pmax(max, f32x4.shuffle(max, max, 2, 3, 0, 1)));
  f.set(max, f32x4.pmax(max, f32x4.shuffle(max, max, 1, 0, 3, 2)));
}
