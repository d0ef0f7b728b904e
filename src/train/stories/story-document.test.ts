import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createDraw } from "./draw.ts";
import { FACT_KINDS } from "./fact-kinds.ts";
import { drawFacts, isWithheld } from "./facts.ts";
import { answerText, countPieces, questionPrompt, type StoryOptions, storyDocument } from "./story-document.ts";

const SEEDS = fc.integer({ min: 0, max: 2 ** 40 });
const OPTIONS: fc.Arbitrary<StoryOptions> = fc.record({
  pieces: fc.integer({ min: 120, max: 900 }),
  facts: fc.integer({ min: 1, max: 12 }),
  repeated: fc.constantFrom(0, 0.4, 1),
  immediate: fc.constantFrom(0, 0.4, 1),
  split: fc.constantFrom("train", "held-out"),
});
const RUNS = { numRuns: 60 };

const whole = (document: ReturnType<typeof storyDocument>): string => document.parts.map(({ text }) => text).join("");

describe("storyDocument", () => {
  test("the same seed and options give the same document, another seed another", () => {
    const options = { pieces: 307, facts: 5, repeated: 0.5, immediate: 0.5 };
    expect(storyDocument(11, options)).toEqual(storyDocument(11, options));
    expect(storyDocument(12, options).text).not.toBe(storyDocument(11, options).text);
  });

  test("every fact stands where it says, once unless repeated, and its answer within it", () => {
    fc.assert(
      fc.property(SEEDS, OPTIONS, (seed, options) => {
        const { text, facts } = storyDocument(seed, options);
        expect(facts.length).toBeGreaterThan(0);
        for (const { sentence, answer, at } of facts) {
          expect(text.slice(at, at + sentence.length)).toBe(sentence);
          expect(sentence).toContain(` ${answer}`);
          expect(text.indexOf(sentence)).toBe(at);
          if (!options.repeated) expect(text.lastIndexOf(sentence)).toBe(at);
        }
      }),
      RUNS,
    );
  });

  test("a question stands in the story only where it is asked at once", () => {
    fc.assert(
      fc.property(SEEDS, OPTIONS, (seed, options) => {
        const { text, facts } = storyDocument(seed, options);
        const asked = facts.filter(({ question }) => text.includes(question)).length;
        if (!options.immediate) expect(asked).toBe(0);
        if (options.immediate === 1 && options.pieces >= 75 * options.facts) expect(asked).toBe(facts.length);
      }),
      RUNS,
    );
  });

  test("the parts are the text, then the questions with their answers", () => {
    fc.assert(
      fc.property(SEEDS, OPTIONS, (seed, options) => {
        const document = storyDocument(seed, options);
        const tail = document.questions.map(({ question, answer }) => questionPrompt(question) + answerText(answer));
        expect(whole(document)).toBe(document.text + tail.join(""));
        expect(document.text.endsWith(".\n") || document.text.endsWith('"\n') || options.immediate !== 0).toBe(true);
      }),
      RUNS,
    );
  });

  test("no two facts of a document share a question", () => {
    fc.assert(
      fc.property(SEEDS, OPTIONS, (seed, options) => {
        const questions = storyDocument(seed, options).facts.map(({ question }) => question);
        expect(new Set(questions).size).toBe(questions.length);
      }),
      RUNS,
    );
  });

  test("a document is as long as asked for, or shorter by less than two sentences", () => {
    for (const pieces of [131, 401, 997, 4093]) {
      for (let seed = 0; seed < 20; seed++) {
        const length = countPieces(whole(storyDocument(seed, { pieces, facts: 7, repeated: 0.5, immediate: 0.5 })));
        expect(length).toBeLessThanOrEqual(pieces);
        expect(length).toBeGreaterThan(pieces - 32);
      }
    }
  });

  test("with little room there are fewer facts, but always one", () => {
    expect(storyDocument(1, { pieces: 100, facts: 50 }).facts.length).toBeLessThan(5);
    expect(storyDocument(1, { pieces: 1, facts: 50 }).facts).toHaveLength(1);
  });

  test("fewer questions than facts ask about different facts", () => {
    const { questions, facts } = storyDocument(5, { pieces: 500, facts: 9, questions: 4 });
    expect(facts).toHaveLength(9);
    expect(new Set(questions).size).toBe(4);
    for (const question of questions) expect(facts).toContain(question);
  });

  test("facts lie at all depths", () => {
    const tenths = new Array<number>(10).fill(0);
    for (let seed = 0; seed < 150; seed++) {
      const { text, facts } = storyDocument(seed, { pieces: 500, facts: 6 });
      for (const { at } of facts) tenths[Math.floor((10 * at) / text.length)]++;
    }
    for (const count of tenths) expect(count).toBeGreaterThan(40); // 90 on average
  });

  test.each([
    [{ pieces: 0, facts: 1 }, "pieces must be a positive integer; got pieces=0."],
    [{ pieces: 100, facts: 1.5 }, "facts must be a positive integer; got facts=1.5."],
    [{ pieces: 100, facts: 1, questions: -1 }, "questions must be a positive integer; got questions=-1."],
    [{ pieces: 100, facts: 1, repeated: 2 }, "repeated must be from 0 to 1; got repeated=2."],
    [{ pieces: 100, facts: 1, immediate: Number.NaN }, "immediate must be from 0 to 1; got immediate=NaN."],
  ])("%o is refused", (options, message) => {
    expect(() => storyDocument(1, options)).toThrow(`storyDocument: ${message}`);
  });
});

describe("drawFacts", () => {
  test("training never sees a withheld pair, and held-out facts are all withheld ones", () => {
    const train = new Set<string>();
    const heldOut = new Set<string>();
    for (let seed = 0; seed < 400; seed++) {
      for (const { sentence } of drawFacts(createDraw(seed, "a"), 9, 5, "train")) train.add(sentence);
      for (const { sentence } of drawFacts(createDraw(seed, "a"), 9, 5, "held-out")) heldOut.add(sentence);
    }
    expect(train.size).toBeGreaterThan(1000);
    expect(heldOut.size).toBeGreaterThan(500);
    for (const sentence of heldOut) expect(train.has(sentence)).toBe(false);
  });

  test("about an eighth of the pairs is withheld, for every kind", () => {
    for (const { name, subject, value } of FACT_KINDS) {
      const draw = createDraw(3, name);
      let withheld = 0;
      for (let n = 0; n < 2000; n++) if (isWithheld(name, subject(draw), value(draw))) withheld++;
      expect(withheld, name).toBeGreaterThan(100);
      expect(withheld, name).toBeLessThan(450);
    }
  });

  test("every fact has others of its kind beside it, when there are enough", () => {
    let alone = 0;
    let all = 0;
    for (let seed = 0; seed < 100; seed++) {
      const facts = drawFacts(createDraw(seed, "facts"), 10, 5, "train");
      all += facts.length;
      for (const { kind } of facts) if (facts.filter((other) => other.kind === kind).length === 1) alone++;
    }
    expect(all).toBe(1000);
    expect(alone / all).toBeLessThan(0.25);
  });

  test("every kind has ten values or more, except days", () => {
    for (const { name, value } of FACT_KINDS) {
      const draw = createDraw(1, name);
      const values = new Set(Array.from({ length: 500 }, () => value(draw)));
      expect(values.size, name).toBeGreaterThanOrEqual(name === "opens" ? 7 : 10);
    }
  });
});
