/**
 * Byte-pair encoding, learned: the most frequent pair of neighbours within words becomes a token, again and again.
 *
 * @see https://arxiv.org/abs/1508.07909
 */

import { ConfigError } from "../../errors.ts";
import { BYTE_CHARACTERS, toByteCharacters } from "./byte-characters.ts";

/** What was learned. */
export type BytePairs = {
  /** Tokens in byte characters: the 256 bytes, then one for every merge. */
  readonly tokens: readonly string[];
  /** Pairs in the order they are merged. */
  readonly merges: readonly (readonly [string, string])[];
};

/** A pair that comes fewer times is not worth a token. */
const MIN_COUNT = 2;

/**
 * How texts are cut before pairs are counted: words and marks with a space before them, single digits, line ends. As a
 * pattern for JavaScript (flag u) and for Hugging Face tokenizers alike.
 */
export const SPLIT_PATTERN = " ?\\p{L}+| ?\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s";

/**
 * Learns a vocabulary. Equal counts are broken by the pair that comes first in code unit order, so that the same texts in
 * any order give the same tokens.
 *
 * @param texts - to learn from
 * @param tokens - wanted, 256 or more; there are fewer when the texts hold no more pairs
 * @throws ConfigError when fewer than 256 are wanted
 */
export function trainBytePairs(texts: Iterable<string>, tokens: number): BytePairs {
  if (!Number.isSafeInteger(tokens) || tokens < BYTE_CHARACTERS.length) {
    throw new ConfigError("trainBytePairs", "tokens must be an integer of at least 256", { tokens });
  }
  const words = countWords(texts);
  const vocabulary = [...BYTE_CHARACTERS];
  const merges: [string, string][] = [];
  while (vocabulary.length < tokens) {
    const pair = mostFrequentPair(words);
    if (pair === undefined) break;
    merges.push(pair);
    vocabulary.push(pair.join(""));
    for (const word of words) word.symbols = merged(word.symbols, pair);
  }
  return { tokens: vocabulary, merges };
}

type Word = { symbols: string[]; readonly count: number };

function countWords(texts: Iterable<string>): Word[] {
  const counts = new Map<string, number>();
  const pattern = new RegExp(SPLIT_PATTERN, "gu");
  for (const text of texts) {
    for (const [word] of text.matchAll(pattern)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return Array.from(counts, ([word, count]) => ({ symbols: [...toByteCharacters(word)], count }));
}

/** Byte characters hold no spaces, so that one can stand between the two of a pair. */
function mostFrequentPair(words: readonly Word[]): [string, string] | undefined {
  const counts = new Map<string, number>();
  for (const { symbols, count } of words) {
    for (let i = 1; i < symbols.length; i++) {
      const pair = `${symbols[i - 1]} ${symbols[i]}`;
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  }
  let [best, most] = ["", MIN_COUNT - 1];
  for (const [pair, count] of counts) {
    if (count > most || (count === most && pair < best)) [best, most] = [pair, count];
  }
  return best === "" ? undefined : (best.split(" ") as [string, string]);
}

function merged(symbols: readonly string[], [first, second]: readonly [string, string]): string[] {
  const result: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === first && symbols[i + 1] === second) {
      result.push(first + second);
      i++;
    } else result.push(symbols[i]);
  }
  return result;
}
