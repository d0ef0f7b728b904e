import { it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { choleskyFactor, inverseForm } from "./cholesky.ts";

it("factors a matrix and inverts its quadratic form", () => {
  const lower = choleskyFactor(Float64Array.of(4, 2, 2, 5), 2);
  expectClose(lower, [2, 0, 1, 2], F64_COMPUTED);
  // The inverse is [[5, −2], [−2, 4]] / 16.
  expectClose([inverseForm(lower, 2, Float64Array.of(3, 1))], [(45 - 12 + 4) / 16], F64_COMPUTED);
});
