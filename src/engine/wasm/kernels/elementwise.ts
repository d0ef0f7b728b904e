/**
 * Operations on elements and rows that need nothing of their neighbours.
 */

import type { Activation } from "../../backend.ts";
import { type Expression, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { emitRowLoop } from "./row-loop.ts";
import { emitNormalCdf, emitSigmoid, type FloatingMode, fma } from "./vector-math.ts";

/** One vector in, one out; `x` may be read once or more. */
type VectorFunction = (x: Local<"v128">) => V128;

/** 2·√(2/π)·(x + 0.044715·x³) by its coefficients of x and x³. */
export const GELU_TANH: readonly [number, number] = [1, 0.044715].map((c) => 2 * Math.sqrt(2 / Math.PI) * c) as [
  number,
  number,
];

/** Adds `add(out, a, b, from, to)` to a module: elements [from, to) of out = a + b; out may be a or b. */
export function emitAdd(module: ModuleBuilder, name = "add"): FunctionHandle {
  return emitBinary(module, name, () => (a, b) => f32x4.add(a, b));
}

/**
 * Adds `gate(out, gate, up, from, to)` to a module: elements [from, to) of out = activation(gate) · up; out may be
 * either.
 */
export function emitGate(
  module: ModuleBuilder,
  spec: FloatingMode & { readonly name?: string; readonly activation: Activation },
): FunctionHandle {
  return emitBinary(module, spec.name ?? "gate", (f) => {
    const activation = createActivation(f, spec, spec.activation);
    const x = f.local("x", "v128");
    return (gate, up) => {
      f.set(x, gate);
      return f32x4.mul(activation(x), up);
    };
  });
}

/** Emits code for one vector of an activation; gelu within 3e-7·|x|. */
function createActivation(f: FunctionBuilder, mode: FloatingMode, activation: Activation): VectorFunction {
  const [result, r, n, t, value] = f.vectors("work", 5);
  switch (activation) {
    case "silu":
      return (x) => {
        emitSigmoid(f, mode, result, x, [r, n]);
        return f32x4.mul(x, result);
      };
    case "gelu":
      return (x) => {
        emitNormalCdf(f, mode, result, x, [value, t, r, n]);
        return f32x4.mul(x, result);
      };
    case "geluTanh":
      return (x) => {
        // (1 + tanh(z))/2 is 1/(1 + exp(−2z)).
        f.set(value, f32x4.mul(x, fma(mode, f32x4.mul(x, x), f32x4.const(GELU_TANH[1]), f32x4.const(GELU_TANH[0]))));
        emitSigmoid(f, mode, result, value, [r, n]);
        return f32x4.mul(x, result);
      };
  }
}

function emitBinary(
  module: ModuleBuilder,
  name: string,
  create: (f: FunctionBuilder) => (a: V128, b: V128) => V128,
): FunctionHandle {
  return module.function(name, (f) => {
    const out = f.parameter("out", "i32");
    const a = f.parameter("a", "i32");
    const b = f.parameter("b", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const combine = create(f);
    const addresses = [out, a, b];
    for (const address of addresses) f.set(address, i32.add(address, i32.shl(from, 2)));
    emitRowLoop(
      f,
      { pointers: addresses.map((address) => [address, 4] as const), count: i32.sub(to, from) },
      () => f.storeVector(out, combine(v128.load(a), v128.load(b))),
      () => storeFirst(f, out, combine(v128.load32Zero(a), v128.load32Zero(b))),
    );
  });
}

/** Stores the first lane. */
export function storeFirst(f: FunctionBuilder, address: Expression<"i32">, value: V128): void {
  f.store("f32.store", address, f32x4.lane(value, 0));
}

/**
 * Adds `scaleRows(x, scales, from, to)` to a module: rows [from, to) of x [T, C] times scales f32 [T], in place.
 */
export function emitScaleRows(
  module: ModuleBuilder,
  spec: { readonly name?: string; readonly width: number; readonly xStride?: number },
): FunctionHandle {
  const { width, xStride = 4 * width } = spec;
  return module.function(spec.name ?? "scaleRows", (f) => {
    const x = f.parameter("x", "i32");
    const scales = f.parameter("scales", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const row = f.local("row", "i32");
    const at = f.local("at", "i32");
    const scale = f.local("scale", "v128");
    f.for(row, from, to, 1, () => {
      f.set(at, i32.add(x, i32.mul(row, xStride)));
      f.set(scale, v128.load32Splat(i32.add(scales, i32.shl(row, 2))));
      emitRowLoop(
        f,
        { pointers: [[at, 4]], count: width },
        () => f.storeVector(at, f32x4.mul(v128.load(at), scale)),
        () => storeFirst(f, at, f32x4.mul(v128.load32Zero(at), scale)),
      );
    });
  });
}

/** Adds `copy(out, x, bytes)` to a module. */
export function emitCopy(module: ModuleBuilder, name = "copy"): FunctionHandle {
  return module.function(name, (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const bytes = f.parameter("bytes", "i32");
    f.copyMemory(out, x, bytes);
  });
}

/** What row copies are specialised for. */
export type CopyRowsSpec = {
  /** Bytes of a row. */
  readonly width: number;
  /** Bytes from one row of x to the next; rows of out follow each other. */
  readonly stride: number;
};

/** Adds `copyRows(out, x, from, to)` to a module: rows [from, to) of out = those of x. */
export function emitCopyRows(module: ModuleBuilder, { width, stride }: CopyRowsSpec): FunctionHandle {
  return module.function("copyRows", (f) => {
    const out = f.parameter("out", "i32");
    const x = f.parameter("x", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const row = f.local("row", "i32");
    f.for(row, from, to, 1, () => {
      f.copyMemory(i32.add(out, i32.mul(row, width)), i32.add(x, i32.mul(row, stride)), width);
    });
  });
}

/** Adds `fill(out, from, to, value: f32)` to a module: elements [from, to) of out = value. */
export function emitFill(module: ModuleBuilder, name = "fill"): FunctionHandle {
  return module.function(name, (f) => {
    const out = f.parameter("out", "i32");
    const from = f.parameter("from", "i32");
    const to = f.parameter("to", "i32");
    const value = f.parameter("value", "f32");
    const four = f.local("four", "v128", f32x4.splat(value));
    f.set(out, i32.add(out, i32.shl(from, 2)));
    emitRowLoop(
      f,
      { pointers: [[out, 4]], count: i32.sub(to, from), wide: 4 },
      (i) => f.storeVector(out, four, 16 * i),
      () => f.store("f32.store", out, value),
    );
  });
}
