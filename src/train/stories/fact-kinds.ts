/**
 * What can be planted in a story and asked about it.
 *
 * A fact ties a value to a subject; every value goes with every subject, so that only the text tells which it is.
 */

import type { Draw } from "./draw.ts";
import { pronounsOf, withArticle } from "./grammar.ts";
import * as words from "./words.ts";

/** One kind of fact. */
export type FactKind = {
  readonly name: string;
  /** A subject, as it stands in the sentence and the question. */
  readonly subject: (draw: Draw) => string;
  /** A value, as it stands in the sentence. */
  readonly value: (draw: Draw) => string;
  /** The fact as a sentence. */
  readonly sentence: (subject: string, value: string) => string;
  readonly question: (subject: string) => string;
  /** The answer, a run of words of the sentence. */
  readonly answer: (subject: string, value: string) => string;
};

const PEOPLE = [...words.WOMEN, ...words.MEN];
const person = (draw: Draw): string => draw.pick(PEOPLE);
const town = (draw: Draw): string => draw.pick(words.TOWNS);
const colored = (draw: Draw, nouns: readonly string[]): string => `${draw.pick(words.COLORS)} ${draw.pick(nouns)}`;
const valueOnly = (_subject: string, value: string): string => value;

/** "Mira's dog" is kept as "Mira dog": both words are needed apart. */
const parts = (subject: string): [string, string] => subject.split(" ", 2) as [string, string];

/** All kinds. */
export const FACT_KINDS: readonly FactKind[] = [
  {
    name: "code",
    subject: (draw) => colored(draw, words.LOCKED),
    value: (draw) => draw.pick(words.DIGITS) + draw.pick(words.DIGITS) + draw.pick(words.DIGITS),
    sentence: (subject, value) => `The code of the ${subject} is ${value}.`,
    question: (subject) => `What is the code of the ${subject}?`,
    answer: valueOnly,
  },
  {
    name: "password",
    subject: town,
    value: (draw) => `${draw.pick(words.PASSWORDS)} ${draw.pick(words.PASSWORDS)}`,
    sentence: (subject, value) => `The password of the guards in ${subject} is ${value}.`,
    question: (subject) => `What is the password of the guards in ${subject}?`,
    answer: valueOnly,
  },
  {
    name: "keeps",
    subject: (draw) => `${person(draw)} ${draw.pick(words.THINGS)[0]}`,
    value: (draw) => draw.pick(words.PLACES),
    sentence: (subject, value) => `${parts(subject)[0]} keeps the ${parts(subject)[1]} in the ${value}.`,
    question: (subject) => `Where does ${parts(subject)[0]} keep the ${parts(subject)[1]}?`,
    answer: (_, value) => `in the ${value}`,
  },
  {
    name: "train",
    subject: town,
    value: (draw) => draw.pick(words.HOURS),
    sentence: (subject, value) => `The train to ${subject} leaves at ${value}.`,
    question: (subject) => `When does the train to ${subject} leave?`,
    answer: (_, value) => `at ${value}`,
  },
  {
    name: "color",
    subject: person,
    value: (draw) => draw.pick(words.COLORS),
    sentence: (subject, value) => `The favorite color of ${subject} is ${value}.`,
    question: (subject) => `What is the favorite color of ${subject}?`,
    answer: valueOnly,
  },
  {
    name: "bought",
    subject: person,
    value: (draw) => draw.pick(words.GOODS),
    sentence: (subject, value) => `${subject} bought ${withArticle(value)} at the fair.`,
    question: (subject) => `What did ${subject} buy at the fair?`,
    answer: (_, value) => withArticle(value),
  },
  {
    name: "pet",
    subject: (draw) => `${person(draw)} ${draw.pick(words.PETS)}`,
    value: (draw) => draw.pick(words.PET_NAMES),
    sentence: (subject, value) => {
      const [owner, animal] = parts(subject);
      return `${owner} calls ${pronounsOf(owner).possessive} ${animal} ${value}.`;
    },
    question: (subject) => {
      const [owner, animal] = parts(subject);
      return `What does ${owner} call ${pronounsOf(owner).possessive} ${animal}?`;
    },
    answer: valueOnly,
  },
  {
    name: "home",
    subject: person,
    value: town,
    sentence: (subject, value) => `${subject} lives in ${value}.`,
    question: (subject) => `Where does ${subject} live?`,
    answer: (_, value) => `in ${value}`,
  },
  {
    name: "letter",
    subject: person,
    value: town,
    sentence: (subject, value) => `The letter for ${subject} came from ${value}.`,
    question: (subject) => `Where did the letter for ${subject} come from?`,
    answer: (_, value) => `from ${value}`,
  },
  {
    name: "spice",
    subject: (draw) => `${draw.pick(words.VEGETABLES)[0]} ${draw.pick(words.DISHES)}`,
    value: (draw) => draw.pick(words.SPICES),
    sentence: (subject, value) => `The secret of the ${subject} is ${value}.`,
    question: (subject) => `What is the secret of the ${subject}?`,
    answer: valueOnly,
  },
  {
    name: "opens",
    subject: (draw) => `${draw.pick(words.SHOPS)} in ${town(draw)}`,
    value: (draw) => draw.pick(words.DAYS),
    sentence: (subject, value) => `The ${subject} opens on ${value}.`,
    question: (subject) => `When does the ${subject} open?`,
    answer: (_, value) => `on ${value}`,
  },
  {
    name: "grows",
    subject: person,
    value: (draw) => draw.pick(words.PLANTS),
    sentence: (subject, value) => `${subject} grows ${value} in the garden.`,
    question: (subject) => `What does ${subject} grow in the garden?`,
    answer: valueOnly,
  },
  {
    name: "job",
    subject: person,
    value: (draw) => draw.pick(words.JOBS),
    sentence: (subject, value) => `${subject} works as ${withArticle(value)}.`,
    question: (subject) => `What does ${subject} work as?`,
    answer: (_, value) => withArticle(value),
  },
  {
    name: "price",
    subject: (draw) => colored(draw, words.GOODS),
    value: (draw) => draw.pick(words.HOURS.slice(1)),
    sentence: (subject, value) => `The ${subject} costs ${value} coins.`,
    question: (subject) => `How much does the ${subject} cost?`,
    answer: (_, value) => `${value} coins`,
  },
  {
    name: "cargo",
    subject: (draw) => draw.pick(words.BOATS),
    value: (draw) => draw.pick(words.CARGOES),
    sentence: (subject, value) => `The boat ${subject} carries ${value}.`,
    question: (subject) => `What does the boat ${subject} carry?`,
    answer: valueOnly,
  },
];
