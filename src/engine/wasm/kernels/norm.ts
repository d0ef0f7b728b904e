/**
 * Normalisation of rows. Sums run in f32 over 16 lanes, so that their error stays below (C/16 + 4) · 2^−24 of the
 * sum of magnitudes, and is in practice far below.
 */

import { type Expression, f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
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
  return module.function(spec.name ?? "rmsNorm", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const weight = f.parameter("weight", "i32");
    emitNorm(f, spec, { out, x, weight });
  });
}

/**
 * Adds `layerNorm(out, x, weight, bias, from, to, eps: f32)` to a module: rows [from, to) of
 * out [T, C] = (x − mean(x)) / sqrt(variance(x) + eps) · weight [C] + bias [C]; out may be x.
 */
export function emitLayerNorm(module: ModuleBuilder, spec: NormSpec & { readonly bias: boolean }): FunctionHandle {
  return module.function(spec.name ?? "layerNorm", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const weight = f.parameter("weight", "i32");
    const bias = f.parameter("bias", "i32");
    emitNorm(f, spec, { out, x, weight, centred: true, ...(spec.bias ? { bias } : {}) });
  });
}

type NormParts = {
  out: Local<"i32">;
  x: Local<"i32">;
  weight: Local<"i32">;
  bias?: Local<"i32">;
  /** Whether the mean is taken off first. */
  centred?: boolean;
};

function emitNorm(f: FunctionBuilder, spec: NormSpec, { out, x, weight, bias, centred = false }: NormParts): void {
  const { width, xStride = 4 * width, outStride = 4 * width } = spec;
  const from = f.parameter("from", "i32");
  const to = f.parameter("to", "i32");
  const eps = f.parameter("eps", "f32");
  const row = f.local("row", "i32");
  const xAt = f.local("xAt", "i32");
  const outAt = f.local("outAt", "i32");
  const weightAt = f.local("weightAt", "i32");
  const biasAt = f.local("biasAt", "i32");
  const sums = f.vectors("sum", 4);
  const total = f.local("total", "f32");
  const mean = f.local("mean", "f32");
  const factor = f.local("factor", "f32");
  const value = f.local("value", "v128");
  const one = f.local("one", "f32");

  const centre = (four: V128): V128 => (centred ? f32x4.sub(four, f32x4.splat(mean)) : four);
  const centreOne = (x: Expression<"f32">): Expression<"f32"> => (centred ? f32.sub(x, mean) : x);
  const startRow = (): void => f.set(xAt, i32.add(x, i32.mul(row, xStride)));
  /** total = Σ of the row: of its elements, or of their squares about the mean. */
  const sumRow = (squares: boolean): void => {
    startRow();
    f.set(total, 0);
    for (const sum of sums) f.set(sum, f32x4.const(0));
    emitRowLoop(
      f,
      { pointers: [[xAt, 4]], count: width, wide: 4 },
      (i) => {
        f.set(value, v128.load(xAt, 16 * i));
        if (squares && centred) f.set(value, centre(value));
        f.set(sums[i], squares ? fma(spec, value, value, sums[i]) : f32x4.add(sums[i], value));
      },
      () => {
        f.set(one, f32.load(xAt));
        if (squares && centred) f.set(one, centreOne(one));
        f.set(total, f32.add(total, squares ? f32.mul(one, one) : one));
      },
    );
    f.set(sums[0], f32x4.add(f32x4.add(sums[0], sums[1]), f32x4.add(sums[2], sums[3])));
    f.set(total, f32.add(total, emitSum(f, sums[0])));
  };

  f.for(row, from, to, 1, () => {
    if (centred) {
      sumRow(false);
      f.set(mean, f32.div(total, width));
    }
    sumRow(true);
    f.set(factor, f32.div(1, f32.sqrt(f32.add(f32.div(total, width), eps))));
    startRow();
    f.set(outAt, i32.add(out, i32.mul(row, outStride)));
    f.set(weightAt, weight);
    if (bias) f.set(biasAt, bias);
    const addresses = bias ? [xAt, outAt, weightAt, biasAt] : [xAt, outAt, weightAt];
    emitRowLoop(
      f,
      { pointers: addresses.map((address) => [address, 4] as const), count: width, wide: 4 },
      (i) => {
        const scaled = f32x4.mul(centre(v128.load(xAt, 16 * i)), f32x4.splat(factor));
        const four = v128.load(weightAt, 16 * i);
        const result = bias ? fma(spec, scaled, four, v128.load(biasAt, 16 * i)) : f32x4.mul(scaled, four);
        f.storeVector(outAt, result, 16 * i);
      },
      () => {
        const scaled = f32.mul(f32.mul(centreOne(f32.load(xAt)), factor), f32.load(weightAt));
        f.store("f32.store", outAt, bias ? f32.add(scaled, f32.load(biasAt)) : scaled);
      },
    );
  });
}
