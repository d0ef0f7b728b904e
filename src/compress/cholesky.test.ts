import { it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { choleskyFactor, choleskyInverse } from "./cholesky.ts";

it("factors a matrix and inverts it", () => {
  const lower = choleskyFactor(Float64Array.of(4, 2, 2, 5), 2);
  expectClose(lower, [2, 0, 1, 2], F64_COMPUTED);
  expectClose(choleskyInverse(lower, 2), [5 / 16, 0, -2 / 16, 4 / 16], F64_COMPUTED);
});

it("the inverse of a larger matrix times the matrix is the identity", () => {
  const n = 7;
  const root = Float64Array.from({ length: n * n }, (_, i) => Math.sin(1 + 3 * i));
  const at = (i: number, j: number): number => {
    let sum = i === j ? 0.5 : 0;
    for (let k = 0; k < n; k++) sum += root[i * n + k] * root[j * n + k];
    return sum;
  };
  const matrix = Float64Array.from({ length: n * n }, (_, m) => at(Math.floor(m / n), m % n));
  const lower = choleskyInverse(choleskyFactor(matrix, n), n);
  const inverse = (i: number, j: number): number => lower[Math.max(i, j) * n + Math.min(i, j)];
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += inverse(i, k) * matrix[k * n + j];
      expectClose([sum], [i === j ? 1 : 0], 1e-9);
    }
  }
});
