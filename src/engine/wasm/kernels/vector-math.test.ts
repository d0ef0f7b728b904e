import { describe, expect, test } from "vitest";
import { KernelUnderTest, MODES } from "../../../../test/support/wasm-kernel.ts";
import { i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { emitExp, emitLog, emitNormalCdf, emitSigmoid, emitTanh, type FloatingMode } from "./vector-math.ts";

type Vectors = Local<"v128">[];
type Emit = (f: FunctionBuilder, mode: FloatingMode, target: Local<"v128">, x: Local<"v128">, scratch: Vectors) => void;

/** The function of every number, by four and four. */
function evaluate(mode: FloatingMode, emit: Emit, x: Float32Array): Float32Array {
  const kernel = new KernelUnderTest((module) =>
    module.function("map", (f) => {
      const at = f.parameter("at", "i32");
      const end = f.parameter("end", "i32");
      const [target, value, ...scratch] = f.vectors("v", 6);
      f.while(
        () => i32.ltU(at, end),
        () => {
          f.set(value, v128.load(at));
          emit(f, mode, target, value, scratch);
          f.storeVector(at, target);
          f.set(at, i32.add(at, 16));
        },
      );
    }),
  );
  const at = kernel.put(x);
  kernel.call("map", at, at + 4 * x.length);
  return kernel.f32(at, x.length);
}

function grid(from: number, to: number, steps = 4000): Float32Array {
  return Float32Array.from({ length: steps }, (_, i) => from + ((to - from) * i) / (steps - 1));
}

/** Largest error relative to |wanted|. */
function relativeError(got: Float32Array, x: Float32Array, f: (x: number) => number): number {
  return x.reduce((worst, v, i) => {
    const want = f(v);
    return want === got[i] ? worst : Math.max(worst, Math.abs(got[i] - want) / Math.abs(want));
  }, 0);
}

const exp: Emit = (f, mode, target, x, [r, n]) => emitExp(f, mode, target, x, [r, n]);
const tanh: Emit = (f, mode, target, x, [r, n, p]) => emitTanh(f, mode, target, x, [r, n, p]);
const sigmoid: Emit = (f, mode, target, x, [r, n]) => emitSigmoid(f, mode, target, x, [r, n]);
const log: Emit = (f, mode, target, x, [v, e, s]) => emitLog(f, mode, target, x, [v, e, s]);
const cdf: Emit = (f, mode, target, x, [v, t, r, n]) => emitNormalCdf(f, mode, target, x, [v, t, r, n]);

describe.each(MODES)("functions of vectors, %o", (mode) => {
  const at = (emit: Emit, ...x: number[]): number[] => [...evaluate(mode, emit, Float32Array.from(x))];

  test("exp is within 3e-7 from -87 to 88, and 0 far below", () => {
    const x = grid(-87, 88);
    expect(relativeError(evaluate(mode, exp, x), x, Math.exp)).toBeLessThan(3e-7);
    expect(at(exp, 0, -88, -1000, -Infinity)).toEqual([1, 0, 0, 0]);
    expect(at(exp, NaN, 0, 0, 0)).toEqual([NaN, 1, 1, 1]);
  });

  test("tanh is within 6e-7, relative, however small x is", () => {
    for (const x of [grid(-12, 12), grid(-0.5, 0.5), grid(-1e-3, 1e-3), grid(1e-30, 1e-20)]) {
      expect(relativeError(evaluate(mode, tanh, x), x, Math.tanh)).toBeLessThan(6e-7);
    }
    expect(at(tanh, Infinity, -Infinity, 0, -0)).toEqual([1, -1, 0, -0]);
    expect(at(tanh, NaN, 1e38, -1e38, 20)).toEqual([NaN, 1, -1, 1]);
  });

  test("sigmoid is within 4e-7, and saturates", () => {
    const x = grid(-85, 85);
    expect(relativeError(evaluate(mode, sigmoid, x), x, (v) => 1 / (1 + Math.exp(-v)))).toBeLessThan(4e-7);
    const [low, high, half, no] = at(sigmoid, -Infinity, Infinity, 0, NaN);
    expect(low).toBeLessThan(1e-37);
    expect([high, half, no]).toEqual([1, 0.5, NaN]);
  });

  test("log is within 2e-7 of 1 + |log x|, and exact where it is simple", () => {
    for (const x of [grid(0.5, 2), grid(1e-30, 1e-3), grid(1, 1e6), grid(1e30, 3e38)]) {
      const got = evaluate(mode, log, x);
      const worst = x.reduce((w, v, i) => Math.max(w, Math.abs(got[i] - Math.log(v)) / (1 + Math.abs(Math.log(v)))), 0);
      expect(worst).toBeLessThan(2e-7);
    }
    const near = grid(0.99, 1.01, 4000);
    expect(relativeError(evaluate(mode, log, near), near, Math.log)).toBeLessThan(4e-7);
    expect(at(log, 0, 1, Infinity, -1)).toEqual([-Infinity, 0, Infinity, NaN]);
    expect(at(log, NaN, -0, -Infinity, 1e-40)).toEqual([NaN, -Infinity, NaN, -Infinity]);
  });

  test("the normal distribution function is within 3e-7 and rises from 0 to 1", () => {
    const x = grid(-3, 3, 1000);
    const got = evaluate(mode, cdf, x);
    // Φ by Simpson's rule on the density.
    const density = (v: number): number => Math.exp((-v * v) / 2) / Math.sqrt(2 * Math.PI);
    const phi = (v: number): number => {
      const h = v / 400;
      let sum = density(0) + density(v);
      for (let i = 1; i < 400; i++) sum += density(i * h) * (i % 2 === 1 ? 4 : 2);
      return 0.5 + (sum * h) / 3;
    };
    const worst = x.reduce((w, v, i) => Math.max(w, Math.abs(got[i] - phi(v))), 0);
    expect(worst).toBeLessThan(3e-7);
    expect(at(cdf, -Infinity, Infinity, -30, 30)).toEqual([0, 1, 0, 1]);
  });
});
