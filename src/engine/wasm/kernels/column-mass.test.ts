import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitColumnMass } from "./column-mass.ts";

type Rows = {
  readonly heads: number;
  readonly width: number;
  /** [H, W] */
  readonly starts: readonly number[];
  readonly ends: readonly number[];
  readonly weights: readonly number[];
};

/** Runs heads [from, to) on logits [H][W][T]; out is filled with 7 before. */
function run(
  relaxed: boolean,
  reduce: "sum" | "max",
  logits: Float32Array,
  { heads, width, starts, ends, weights }: Rows,
  [from, to] = [0, heads],
): Float32Array {
  const pages = 4 + Math.ceil((4 * logits.length + 4 * heads * width) / 65536);
  const kernel = new KernelUnderTest((module) => emitColumnMass(module, { relaxed, reduce }), { pages });
  const out = kernel.put(new Float32Array(heads * width).fill(7));
  const arrays = [logits, Int32Array.from(starts), Int32Array.from(ends), Float32Array.from(weights)];
  const addresses = arrays.map((array) => kernel.put(array));
  kernel.call("columnMass", out, ...addresses, starts.length / heads, width, from, to);
  return kernel.f32(out, heads * width);
}

/** The definition, in f64. */
function defined(reduce: "sum" | "max", logits: Float32Array, { heads, width, starts, ends, weights }: Rows): number[] {
  const out = new Array<number>(heads * width).fill(0);
  for (const [row, start] of starts.entries()) {
    const head = Math.floor((row * heads) / starts.length);
    const seen = Array.from({ length: Math.max(0, ends[row] - start) }, (_, n) => logits[row * width + start + n]);
    const max = Math.max(...seen);
    const total = seen.reduce((sum, logit) => sum + Math.exp(logit - max), 0);
    for (const [n, logit] of seen.entries()) {
      const mass = (weights[row] * Math.exp(logit - max)) / total;
      const at = head * width + start + n;
      out[at] = reduce === "sum" ? out[at] + mass : Math.max(out[at], mass);
    }
  }
  return out;
}

function randomRows(heads: number, rows: number, width: number, seed: number): Rows {
  const draw = (salt: number): number[] => Array.from(randomNumbers(heads * rows, seed + salt), (x) => (x + 1) / 2);
  const starts = draw(1).map((x) => Math.floor(x * width * 0.5));
  const sizes = draw(2);
  return {
    ...{ heads, width, starts },
    ends: starts.map((start, n) => start + Math.ceil(sizes[n] * (width - start))),
    weights: draw(3).map((x) => 3 * x),
  };
}

describe.each(MODES)("column mass, %o", ({ relaxed }) => {
  test.each([
    [1, 1, 1],
    [1, 1, 13],
    [3, 1, 4],
    [2, 5, 1],
    [2, 3, 7],
    [3, 7, 31],
    [2, 64, 131],
    [1, 5, 2053],
  ])("%i heads of %i rows over %i columns: sums and largest", (heads, rows, width) => {
    const logits = randomNumbers(heads * rows * width, 5).map((x) => 9 * x);
    const spec = randomRows(heads, rows, width, heads + width);
    for (const reduce of ["sum", "max"] as const) {
      expectClose(run(relaxed, reduce, logits, spec), defined(reduce, logits, spec), 2e-6);
    }
  });

  test("every probability is right to 1e-5 of itself, over long rows and far from the maximum", () => {
    const width = 9001;
    const logits = randomNumbers(width, 3).map((x) => 40 * x);
    const spec = { heads: 1, width, starts: [0], ends: [width], weights: [1] };
    const got = run(relaxed, "sum", logits, spec);
    const want = defined("sum", logits, spec);
    const errors = want.map((mass, t) => Math.abs(got[t] - mass) / mass);
    expect(Math.max(...errors)).toBeLessThan(1e-5);
  });

  test("sums over 64 rows are right to 1e-5 of themselves", () => {
    const [rows, width] = [64, 257];
    const logits = randomNumbers(rows * width, 8).map((x) => 12 * x);
    const spec = {
      ...{ heads: 1, width, starts: new Array<number>(rows).fill(0), ends: new Array<number>(rows).fill(width) },
      weights: new Array<number>(rows).fill(1 / rows),
    };
    const got = run(relaxed, "sum", logits, spec);
    const errors = defined("sum", logits, spec).map((mass, t) => Math.abs(got[t] - mass) / mass);
    expect(Math.max(...errors)).toBeLessThan(1e-5);
  });

  test("equal logits over long rows give equal shares", () => {
    const width = 65536;
    const spec = { heads: 1, width, starts: [0], ends: [width], weights: [1] };
    const got = run(relaxed, "sum", new Float32Array(width).fill(-3.7), spec);
    expectClose(got, new Float64Array(width).fill(1 / width), 1e-12);
  });

  test("what is not seen is 0: rows without a range, columns outside all ranges, whole heads", () => {
    const spec = {
      ...{ heads: 3, width: 7 },
      ...{ starts: [0, 3, 5, 6, 2, 2], ends: [0, 3, 4, 7, 5, 2], weights: [1, 2, 3, 0.5, 2, 9] },
    };
    const logits = new Float32Array(3 * 2 * 7).fill(1);
    const third = 2 / 3;
    const want = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0, 0, third, third, third, 0, 0];
    for (const reduce of ["sum", "max"] as const) expectClose(run(relaxed, reduce, logits, spec), want, 1e-7);
  });

  test("one column is all of its row, whatever its logit", () => {
    const spec = { heads: 1, width: 3, starts: [0, 1, 2], ends: [1, 2, 3], weights: [1, 1, 1] };
    const logits = Float32Array.of(3e38, 0, 0, 0, -3e38, 0, 0, 0, 88);
    expect([...run(relaxed, "sum", logits, spec)]).toEqual([1, 1, 1]);
  });

  test("large logits do not overflow, and far smaller ones get nothing", () => {
    const spec = { heads: 1, width: 5, starts: [0, 0], ends: [5, 5], weights: [1, 1] };
    const logits = Float32Array.of(1e30, 1e30, -1e30, 0, 1e29, -1e38, -2e38, -1e38, -3e38, -1e38);
    const third = 1 / 3;
    expectClose(run(relaxed, "sum", logits, spec), [0.5 + third, 0.5, third, 0, third], 1e-6);
    expectClose(run(relaxed, "max", logits, spec), [0.5, 0.5, third, 0, third], 1e-6);
  });

  test("heads may be computed one by one, with the same bits", () => {
    const spec = randomRows(3, 11, 37, 2);
    const logits = randomNumbers(3 * 11 * 37, 6).map((x) => 5 * x);
    const all = run(relaxed, "sum", logits, spec);
    for (const head of [0, 1, 2]) {
      const one = run(relaxed, "sum", logits, spec, [head, head + 1]);
      const want = new Float32Array(3 * 37).fill(7);
      want.set(all.subarray(head * 37, (head + 1) * 37), head * 37);
      expect(one).toEqual(want);
    }
  });
});
