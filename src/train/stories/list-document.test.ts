import { describe, expect, test } from "vitest";
import { listDocument } from "./list-document.ts";
import { countPieces } from "./story-document.ts";

type Parts = ReturnType<typeof listDocument>;
const textOf = (parts: Parts): string => parts.map(({ text }) => text).join("");
/** The pairs of every round. */
const roundsOf = (parts: Parts): string[][] => {
  const lines = textOf(parts).trimEnd().split("\n");
  return lines.map((line) => line.replace(/^\w+: |\.$/g, "").split(", "));
};

describe("listDocument", () => {
  test("every round says the same pairs, in another order", () => {
    for (let seed = 0; seed < 40; seed++) {
      const parts = listDocument(seed, { pieces: 150, rounds: 3 });
      const [first, second, third] = roundsOf(parts);
      expect(first.length).toBeGreaterThan(4);
      expect(second.toSorted()).toEqual(first.toSorted());
      expect(third.toSorted()).toEqual(first.toSorted());
      expect(textOf(parts)).toMatch(/^List: .*\.\nAgain: .*\.\nAgain: .*\.\n$/);
    }
  });

  test("no first part comes twice in a round", () => {
    for (let seed = 0; seed < 40; seed++) {
      const parts = listDocument(seed, { pieces: 200, rounds: 1 });
      const firsts = parts.filter((_, n) => n % 2 === 0).map(({ text }) => text.replace(/^(?:List:|,) /, ""));
      expect(new Set(firsts).size).toBe(firsts.length);
    }
  });

  test("a list is as long as asked for, or shorter by less than a pair in every round", () => {
    for (let seed = 0; seed < 40; seed++) {
      const length = countPieces(textOf(listDocument(seed, { pieces: 121, rounds: 2 })));
      expect(length).toBeLessThanOrEqual(121);
      expect(length).toBeGreaterThan(121 - 2 * 7);
    }
  });

  test("second parts are answers from the second round on", () => {
    const parts = listDocument(7, { pieces: 90, rounds: 3 });
    const [first] = roundsOf(parts);
    const answers = parts.filter(({ role }) => role === "answer").map(({ text }) => text);
    expect(answers).toHaveLength(2 * first.length);
    for (const answer of answers) expect(first.some((pair) => pair.endsWith(answer))).toBe(true);
  });

  test("a plain list is of single words", () => {
    for (let seed = 0; seed < 20; seed++) {
      for (const round of roundsOf(listDocument(seed, { pieces: 60, rounds: 2, plain: true }))) {
        for (const pair of round) expect(pair).toMatch(/^[A-Za-z]+ [A-Za-z0-9]+$/);
      }
    }
  });

  test("the same seed gives the same list, another seed another", () => {
    const options = { pieces: 90, rounds: 3 };
    expect(listDocument(7, options)).toEqual(listDocument(7, options));
    expect(listDocument(8, options)).not.toEqual(listDocument(7, options));
  });

  test.each([
    [{ pieces: 0, rounds: 2 }, "pieces must be an integer from 1 to 9007199254740991; got pieces=0."],
    [{ pieces: 90, rounds: 1.5 }, "rounds must be an integer from 1 to 100; got rounds=1.5."],
  ])("%o is refused", (options, message) => {
    expect(() => listDocument(1, options)).toThrow(`listDocument: ${message}`);
  });
});
