import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { ADAMW_NUMBERS, emitAdamW } from "./adamw.ts";
import { emitCrossEntropy } from "./cross-entropy.ts";
import { emitFill } from "./elementwise.ts";
import { emitEmbedBackward } from "./embed-backward.ts";
import { emitGateBackward } from "./gate-backward.ts";
import { emitRmsNormBackward, NORM_CHUNK } from "./norm-backward.ts";
import { emitAddColumns, emitSquares, SQUARES_CHUNK } from "./sums.ts";

/** Errors relative to 1 + |wanted|, for results of magnitude about 1. */
const BUDGET = 4e-6;
const WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 19, 37, 67];
const SEVEN = 7;

/** What is wanted where a kernel was to write, and what was there elsewhere. */
function within(from: number, to: number, before: ArrayLike<number>, want: (at: number) => number): number[] {
  return Array.from(before, (value, at) => (at >= from && at < to ? want(at) : value));
}

describe.each(MODES)("kernels of gradients write what they are told to, by their formula, %o", (mode) => {
  test.each(WIDTHS)("the norm of rows of %i, some chunks of several", (width) => {
    const rows = 3 * NORM_CHUNK - 5;
    const [x, g] = [randomNumbers(rows * width, 1), randomNumbers(rows * width, 2)];
    const weight = randomNumbers(width, 3);
    const before = randomNumbers(rows * width, 4);
    const eps = 0.25;
    const dx = new Array<number>(rows * width);
    const dWeight = new Array<number>(3 * width).fill(0);
    for (let row = 0; row < rows; row++) {
      const at = (c: number): number => row * width + c;
      let [squares, products] = [0, 0];
      for (let c = 0; c < width; c++) {
        squares += x[at(c)] ** 2;
        products += x[at(c)] * g[at(c)] * weight[c];
      }
      const r = 1 / Math.sqrt(squares / width + eps);
      for (let c = 0; c < width; c++) {
        dx[at(c)] = r * g[at(c)] * weight[c] - (x[at(c)] * r ** 3 * products) / width;
        dWeight[Math.floor(row / NORM_CHUNK) * width + c] += g[at(c)] * x[at(c)] * r;
      }
    }
    for (const add of [false, true]) {
      const kernel = new KernelUnderTest((module) => emitRmsNormBackward(module, { ...mode, width, add }));
      const addresses = { dx: kernel.put(before), sums: kernel.put(new Float32Array(3 * width)), g: kernel.put(g) };
      const inputs = [kernel.put(x), kernel.put(weight)];
      for (const [from, to] of [
        [1, 3],
        [2, 2],
      ]) {
        kernel.call("rmsNormBackward", addresses.dx, addresses.sums, addresses.g, ...inputs, rows, from, to, eps);
      }
      const start = NORM_CHUNK * width;
      const want = within(start, rows * width, before, (at) => dx[at] + (add ? before[at] : 0));
      expectClose(kernel.f32(addresses.dx, rows * width), want, BUDGET);
      const sums = dWeight.map((value, at) => (at < width ? 0 : value));
      expectClose(kernel.f32(addresses.sums, 3 * width), sums, 4 * BUDGET); // of 32 terms
    }
  });

  test.each(WIDTHS)("the gate of %i elements", (count) => {
    const [gate, up, g] = [1, 2, 3].map((seed) => randomNumbers(count + 3, seed).map((value) => 4 * value));
    const kernel = new KernelUnderTest((module) => emitGateBackward(module, { ...mode, activation: "silu" }));
    const [dGate, dUp] = [0, 1].map(() => kernel.put(new Float32Array(count + 3).fill(SEVEN)));
    kernel.call("gateBackward", dGate, dUp, kernel.put(g), kernel.put(gate), kernel.put(up), 2, count + 2);
    const before = new Array<number>(count + 3).fill(SEVEN);
    const s = (at: number): number => 1 / (1 + Math.exp(-gate[at]));
    const wantDUp = within(2, count + 2, before, (at) => g[at] * gate[at] * s(at));
    const wantDGate = within(2, count + 2, before, (at) => g[at] * up[at] * s(at) * (1 + gate[at] * (1 - s(at))));
    expectClose(kernel.f32(dUp, count + 3), wantDUp, BUDGET);
    expectClose(kernel.f32(dGate, count + 3), wantDGate, BUDGET);
  });

  test.each(["silu", "gelu", "geluTanh"] as const)(
    "the gate by %s, whose slope central differences give",
    (activation) => {
      const gate = Float32Array.from({ length: 163 }, (_, i) => (i - 81) / 9);
      const ones = new Float32Array(gate.length).fill(1);
      const kernel = new KernelUnderTest((module) => emitGateBackward(module, { ...mode, activation }));
      const [dGate, dUp] = [0, 1].map(() => kernel.put(ones));
      const g = kernel.put(ones);
      kernel.call("gateBackward", dGate, dUp, g, kernel.put(gate), kernel.put(ones), 0, gate.length);
      // φ is the normal density, ∫φ by Simpson's rule.
      const phi = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
      const cdf = (x: number): number => {
        const steps = 400;
        const h = x / steps;
        let sum = phi(0) + phi(x);
        for (let i = 1; i < steps; i++) sum += (i % 2 === 0 ? 2 : 4) * phi(i * h);
        return 0.5 + (sum * h) / 3;
      };
      const value = {
        silu: (x: number) => x / (1 + Math.exp(-x)),
        gelu: (x: number) => x * cdf(x),
        geluTanh: (x: number) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
      }[activation];
      const h = 1e-3;
      const slope = (x: number): number =>
        (8 * (value(x + h) - value(x - h)) - (value(x + 2 * h) - value(x - 2 * h))) / (12 * h);
      expectClose(kernel.f32(dUp, gate.length), Array.from(gate, value), BUDGET);
      expectClose(kernel.f32(dGate, gate.length), Array.from(gate, slope), BUDGET);
    },
  );

  test.each(["silu", "gelu", "geluTanh"] as const)("the gate by %s of numbers whose powers overflow", (activation) => {
    const gate = Float32Array.of(-1e30, -1e20, -200, 200, 1e20, 1e30, 0);
    const ones = new Float32Array(7).fill(1);
    const kernel = new KernelUnderTest((module) => emitGateBackward(module, { ...mode, activation }));
    const [dGate, dUp] = [0, 1].map(() => kernel.put(ones));
    kernel.call("gateBackward", dGate, dUp, kernel.put(ones), kernel.put(gate), kernel.put(ones), 0, 7);
    expectClose(kernel.f32(dGate, 7), [0, 0, 0, 1, 1, 1, 0.5], BUDGET);
    expectClose(kernel.f32(dUp, 7), [0, 0, 0, 200, gate[4], gate[5], 0], BUDGET);
  });

  test.each(WIDTHS)("the loss over %i logits", (width) => {
    const rows = 5;
    const logits = randomNumbers(rows * width, 1).map((value) => 20 * value);
    const targets = Int32Array.of(0, width - 1, -1, width >> 1, 0);
    const kernel = new KernelUnderTest((module) => emitCrossEntropy(module, { ...mode, width }));
    const losses = kernel.put(new Float32Array(rows).fill(SEVEN));
    const at = kernel.put(logits);
    kernel.call("crossEntropy", losses, at, kernel.put(targets), 1, 4, 0.5);
    const wantLosses = new Array<number>(rows).fill(SEVEN);
    const want = Array.from(logits);
    for (const row of [1, 2, 3]) {
      const own = Array.from(logits.subarray(row * width, (row + 1) * width));
      const sum = own.reduce((total, value) => total + Math.exp(value), 0);
      const counts = targets[row] >= 0;
      wantLosses[row] = counts ? Math.log(sum) - own[targets[row]] : 0;
      for (let v = 0; v < width; v++) {
        want[row * width + v] = counts ? 0.5 * (Math.exp(own[v]) / sum - (v === targets[row] ? 1 : 0)) : 0;
      }
    }
    expectClose(kernel.f32(losses, rows), wantLosses, BUDGET);
    expectClose(kernel.f32(at, rows * width), want, BUDGET);
  });

  test("the loss where a logit is −Infinity, and where all but the target are far below", () => {
    const kernel = new KernelUnderTest((module) => emitCrossEntropy(module, { ...mode, width: 3 }));
    const losses = kernel.put(new Float32Array(2));
    const at = kernel.put(Float32Array.of(-Infinity, 1, 1, 3e38, 0, -3e38));
    kernel.call("crossEntropy", losses, at, kernel.put(Int32Array.of(1, 0)), 0, 2, 1);
    expectClose(kernel.f32(losses, 2), [Math.LN2, 0], BUDGET);
    expectClose(kernel.f32(at, 6), [0, -0.5, 0.5, 0, 0, 0], BUDGET);
  });

  test.each(WIDTHS)("AdamW of %i elements", (count) => {
    const [weight, gradient, mean] = [1, 2, 3].map((seed) => randomNumbers(count + 3, seed));
    const square = randomNumbers(count + 3, 4).map((value) => value ** 2);
    const kernel = new KernelUnderTest((module) => emitAdamW(module, mode));
    const addresses = [weight, gradient, mean, square].map((one) => kernel.put(one));
    const numbers: Record<(typeof ADAMW_NUMBERS)[number], number> = {
      keepMean: 0.9,
      addMean: 0.2,
      keepSquare: 0.8,
      addSquare: 0.3,
      rate: 0.1,
      correction: 1.5,
      epsilon: 0.25,
      decay: 0.01,
    };
    kernel.call("adamW", ...addresses, 1, count + 1, ...ADAMW_NUMBERS.map((name) => numbers[name]));
    const m = (at: number): number => 0.9 * mean[at] + 0.2 * gradient[at];
    const v = (at: number): number => 0.8 * square[at] + 0.3 * gradient[at] ** 2;
    const w = (at: number): number => 0.99 * weight[at] - (0.1 * m(at)) / (Math.sqrt(1.5 * v(at)) + 0.25);
    const got = addresses.map((address) => kernel.f32(address, count + 3));
    expectClose(got[0], within(1, count + 1, weight, w), BUDGET);
    expectClose(got[1], gradient, 0);
    expectClose(got[2], within(1, count + 1, mean, m), BUDGET);
    expectClose(got[3], within(1, count + 1, square, v), BUDGET);
  });

  test("squares of chunks, the last of what is left", () => {
    const count = 2 * SQUARES_CHUNK + 21;
    const x = randomNumbers(count, 1);
    const kernel = new KernelUnderTest((module) => emitSquares(module, mode));
    const out = kernel.put(new Float32Array(4).fill(SEVEN));
    kernel.call("squares", out, kernel.put(x), count, 1, 3);
    const sum = (from: number, to: number): number =>
      x.subarray(from, to).reduce((total, value) => total + value ** 2, 0);
    const want = [SEVEN, sum(SQUARES_CHUNK, 2 * SQUARES_CHUNK), sum(2 * SQUARES_CHUNK, count), SEVEN];
    expectClose(kernel.f32(out, 4), want, BUDGET);
  });
});

