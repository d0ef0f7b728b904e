/**
 * RMS normalisation of rows. Sums run in f32 over 16 lanes, so that their error stays below (C/16 + 4) · 2^−24 of the
 * sum of magnitudes, and is in practice far below.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitSum, type FloatingMode, fma } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type NormSpec = FloatingMode & {
  /** Export name; that of the operation unless told. */
  readonly name?: string;
  /** C, elements of a row; any. */
  readonly width: number;
  /** Bytes between the rows of x; 4·C unless told. */
  readonly xStride?: number;
  /** Bytes between the rows of out; 4·C unless told. */
  readonly outStride?: number;
};

/**
 * Adds `rmsNorm(out, x, weight, from, to, eps: f32)` to a module: rows [from, to) of
 * out [T, C] = x / sqrt(mean(x²) + eps) · weight [C]; out may be x.
 */
export function emitRmsNorm(module: ModuleBuilder, spec: NormSpec): FunctionHandle {
  const { width, xStride = 4 * width, outStride = 4 * width } = spec;
  return module.function(spec.name ?? "rmsNorm", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const weight = f.parameter("weight", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const eps = f.parameter("eps", "f32");
    const row = f.local("row", "i32");
    const xAt = f.local("xAt", "i32");
    const outAt = f.local("outAt", "i32");
    const weightAt = f.local("weightAt", "i32");
    const sums = f.vectors("sum", 4);
    const total = f.local("total", "f32");
    const factor = f.local("factor", "f32");
    const value = f.local("value", "v128");
    const one = f.local("one", "f32");

    f.for(row, from, to, 1, () => {
      f.set(xAt, i32.add(x, i32.mul(row, xStride)));
      f.set(total, 0);
      for (const sum of sums) f.set(sum, f32x4.const(0));
      emitRowLoop(
        f,
        { pointers: [[xAt, 4]], count: width, wide: 4 },
        (i) => {
          f.set(value, v128.load(xAt, 16 * i));
          f.set(sums[i], fma(spec, value, value, sums[i]));
        },
        () => {
          f.set(one, f32.load(xAt));
          f.set(total, f32.add(total, f32.mul(one, one)));
        },
      );
      f.set(sums[0], f32x4.add(f32x4.add(sums[0], sums[1]), f32x4.add(sums[2], sums[3])));
      f.set(total, f32.add(total, emitSum(f, sums[0])));
      f.set(factor, f32.div(1, f32.sqrt(f32.add(f32.div(total, width), eps))));

      f.set(xAt, i32.add(x, i32.mul(row, xStride)));
      f.set(outAt, i32.add(out, i32.mul(row, outStride)));
      f.set(weightAt, weight);
      emitRowLoop(
        f,
        { pointers: [xAt, outAt, weightAt].map((address) => [address, 4] as const), count: width, wide: 4 },
        (i) => {
          const scaled = f32x4.mul(v128.load(xAt, 16 * i), f32x4.splat(factor));
          f.storeVector(outAt, f32x4.mul(scaled, v128.load(weightAt, 16 * i)), 16 * i);
        },
        () => {
          const scaled = f32.mul(f32.load(xAt), factor);
          f.store("f32.store", outAt, f32.mul(scaled, f32.load(weightAt)));
        },
      );
    });
  });
}
