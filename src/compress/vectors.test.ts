import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { averagePool, dot, largest, norm, softmaxInPlace, standardize } from "./vectors.ts";

it("dot products and norms take rows from their offsets", () => {
  const x = Float32Array.of(9, 3, 4);
  expect(dot(x, 1, Float64Array.of(2, 5), 0, 2)).toBe(26);
  expect(norm(x, 1, 2)).toBe(5);
});

it("the largest of nothing is −Infinity", () => {
  expect(largest([])).toBe(-Infinity);
  expect(largest([Float64Array.of(-3, -1), Float64Array.of(-2)])).toBe(-1);
});

it("softmax stands huge values", () => {
  const values = Float64Array.of(1000, 1000 + Math.log(3));
  softmaxInPlace(values);
  expectClose(values, [0.25, 0.75], F64_COMPUTED);
});

it("average pooling divides by the kernel at the ends too", () => {
  expectClose(averagePool(Float64Array.of(3, 6, 9, 12), 3), [3, 6, 9, 7], F64_COMPUTED);
  expect([...averagePool(Float64Array.of(3, 6), 1)]).toEqual([3, 6]);
});

it("standardised rows have mean 0 and deviation 1 over all of them, and equal values become 0", () => {
  const rows = standardize([Float64Array.of(0, 0), Float64Array.of(3)]);
  expectClose(
    [...rows[0], ...rows[1]],
    [-1, -1, 2].map((x) => x / Math.sqrt(3)),
    F64_COMPUTED,
  );
  expect(standardize([Float64Array.of(7, 7)])).toEqual([Float64Array.of(0, 0)]);
  expect(standardize([Float64Array.of(7)])).toEqual([Float64Array.of(0)]);
});