describe("sums and rows", () => {
  test.each([
    [1, 0, 1],
    [3, 1, 3],
    [37, 5, 36],
    [67, 0, 67],
  ])("of %i columns, those from %i to %i are added up", (columns, from, to) => {
    const rows = 13;
    const x = randomNumbers(rows * columns, 1);
    const before = randomNumbers(columns, 2);
    const kernel = new KernelUnderTest((module) => emitAddColumns(module));
    const out = kernel.put(before);
    kernel.call("addColumns", out, kernel.putLast(x), rows, columns, from, to);
    const sum = (c: number): number =>
      Array.from({ length: rows }, (_, r) => x[r * columns + c]).reduce((a, b) => a + b);
    expectClose(
      kernel.f32(out, columns),
      within(from, to, before, (c) => before[c] + sum(c)),
      BUDGET,
    );
  });

  test.each([
    [1, 0, 1],
    [7, 1, 6],
    [37, 16, 37],
  ])("of a table %i wide, columns from %i to %i are added to, one token after the other", (width, from, to) => {
    const ids = Int32Array.of(3, 0, 3, 3, 1);
    const g = randomNumbers(ids.length * width, 1);
    const before = randomNumbers(5 * width, 2);
    const kernel = new KernelUnderTest((module) => emitEmbedBackward(module));
    const table = kernel.put(before);
    kernel.call("embedBackward", table, kernel.putLast(g), kernel.put(ids), ids.length, width, from, to);
    const want = Float32Array.from(before);
    for (const [t, id] of ids.entries()) for (let c = from; c < to; c++) want[id * width + c] += g[t * width + c];
    expect(kernel.f32(table, 5 * width)).toEqual(want);
  });

  test("a range is filled", () => {
    const kernel = new KernelUnderTest((module) => emitFill(module));
    const out = kernel.put(new Float32Array(40).fill(SEVEN));
    kernel.call("fill", out, 2, 39, -1.5);
    expectClose(
      kernel.f32(out, 40),
      within(2, 39, new Array(40).fill(SEVEN), () => -1.5),
      0,
    );
  });
});
