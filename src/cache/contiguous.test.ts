import { expect, it } from "vitest";
import { f32 } from "../tensor.ts";
import { createContiguousCache } from "./create-cache.ts";

const SHAPE = { kvHeads: 2, keyDim: 3, valueDim: 5 };

/** Rows whose numbers tell their position. */
function rowsAt(positions: number[]) {
  const fill = (width: number, sign: number): number[] => positions.flatMap((p) => Array(2 * width).fill(sign * p));
  return {
    keys: f32([positions.length, 2, 3], fill(3, 1)),
    values: f32([positions.length, 2, 5], fill(5, -1)),
    positions: Int32Array.from(positions),
    segments: Int32Array.from(positions, (p) => p % 2),
  };
}

it("rows come back in order after the storage has grown several times", () => {
  const cache = createContiguousCache([SHAPE, SHAPE]);
  const all = Array.from({ length: 101 }, (_, i) => i + 1);
  for (let start = 0; start < all.length; start += 7) cache.append(1, rowsAt(all.slice(start, start + 7)));
  const view = cache.view(1);
  const expected = rowsAt(all);
  expect(view.keys).toEqual(expected.keys);
  expect(view.values).toEqual(expected.values);
  expect([...view.positions]).toEqual(all);
  expect([...view.segments]).toEqual([...expected.segments]);
  expect(cache.length(0)).toBe(0);
  expect(cache.length(1)).toBe(101);
  expect(cache.length()).toBe(101);
});

it("bytes count rows held, not spare capacity", () => {
  const cache = createContiguousCache([SHAPE, SHAPE]);
  expect(cache.bytes).toBe(0);
  cache.append(0, rowsAt([0, 1, 2]));
  expect(cache.bytes).toBe(3 * 2 * (3 + 5) * 4);
});

it("the next position follows the largest one, whatever the order", () => {
  const cache = createContiguousCache([SHAPE]);
  cache.append(0, rowsAt([9, 4]));
  expect(cache.nextPosition).toBe(10);
  cache.clear();
  expect(cache.nextPosition).toBe(0);
  expect(cache.length()).toBe(0);
});

it("rows of the wrong shape are refused and nothing is appended", () => {
  const cache = createContiguousCache([SHAPE]);
  const bad = { ...rowsAt([0]), values: f32([1, 2, 4], Array(8).fill(0)) };
  expect(() => cache.append(0, bad)).toThrow("cache.append: values must be [1, 2, 5]; got values=[1,2,4].");
  expect(cache.length()).toBe(0);
});

it("a layer that does not exist is refused", () => {
  expect(() => createContiguousCache([SHAPE]).view(1)).toThrow(
    "cache.view: a layer of the cache; got layer=1, layers=1.",
  );
});
