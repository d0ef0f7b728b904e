/** Facts for one story, from one side of the split. */

import { fnv1a } from "../random-stream.ts";
import type { Draw } from "./draw.ts";
import { FACT_KINDS, type FactKind } from "./fact-kinds.ts";

/** A fact, with a question that only it answers. */
export type Fact = {
  /** Name of its kind, such as "code". */
  readonly kind: string;
  /** "Mira keeps the key in the cellar." */
  readonly sentence: string;
  /** "Where does Mira keep the key?" */
  readonly question: string;
  /** "in the cellar" */
  readonly answer: string;
};

/** Which facts a story may hold: those to train on, or those withheld from training. */
export type Split = "train" | "held-out";

/** One in this many pairs of subject and value is withheld. */
const WITHHELD = 8;
/** Tries to find subjects that the story has not, before there are fewer facts than wanted. */
const TRIES = 64;

/** Whether a pair of subject and value is withheld from training. */
export function isWithheld(kind: string, subject: string, value: string): boolean {
  return (fnv1a(`${kind}|${subject}|${value}`) >>> 11) % WITHHELD === 0;
}

/**
 * Facts of so many kinds: with fewer kinds than facts they have others like them. No subject has two values of a kind, and
 * no value of a kind comes twice while there are others.
 */
export function drawFacts(draw: Draw, count: number, kindCount: number, split: Split): Fact[] {
  const kinds = draw.shuffle(FACT_KINDS).slice(0, kindCount);
  const taken = new Set<string>();
  const facts: Fact[] = [];
  for (let n = 0; n < count; n++) {
    const fact = drawFact(draw, draw.pick(kinds), split, taken);
    if (fact) facts.push(fact);
  }
  return facts;
}

function drawFact(draw: Draw, kind: FactKind, split: Split, taken: Set<string>): Fact | undefined {
  const { name } = kind;
  for (let tries = 0; tries < TRIES; tries++) {
    const subject = kind.subject(draw);
    const value = kind.value(draw);
    if (isWithheld(name, subject, value) !== (split === "held-out")) continue;
    if (taken.has(`${name} of ${subject}`) || (taken.has(`${name} is ${value}`) && tries < TRIES / 2)) continue;
    taken.add(`${name} of ${subject}`).add(`${name} is ${value}`);
    return {
      kind: name,
      sentence: kind.sentence(subject, value),
      question: kind.question(subject),
      answer: kind.answer(subject, value),
    };
  }
  return undefined;
}
