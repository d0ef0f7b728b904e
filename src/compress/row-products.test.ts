import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { addOuterProducts, meanRow, mirrorLower, quadraticForms, type Rows, rowProducts } from "./row-products.ts";

/** Rows of n numbers with a gap behind each, behind a start. */
function someRows(count: number, n: number): { readonly rows: Rows; readonly lists: number[][] } {
  const [start, stride] = [3, n + 2];
  const { data } = values([start + count * stride], count + n);
  const lists = Array.from({ length: count }, (_, t) =>
    Array.from(data.subarray(start + t * stride, start + t * stride + n)),
  );
  return { rows: { data: data as Float32Array, start, stride, count }, lists };
}

const numbers = (count: number): Float64Array => Float64Array.from(values([count], 99).data);
const dot = (a: readonly number[], b: ArrayLike<number>): number => a.reduce((sum, x, i) => sum + x * b[i], 0);

it.each([0, 1, 3, 4, 5, 11])("%i rows times a matrix", (count) => {
  const [m, n] = [3, 5];
  const { rows, lists } = someRows(count, n);
  const matrix = numbers(m * n);
  const want = lists.flatMap((x) => Array.from({ length: m }, (_, i) => dot(x, matrix.subarray(i * n, (i + 1) * n))));
  expectClose(rowProducts(matrix, m, n, rows), want, F64_COMPUTED);
});

it.each([0, 1, 3, 4, 5, 11])("quadratic forms of %i rows read the lower half of the matrix", (count) => {
  const n = 5;
  const { rows, lists } = someRows(count, n);
  const matrix = numbers(n * n);
  const entry = (i: number, j: number): number => matrix[Math.max(i, j) * n + Math.min(i, j)];
  const want = lists.map((x) => x.reduce((sum, a, i) => sum + x.reduce((s, b, j) => s + a * entry(i, j) * b, 0), 0));
  expectClose(quadraticForms(matrix, n, rows), want, F64_COMPUTED);
});

it.each([0, 1, 3, 4, 5, 11])(
  "outer products of %i rows, weighted and centred, are added to the lower half",
  (count) => {
    const n = 3;
    const { rows, lists } = someRows(count, n);
    const weights = Float64Array.from({ length: count }, (_, t) => 1 + t / 2);
    const centre = Float64Array.of(0.5, -1, 2);
    const matrix = numbers(n * n);
    const want = Array.from(matrix, (before, at) => {
      const [i, j] = [Math.floor(at / n), at % n];
      if (j > i) return before;
      return lists.reduce((sum, x, t) => sum + weights[t] * (x[i] - centre[i]) * (x[j] - centre[j]), before);
    });
    addOuterProducts(matrix, n, rows, { weights, centre });
    expectClose(matrix, want, F64_COMPUTED);
    mirrorLower(matrix, n);
    expect([matrix[1], matrix[2], matrix[5]]).toEqual([matrix[3], matrix[6], matrix[7]]);
  },
);

it("the mean of rows", () => {
  const { rows, lists } = someRows(7, 4);
  const want = [0, 1, 2, 3].map((d) => lists.reduce((sum, x) => sum + x[d], 0) / 7);
  expectClose(meanRow(rows, 4), want, F64_COMPUTED);
});
