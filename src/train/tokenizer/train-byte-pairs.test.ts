import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createTokenizer, type Tokenizer } from "../../model/index.ts";
import { countPieces, storyDocument } from "../stories/index.ts";
import { BYTE_CHARACTERS, toByteCharacters } from "./byte-characters.ts";
import { tokenizerFiles } from "./tokenizer-files.ts";
import { trainBytePairs } from "./train-byte-pairs.ts";

const story = (seed: number): string => {
  const { parts } = storyDocument(seed, { pieces: 500, facts: 12 });
  return parts.map(({ text }) => text).join("");
};
const stories = Array.from({ length: 300 }, (_, seed) => story(seed));
const tokenizerOf = (texts: readonly string[], tokens: number): Tokenizer => {
  const { tokenizer, config } = tokenizerFiles(trainBytePairs(texts, tokens), 1024);
  return createTokenizer(JSON.parse(JSON.stringify(tokenizer)), config);
};
const mini = tokenizerOf(stories, 1534);
const plain = { addSpecialTokens: false };

describe("trainBytePairs", () => {
  test("merges the most frequent pairs first", () => {
    const { tokens, merges } = trainBytePairs(["abab abab", "abc"], 259);
    // " abab" splits as Ġ a b a b; a b comes 5 times, ab ab twice
    expect(merges).toEqual([
      ["a", "b"],
      ["ab", "ab"],
    ]);
    expect(tokens.slice(256)).toEqual(["ab", "abab"]);
  });

  test("of pairs with equal counts the first in code unit order is merged", () => {
    expect(trainBytePairs(["zy", "zy", "xw", "xw"], 258).merges).toEqual([
      ["x", "w"],
      ["z", "y"],
    ]);
  });

  test("the order of texts does not matter", () => {
    expect(trainBytePairs(stories.toReversed(), 700)).toEqual(trainBytePairs(stories, 700));
  });

  test("digits are never merged", () => {
    for (const token of trainBytePairs(["1212 1212 1212"], 300).tokens.slice(256)) expect(token).toBe("Ġ1");
  });

  test("fewer than 256 tokens are refused", () => {
    const message = "trainBytePairs: tokens must be an integer of at least 256; got tokens=255.";
    expect(() => trainBytePairs([], 255)).toThrow(message);
  });
});

describe("byte characters", () => {
  test("are GPT-2's: 256 different ones, with Ġ for a space and Ċ for a line end", () => {
    expect(new Set(BYTE_CHARACTERS).size).toBe(256);
    expect(toByteCharacters(" a\né\u00ad")).toBe("ĠaĊÃ©ÂŃ");
  });
});

describe("tokenizerFiles, read by @huggingface/tokenizers", () => {
  test("any text comes back exactly", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (text) => {
        expect(mini.decode(mini.encode(text, plain))).toBe(text);
      }),
      { numRuns: 60 },
    );
    for (const text of ["  two  spaces \n\n\t tabs", "naïve 日本 👩‍🚀 — “x”", "don't 3.14 + 2", story(99_991)]) {
      expect(mini.decode(mini.encode(text, plain))).toBe(text);
    }
  });

  test("special tokens stand at 0 and 1, and the begin token before a text", () => {
    expect([mini.bosTokenId, mini.eosTokenId]).toEqual([0, 1]);
    const ids = mini.encode("The cat", plain);
    expect(mini.encode("The cat")).toEqual([0, ...ids]);
  });

  test("a story takes about one token for every word, digit and mark", () => {
    const text = story(77_777);
    expect(mini.encode(text, plain).length / countPieces(text)).toBeLessThan(1.02);
  });

  test("the tokens of a document's parts are the tokens of the whole", () => {
    for (let seed = 500; seed < 530; seed++) {
      const { parts } = storyDocument(seed, { pieces: 300, facts: 6, immediate: 0.5, repeated: 0.5 });
      const whole = parts.map(({ text }) => text).join("");
      expect(parts.flatMap(({ text }) => mini.encode(text, plain))).toEqual(mini.encode(whole, plain));
    }
  });
});
