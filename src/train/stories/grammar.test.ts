import { describe, expect, test } from "vitest";
import { capitalised, pronounsOf, withArticle } from "./grammar.ts";
import { storyDocument } from "./story-document.ts";
import { ANIMAL_ACTIONS, ANIMALS, MEN, MOODS, THINGS, VEGETABLES, WOMEN } from "./words.ts";

const stories = Array.from({ length: 150 }, (_, seed) => storyDocument(seed, { pieces: 600, facts: 10 }));
const texts = stories.map(({ parts }) => parts.map(({ text }) => text).join(""));
const everything = texts.join("");
/** Sentences without their end mark. */
const sentences = everything.split(/(?<=[.?!]"?)\s+/);

describe("what is told", () => {
  test("'a' stands before consonants and 'an' before vowels", () => {
    const articles = [...everything.matchAll(/\b(an?) (\p{L})/giu)];
    expect(articles.length).toBeGreaterThan(1000);
    for (const [phrase, article, letter] of articles) {
      expect(article.toLowerCase(), phrase).toBe(/[aeiou]/i.test(letter) ? "an" : "a");
    }
  });

  test("plural nouns go with 'were', singular ones with 'was'", () => {
    const number = new Map<string, string>();
    for (const [one, many] of [...ANIMALS, ...THINGS, ...VEGETABLES]) {
      if (one === many) continue;
      number.set(one, "was").set(many, "were");
    }
    let seen = 0;
    for (const [phrase, noun, verb] of everything.matchAll(/The (\p{L}+) (was|were)\b/gu)) {
      if (!number.has(noun)) continue;
      seen++;
      expect(verb, phrase).toBe(number.get(noun));
    }
    expect(seen).toBeGreaterThan(100);
  });

  test("'they', 'She and …' and names joined by 'and' take 'were', never 'was'", () => {
    expect(everything).not.toMatch(/\bThey was\b|\band \p{Lu}\p{L}+ was\b|\b(?:She|He|It) were\b/u);
    expect(everything).toMatch(/\bThey \p{L}+ and were\b/u);
  });

  test("verbs in the present agree with one animal and with many", () => {
    const forms = (index: 0 | 1): string => ANIMAL_ACTIONS.map((verb) => verb[index]).join("|");
    const many = ANIMALS.map(([, plural]) => plural).join("|");
    const one = ANIMALS.map(([singular]) => singular).join("|");
    expect(everything).toMatch(new RegExp(`In \\w+ the (?:${many}) (?:${forms(0)}) by`));
    expect(everything).toMatch(new RegExp(`a young (?:${one}) often (?:${forms(1)}) by`));
    expect(everything).not.toMatch(new RegExp(`young (?:${one}) often (?:${forms(0)}) `));
  });

  test("a paragraph's pronouns are those of its people", () => {
    for (const text of texts) {
      for (const paragraph of text.split("\n").filter((line) => !/^(?:Question|Answer):/.test(line))) {
        const told = paragraph.replace(/\p{L}+ calls (?:his|her) \p{L}+ \p{L}+\./gu, ""); // a fact about somebody else
        const people = told.match(/\p{Lu}\p{L}+/gu) ?? [];
        if (/\b(?:she|her)\b/i.test(told))
          expect(
            people.some((name) => WOMEN.includes(name)),
            paragraph,
          ).toBe(true);
        if (/\b(?:he|his|him)\b/i.test(told))
          expect(
            people.some((name) => MEN.includes(name)),
            paragraph,
          ).toBe(true);
      }
    }
  });

  test("sentences begin with a large letter and end with a mark; pronouns within them are small", () => {
    expect(sentences.length).toBeGreaterThan(5000);
    for (const sentence of sentences) {
      if (sentence.startsWith("Answer:") || sentence === "") continue;
      expect(sentence).toMatch(/^"?\p{Lu}/u);
      expect(sentence).not.toMatch(/\p{L},? (?:She|He|They)\b/u);
      expect(sentence).not.toMatch(/ {2}|undefined| [.,]/);
    }
  });

  test("moods and names are spelled in letters only", () => {
    for (const word of [...MOODS, ...WOMEN, ...MEN]) expect(word).toMatch(/^\p{L}+$/u);
    expect(WOMEN.filter((name) => MEN.includes(name))).toEqual([]);
  });
});

describe("helpers", () => {
  test("withArticle looks at the first letter", () => {
    expect([withArticle("owl"), withArticle("old key"), withArticle("key")]).toEqual(["an owl", "an old key", "a key"]);
  });

  test("pronounsOf knows women and men", () => {
    expect(pronounsOf("Mira")).toEqual({ subject: "she", object: "her", possessive: "her" });
    expect(pronounsOf("Oscar")).toEqual({ subject: "he", object: "him", possessive: "his" });
  });

  test("capitalised changes the first letter only", () => {
    expect(capitalised("an old Key")).toBe("An old Key");
  });
});
