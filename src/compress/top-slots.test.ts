import fc from "fast-check";
import { expect, it } from "vitest";
import { topSlots } from "./top-slots.ts";

const NONE = { first: 0, last: 0 };
const scores = Float64Array.of(3, 1, 4, 1, 5, 9, 2, 6);

it("the largest scores stay, in order of position", () => {
  expect([...topSlots(scores, 3, NONE)]).toEqual([4, 5, 7]);
});

it("of equal scores the lower slot stays", () => {
  expect([...topSlots(Float64Array.of(1, 2, 1, 2, 1), 3, NONE)]).toEqual([0, 1, 3]);
});

it("protected ends stay whatever they score", () => {
  expect([...topSlots(scores, 5, { first: 2, last: 2 })]).toEqual([0, 1, 5, 6, 7]);
});

it("a count that does not hold the ends keeps sinks first, then the latest tokens", () => {
  expect([...topSlots(scores, 3, { first: 2, last: 4 })]).toEqual([0, 1, 7]);
  expect([...topSlots(scores, 1, { first: 2, last: 4 })]).toEqual([0]);
  expect([...topSlots(scores, 3, { first: 0, last: 20 })]).toEqual([5, 6, 7]);
});

it("the count is exact, slots ascend, and ends that fit are there", () => {
  const inputs = fc.record({
    list: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 29 }),
    count: fc.integer({ min: 1, max: 31 }),
    first: fc.integer({ min: 0, max: 5 }),
    last: fc.integer({ min: 0, max: 5 }),
  });
  fc.assert(
    fc.property(inputs, ({ list, count, first, last }) => {
      const kept = [...topSlots(Float64Array.from(list), count, { first, last })];
      const T = list.length;
      expect(kept.length).toBe(Math.min(count, T));
      expect(kept).toEqual([...new Set(kept)].sort((a, b) => a - b));
      if (first + last > kept.length) return;
      const ends = list.map((_, t) => t).filter((t) => t < first || t >= T - last);
      expect(kept).toEqual(expect.arrayContaining(ends));
    }),
  );
});
