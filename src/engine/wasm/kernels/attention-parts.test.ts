import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitJoin, emitPick } from "./attention-parts.ts";
import { LOWEST_SCORE } from "./attention-tile.ts";

test("pick copies the numbers at the places, of the rows asked for", () => {
  const x = randomNumbers(5 * 7, 1);
  const kernel = new KernelUnderTest((module) => emitPick(module, { width: 7, picked: 3 }));
  const out = kernel.put(new Float32Array(5 * 3).fill(7));
  kernel.call("pick", out, kernel.put(x), kernel.put(Int32Array.of(6, 0, 2)), 1, 4);
  const seven = [7, 7, 7];
  const rows = [1, 2, 3].flatMap((row) => [x[7 * row + 6], x[7 * row], x[7 * row + 2]]);
  expect([...kernel.f32(out, 15)]).toEqual([...seven, ...rows, ...seven]);
});

describe.each(MODES)("join, %o", ({ relaxed }) => {
  const none = [LOWEST_SCORE, 0];
  /** Largest score and sum of both parts, row by row; two heads. */
  const PARTS = [
    [
      [2, 3],
      [1, 5],
    ],
    [[-40, 1.5], none],
    [none, [300, 2]],
    [none, none],
    [
      [1e30, 1],
      [-1e30, 1],
    ],
    [
      [0.5, 1],
      [0.5, 1],
    ],
  ];

  test.each([
    [4, undefined],
    [5, undefined],
    [3, [1.5, -2]],
    [8, [-300, 90]],
  ])("of values of %i, with sinks %o", (valueDim, sinks) => {
    const rows = PARTS.length;
    const [first, second] = [1, 2].map((salt) => randomNumbers(rows * valueDim, salt));
    const kernel = new KernelUnderTest((module) => emitJoin(module, { relaxed, heads: 2, valueDim }));
    const out = kernel.put(first);
    const [stats, others] = [0, 1].map((part) => kernel.put(Float32Array.from(PARTS.flatMap((row) => row[part]))));
    const sinkLogits = sinks ? kernel.put(Float32Array.from(sinks)) : 0;
    kernel.call("join", out, stats, kernel.put(second), others, sinkLogits, 0, rows);
    const want = PARTS.flatMap(([[m1, l1], [m2, l2]], row) => {
      const sink = sinks?.[row % 2] ?? -Infinity;
      const top = Math.max(l1 > 0 ? m1 : -Infinity, l2 > 0 ? m2 : -Infinity, sink);
      if (top === -Infinity) return new Array<number>(valueDim).fill(0);
      const [a, b] = [Math.exp(m1 - top) * l1, Math.exp(m2 - top) * l2];
      const total = a + b + Math.exp(sink - top);
      return Array.from({ length: valueDim }, (_, d) => {
        const at = row * valueDim + d;
        return (a * first[at] + b * second[at]) / total;
      });
    });
    expectClose(kernel.f32(out, rows * valueDim), want, 2e-6);
  });
});
