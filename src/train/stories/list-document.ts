/**
 * Lists of pairs, said again in another order: the plainest texts in which the second part of a pair can only be found by
 * the first. A model learns from them soon to look things up, which stories then ask for in more words.
 */

import { ConfigError } from "../../errors.ts";
import { createDraw, type Draw } from "./draw.ts";
import { withArticle } from "./grammar.ts";
import type { StoryPart } from "./story-document.ts";
import * as words from "./words.ts";

/** What a list shall be like. */
export type ListOptions = {
  /** Length of the whole list in pieces, as of a story; lists of people end earlier when there are no more names. */
  readonly pieces: number;
  /** How often the pairs are said, the first time included. */
  readonly rounds: number;
  /** Whether both parts are single words, which is learned first; false when absent. */
  readonly plain?: boolean;
};

/** The first or second part of pairs. */
type Wording = {
  /** One of them. */
  readonly word: (draw: Draw) => string;
  /** Its pieces. */
  readonly pieces: number;
};

const THINGS = words.THINGS.map(([one]) => one);

const FIRST_WORDS: readonly string[] = [
  ...words.WOMEN,
  ...words.MEN,
  ...words.TOWNS,
  ...words.BOATS,
  ...words.SHOPS,
  ...words.GOODS,
  ...words.PETS,
  ...words.COLORS,
  ...words.LOCKED,
  ...words.VEGETABLES.map(([one]) => one),
  ...THINGS,
];

const SECOND_WORDS: readonly string[] = [
  ...words.TOWNS,
  ...words.COLORS,
  ...words.PLACES,
  ...words.HOURS,
  ...words.DAYS,
  ...words.PET_NAMES,
  ...words.SPICES,
  ...words.PLANTS,
  ...words.CARGOES,
  ...words.PASSWORDS,
  ...words.GOODS,
  ...words.JOBS,
  ...words.DIGITS,
];

const PLAIN_FIRST: Wording = { word: (draw) => draw.pick(FIRST_WORDS), pieces: 1 };
const PLAIN_SECOND: Wording = { word: (draw) => draw.pick(SECOND_WORDS), pieces: 1 };

const FIRST: readonly Wording[] = [
  PLAIN_FIRST,
  { word: (draw) => draw.pick([...words.WOMEN, ...words.MEN]), pieces: 1 },
  { word: (draw) => `${draw.pick(words.COLORS)} ${draw.pick([...words.LOCKED, ...THINGS])}`, pieces: 2 },
  { word: (draw) => `${draw.pick([...words.WOMEN, ...words.MEN])} ${draw.pick(THINGS)}`, pieces: 2 },
];

const SECOND: readonly Wording[] = [
  PLAIN_SECOND,
  { word: (draw) => `is ${draw.pick(SECOND_WORDS)}`, pieces: 2 },
  { word: (draw) => `in ${draw.pick(words.TOWNS)}`, pieces: 2 },
  { word: (draw) => `on ${draw.pick(words.DAYS)}`, pieces: 2 },
  { word: (draw) => `at ${draw.pick(words.HOURS)}`, pieces: 2 },
  { word: (draw) => `in the ${draw.pick(words.PLACES)}`, pieces: 3 },
  { word: (draw) => withArticle(draw.pick(words.GOODS)), pieces: 2 },
  { word: (draw) => `as ${withArticle(draw.pick(words.JOBS))}`, pieces: 3 },
  { word: (draw) => `${draw.pick(words.PASSWORDS)} ${draw.pick(words.PASSWORDS)}`, pieces: 2 },
  { word: (draw) => draw.pick(words.DIGITS) + draw.pick(words.DIGITS) + draw.pick(words.DIGITS), pieces: 3 },
];

/** "List:" or "Again:", and the line end. */
const ROUND_PIECES = 3;
const MOST_ROUNDS = 100;
/** Tries to find first parts that the list has not. */
const TRIES = 1000;

/**
 * Makes a list. All pairs of a list are of one wording.
 *
 * @param seed - an integer from 0 to 2^53 − 1; with the options it decides every word
 * @returns the parts of a document; from the second round on the second parts are answers
 * @throws ConfigError for counts out of range
 */
export function listDocument(seed: number, { pieces, rounds, plain = false }: ListOptions): StoryPart[] {
  checkCount("pieces", pieces, Number.MAX_SAFE_INTEGER);
  checkCount("rounds", rounds, MOST_ROUNDS);
  const draw = createDraw(seed, "list");
  const [first, second] = plain ? [PLAIN_FIRST, PLAIN_SECOND] : [draw.pick(FIRST), draw.pick(SECOND)];
  const count = Math.floor((pieces / rounds - ROUND_PIECES) / (first.pieces + second.pieces + 1));
  const list = new Map<string, string>();
  for (let tries = 0; list.size < Math.max(1, count) && tries < TRIES; tries++) {
    list.set(first.word(draw), second.word(draw));
  }
  return Array.from({ length: rounds }, (_, round) => listRound(draw, [...list], round)).flat();
}

function listRound(draw: Draw, list: readonly (readonly [string, string])[], round: number): StoryPart[] {
  const title = round === 0 ? "List:" : "Again:";
  const parts = draw.shuffle(list).flatMap(([first, second], n): StoryPart[] => [
    { role: "story", text: `${n === 0 ? title : ","} ${first}` },
    { role: round === 0 ? "story" : "answer", text: ` ${second}` },
  ]);
  return [...parts, { role: "story", text: ".\n" }];
}

function checkCount(name: string, count: number, most: number): void {
  if (Number.isInteger(count) && count > 0 && count <= most) return;
  throw new ConfigError("listDocument", `${name} must be an integer from 1 to ${most}`, { [name]: count });
}
