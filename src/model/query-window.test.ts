import fc from "fast-check";
import { expect, it } from "vitest";
import { failingBackend } from "../../test/support/failing-backend.ts";
import { createReferenceBackend } from "../engine/index.ts";
import { f32 } from "../tensor.ts";
import { QueryWindow } from "./query-window.ts";

const SHAPES = [
  { heads: 2, headDim: 3 },
  { heads: 1, headDim: 5 },
];

/** One step through a window: queries that tell their token, layer and number. */
function step(window: QueryWindow, first: number, T: number, limit: number, room?: number): void {
  window.begin(T, limit, room);
  for (const [layer, { heads, headDim }] of SHAPES.entries()) {
    const width = heads * headDim;
    const numbers = Array.from({ length: T * width }, (_, n) => first + Math.floor(n / width) + layer / 10);
    window.capture(layer, f32([T, heads, headDim], numbers));
  }
  window.end(Int32Array.from({ length: T }, (_, t) => first + t));
}

/** The tokens of the rows, which must be the same in all layers. */
function tokensOf(window: QueryWindow): number[] {
  const layers = SHAPES.map(({ heads, headDim }, layer) => {
    const { data } = window.layer(layer);
    const width = heads * headDim;
    return Array.from({ length: window.length }, (_, t) => {
      const row = data.subarray(t * width, (t + 1) * width);
      expect(row.every((value) => Math.abs(value - row[0]) < 1e-6)).toBe(true);
      return Math.round(row[0] - layer / 10);
    });
  });
  expect(layers[1]).toEqual(layers[0]);
  return layers[0];
}

it("holds the last queries, whatever the steps, limits and forks", () => {
  const operation = fc.record({
    T: fc.integer({ min: 1, max: 9 }),
    limit: fc.integer({ min: 1, max: 13 }),
    fork: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(operation, { minLength: 1, maxLength: 25 }), (operations) => {
      let windows = [{ window: new QueryWindow(createReferenceBackend(), SHAPES), expected: [] as number[] }];
      let next = 0;
      for (const { T, limit, fork } of operations) {
        if (fork && windows.length < 3) {
          windows = [...windows, { window: windows[0].window.fork(), expected: windows[0].expected }];
        }
        for (const one of windows) {
          step(one.window, next, T, limit);
          const added = Array.from({ length: T }, (_, t) => next + t);
          const kept = Math.max(0, Math.min(one.expected.length, limit - Math.min(T, limit)));
          one.expected = [...one.expected.slice(one.expected.length - kept), ...added.slice(-limit)];
          expect(tokensOf(one.window)).toEqual(one.expected);
          expect([...one.window.positions]).toEqual(one.expected);
          next += T;
        }
        for (const { window, expected } of windows) expect(tokensOf(window)).toEqual(expected);
      }
    }),
    { numRuns: 60 },
  );
});

it("follows tokens that move together, and remembers where queries were rotated", () => {
  const window = new QueryWindow(createReferenceBackend(), SHAPES);
  step(window, 10, 3, 4);
  window.shift(-7);
  step(window, 6, 2, 4);
  expect([...window.positions]).toEqual([4, 5, 6, 7]);
  expect([...window.rotatedAt]).toEqual([11, 12, 6, 7]);
});

it("gives its memory back when it is cleared, unless a fork holds it", () => {
  const window = new QueryWindow(createReferenceBackend(), SHAPES);
  step(window, 0, 4, 4);
  const fork = window.fork();
  window.clear();
  expect([window.length, window.allocatedBytes]).toEqual([0, 0]);
  expect(tokensOf(fork)).toEqual([0, 1, 2, 3]);
});

it("takes memory once where it is told how much, and keeps within it", () => {
  const window = new QueryWindow(createReferenceBackend(), SHAPES);
  for (const [first, T] of [
    [0, 3],
    [3, 1],
    [4, 2],
    [6, 4],
    [10, 1],
  ]) {
    step(window, first, T, 4, 8);
    expect(window.allocatedBytes).toBe(8 * (2 * 3 + 5) * 4);
  }
  expect(tokensOf(window)).toEqual([7, 8, 9, 10]);
  window.restore(window.positions.slice(), window.rotatedAt.slice(), restored(4), 3);
  expect(window.allocatedBytes).toBe(3 * (2 * 3 + 5) * 4);
  expect(tokensOf(window)).toEqual([8, 9, 10]);
});

it("a step whose memory cannot be had leaves what stays anyway, and so does one that is taken back", () => {
  const failing = failingBackend(createReferenceBackend());
  const window = new QueryWindow(failing.backend, SHAPES);
  step(window, 0, 3, 4);
  failing.failAfter(1);
  expect(() => window.begin(2, 6)).toThrow("broken: allocate");
  expect(tokensOf(window)).toEqual([0, 1, 2]);
  step(window, 3, 2, 6);
  window.dropAfter(4);
  expect(tokensOf(window)).toEqual([0, 1, 2, 3]);
  failing.failAfter(0);
  expect(() => window.begin(50, 50)).toThrow("broken: allocate");
  expect([window.length, window.allocatedBytes]).toEqual([0, 0]);
});

/** Saved rows of the tokens from 7 on. */
function restored(T: number): Float32Array[] {
  return SHAPES.map(({ heads, headDim }, layer) =>
    Float32Array.from({ length: T * heads * headDim }, (_, n) => 7 + Math.floor(n / (heads * headDim)) + layer / 10),
  );
}
