import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Ranking } from "./ranking.ts";

describe("Ranking", () => {
  test("any scores are ranked as a full stable sort ranks them", () => {
    const few = fc.constantFrom(-Infinity, -1, 0, 0.5, 2);
    fc.assert(
      fc.property(fc.array(fc.oneof(few, fc.double({ noNaN: true })), { minLength: 1, maxLength: 60 }), (values) => {
        const scores = Float64Array.from(values, (value) => value + 0);
        const expected = [...scores.keys()].sort((a, b) =>
          scores[a] < scores[b] ? 1 : scores[a] > scores[b] ? -1 : a - b,
        );
        const ranking = new Ranking(scores.length);
        ranking.rank(scores);
        expect(expected.map((_, rank) => ranking.at(rank))).toEqual(expected);
      }),
    );
  });

  test("ranks may be read again, in any order, and ranking starts over", () => {
    const ranking = new Ranking(5);
    ranking.rank(Float64Array.of(3, 1, 4, 1, 5));
    expect([ranking.at(2), ranking.at(0), ranking.at(4), ranking.at(1)]).toEqual([0, 4, 3, 2]);
    ranking.rank(Float64Array.of(9, 8, 7, 6, 5));
    expect([ranking.at(0), ranking.at(4)]).toEqual([0, 4]);
  });
});
