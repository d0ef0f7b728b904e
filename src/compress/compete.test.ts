import { expect, it } from "vitest";
import { bestOfAll } from "./compete.ts";

const rows = [Float64Array.of(5, 1, 3), Float64Array.of(3, 9), Float64Array.of()];

it("the best of all rows stay, of equal ones the earlier row", () => {
  expect(bestOfAll(rows, 3).map((kept) => [...kept])).toEqual([[0, 2], [1], []]);
  expect(bestOfAll(rows, 4).map((kept) => [...kept])).toEqual([[0, 2], [0, 1], []]);
});

it("all stay when there is room", () => {
  expect(bestOfAll(rows, 9).map((kept) => [...kept])).toEqual([[0, 1, 2], [0, 1], []]);
});
