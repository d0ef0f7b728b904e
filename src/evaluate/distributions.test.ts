import { describe, expect, test } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { addComparison, lossOf, noSums } from "./distributions.ts";

/** Logits of probabilities, shifted by any constant. */
function logits(shift: number, ...probabilities: number[]): Float32Array {
  return Float32Array.from(probabilities, (p) => Math.log(p) + shift);
}

describe("addComparison", () => {
  test("gives divergence, agreement and loss of distributions written down by hand", () => {
    const sums = noSums();
    addComparison(sums, logits(3, 0.5, 0.25, 0.25), logits(-7, 0.25, 0.5, 0.25), [1]);
    // 0.5·ln 2 + 0.25·ln 0.5 + 0 = 0.25·ln 2
    expect(sums.divergence).toBeCloseTo(0.25 * Math.LN2, 6);
    expect(sums.loss).toBeCloseTo(Math.LN2, 6);
    expect(sums).toMatchObject({ rows: 1, sameBest: 0 });
  });

  test("adds up over rows and calls, and finds nothing between equal distributions", () => {
    const sums = noSums();
    const row = logits(0, 0.1, 0.9);
    addComparison(sums, Float32Array.of(...row, ...row), Float32Array.of(...row, ...row), [1, 0]);
    addComparison(sums, row, row, [1]);
    expect(sums.divergence).toBe(0);
    expect(sums).toMatchObject({ rows: 3, sameBest: 3 });
    expect(sums.loss).toBeCloseTo(-2 * Math.log(0.9) - Math.log(0.1), 5);
  });

  test("refuses logits of different sizes", () => {
    expect(thrownBy(() => addComparison(noSums(), new Float32Array(6), new Float32Array(4), [0, 1]))).toBe(
      "ShapeError: addComparison: logits [T, V] of both, and T targets; got reference=6, other=4, targets=2.",
    );
  });

  test("the loss is that of the targets under the logits", () => {
    const two = Float32Array.of(...logits(3, 0.5, 0.25, 0.25), ...logits(-7, 0.25, 0.5, 0.25));
    expect(lossOf(two, [0, 2])).toBeCloseTo(3 * Math.LN2, 6);
  });
});
