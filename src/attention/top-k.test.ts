import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { largestIndices } from "./top-k.ts";

describe("largestIndices", () => {
  it("gives ascending indices, and the lower ones of equal scores", () => {
    expect(largestIndices([1, 5, 3, 5, 5, 2], 2)).toEqual([1, 3]);
    expect(largestIndices([1, 5, 3, 5, 5, 2], 4)).toEqual([1, 2, 3, 4]);
    expect(largestIndices([0, -0, 0], 2)).toEqual([0, 1]);
    expect(largestIndices([-Infinity, -Infinity, 1], 2)).toEqual([0, 2]);
  });

  it("gives all when there are no more, and none of none", () => {
    expect(largestIndices([3, 1], 2)).toEqual([0, 1]);
    expect(largestIndices([3, 1], 9)).toEqual([0, 1]);
    expect(largestIndices([3, 1], 0)).toEqual([]);
    expect(largestIndices([], 3)).toEqual([]);
  });

  it("takes NaN for the largest", () => {
    expect(largestIndices([4, NaN, 5], 1)).toEqual([1]);
  });

  it("equals sorting by falling score and rising index", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -4, max: 4 })), fc.nat(12), (scores, count) => {
        const sorted = scores.map((score, i) => [score, i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
        const want = sorted.slice(0, count).map(([, i]) => i);
        expect(largestIndices(scores, count)).toEqual(want.sort((a, b) => a - b));
      }),
    );
  });
});
