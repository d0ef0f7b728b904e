/** Documents: a story with facts planted in it, and questions about them. */

import { ConfigError } from "../../errors.ts";
import { createDraw, type Draw } from "./draw.ts";
import { drawFacts, type Fact, type Split } from "./facts.ts";
import { drawScene, openingSentence, topicSentences } from "./sentences.ts";
import { MEN, WOMEN } from "./words.ts";

/** What a document shall be like. */
export type StoryOptions = {
  /**
   * Length of the whole document in pieces: words, digits, marks and line ends, which the tokenizer of phasor-mini mostly
   * makes one token each. Documents end within a sentence's length below it; only one that is too short for a fact and its
   * question is longer than asked for.
   */
  readonly pieces: number;
  /** Facts to plant; fewer only when they do not fit. */
  readonly facts: number;
  /** Kinds of facts, such as codes and homes: the fewer, the more alike; half as many as facts when absent. */
  readonly kinds?: number;
  /** Questions at the end, about different facts; all facts when absent. */
  readonly questions?: number;
  /** Facts to repeat word by word later in the story, from 0 to 1 of them as far as there is room; 0 when absent. */
  readonly repeated?: number;
  /** Facts that are asked about right behind them, in the story, from 0 to 1 of them as far as there is room; 0 when absent. */
  readonly immediate?: number;
  /** Facts to train on unless told. */
  readonly split?: Split;
};

/** A fact and where it stands. */
export type PlantedFact = Fact & {
  /** Of its sentence in the text, in UTF-16 units. */
  readonly at: number;
};

/** A run of text and what it is for. */
export type StoryPart = {
  readonly role: "story" | "question" | "answer";
  readonly text: string;
};

/** A document. */
export type StoryDocument = {
  /** The story, without the questions at its end; ends with a line end. */
  readonly text: string;
  /** In the order of the story. */
  readonly facts: readonly PlantedFact[];
  /** The facts asked about at the end, in the order of the questions. */
  readonly questions: readonly PlantedFact[];
  /** The whole document, questions and answers included, as it is trained on. */
  readonly parts: readonly StoryPart[];
};

/** What stands before an answer, in documents and in prompts. */
export function questionPrompt(question: string): string {
  return `Question: ${question}\nAnswer:`;
}

/** An answer as it follows its prompt; the line end is what stops a model. */
export function answerText(answer: string): string {
  return ` ${answer}\n`;
}

const PIECE = /\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\n/gu;

/** Words, digits, groups of marks and line ends of a text. */
export function countPieces(text: string): number {
  return text.match(PIECE)?.length ?? 0;
}

const LONGEST_PARAGRAPH = 9;

/**
 * Makes a document.
 *
 * @param seed - an integer from 0 to 2^53 − 1; with the options it decides every word
 * @throws ConfigError for counts and fractions out of range
 */
export function storyDocument(seed: number, options: StoryOptions): StoryDocument {
  checkOptions(options);
  const {
    pieces,
    kinds = Math.ceil(options.facts / 2),
    questions = options.facts,
    repeated = 0,
    immediate = 0,
    split = "train",
  } = options;
  const draw = createDraw(seed, "story");
  const room = new Room(pieces - 1); // the line end of the story
  const facts = drawFacts(createDraw(seed, "facts"), options.facts, kinds, split).filter((fact, n) => {
    return room.take(sentencePieces(fact) + questionPieces(fact)) || n === 0;
  });
  const asked = draw.shuffle(facts).slice(0, questions);
  for (const fact of facts) if (!asked.includes(fact)) room.give(questionPieces(fact));
  const again = facts.filter((fact) => draw.chance(repeated) && room.take(sentencePieces(fact)));
  const atOnce = new Set(facts.filter((fact) => draw.chance(immediate) && room.take(1 + questionPieces(fact))));
  const filler = fillerSentences(draw, room);
  const text = new StoryText();
  const seen = new Map<Fact, PlantedFact>();
  for (const item of interleave(draw, filler, facts, again)) {
    if (typeof item === "string") text.add(item);
    else if (seen.has(item)) text.add(item.sentence);
    else {
      seen.set(item, { ...item, at: text.add(item.sentence) });
      if (atOnce.has(item)) text.ask(item);
    }
  }
  const story = text.end();
  const planted = (fact: Fact): PlantedFact => seen.get(fact) as PlantedFact;
  return {
    text: story,
    facts: [...seen.values()],
    questions: asked.map(planted),
    parts: [...text.parts, ...asked.flatMap(questionParts)],
  };
}

/** Collects sentences with the space between them. */
class StoryText {
  readonly parts: StoryPart[] = [];
  #story = "";
  #length = 0;

  /** @returns where the sentence begins */
  add(sentence: string): number {
    const joined = this.#length === 0 || this.#lastCharacter === "\n" || sentence.startsWith("\n");
    this.#story += joined ? sentence : ` ${sentence}`;
    this.#length += sentence.length + (joined ? 0 : 1);
    return this.#length - sentence.length;
  }

  ask(fact: Fact): void {
    this.#story += "\n";
    this.#length++;
    this.#closePart();
    for (const part of questionParts(fact)) {
      this.parts.push(part);
      this.#length += part.text.length;
    }
  }

  /** @returns the whole story */
  end(): string {
    if (this.#lastCharacter !== "\n") this.#story += "\n";
    this.#closePart();
    return this.parts.map(({ text }) => text).join("");
  }

  get #lastCharacter(): string {
    return this.#story.at(-1) ?? this.parts.at(-1)?.text.at(-1) ?? "\n";
  }

  #closePart(): void {
    if (this.#story !== "") this.parts.push({ role: "story", text: this.#story });
    this.#story = "";
  }
}

function questionParts({ question, answer }: Fact): StoryPart[] {
  return [
    { role: "question", text: questionPrompt(question) },
    { role: "answer", text: answerText(answer) },
  ];
}

function sentencePieces({ sentence }: Fact): number {
  return countPieces(sentence);
}

function questionPieces({ question, answer }: Fact): number {
  return countPieces(questionPrompt(question)) + countPieces(answerText(answer));
}

/** Pieces that are left for a document. */
class Room {
  #left: number;

  constructor(pieces: number) {
    this.#left = pieces;
  }

  /** @returns whether there was room */
  take(pieces: number): boolean {
    if (pieces > this.#left) return false;
    this.#left -= pieces;
    return true;
  }

  give(pieces: number): void {
    this.#left += pieces;
  }
}

/** Paragraphs, as sentences with line ends between them, as long as there is room. */
function fillerSentences(draw: Draw, room: Room): string[] {
  const people = draw.shuffle([...WOMEN, ...MEN]).slice(0, 2 + draw.below(3));
  const sentences: string[] = [];
  for (;;) {
    const scene = drawScene(draw, people);
    const first = sentences.length === 0;
    const opening = openingSentence(draw, scene, first);
    if (!room.take(countPieces(opening) + (first ? 0 : 1))) return sentences;
    sentences.push(...(first ? [opening] : ["\n", opening]));
    const topic = topicSentences(draw, scene);
    for (let n = 2 + draw.below(LONGEST_PARAGRAPH - 2); n > 0; n--) {
      const sentence = topic.next().value;
      if (!room.take(countPieces(sentence))) return sentences;
      sentences.push(sentence);
    }
  }
}

/** Puts facts at uniform depths of the story, and repetitions anywhere behind their facts. */
function interleave(
  draw: Draw,
  filler: readonly string[],
  facts: readonly Fact[],
  again: readonly Fact[],
): (string | Fact)[] {
  const depths = new Map(facts.map((fact) => [fact, draw.below(filler.length + 1)]));
  const slots: Fact[][] = Array.from({ length: filler.length + 1 }, () => []);
  for (const [fact, depth] of depths) slots[depth].push(fact);
  for (const fact of again) {
    const depth = depths.get(fact) as number;
    slots[depth + draw.below(filler.length + 1 - depth)].push(fact);
  }
  return slots.flatMap((slot, n) => (n < filler.length ? [...slot, filler[n]] : slot));
}

function checkOptions({ pieces, facts, kinds = 1, questions = 1, repeated = 0, immediate = 0 }: StoryOptions): void {
  for (const [name, count] of Object.entries({ pieces, facts, kinds, questions })) {
    if (Number.isSafeInteger(count) && count > 0) continue;
    throw new ConfigError("storyDocument", `${name} must be a positive integer`, { [name]: count });
  }
  for (const [name, fraction] of Object.entries({ repeated, immediate })) {
    if (fraction >= 0 && fraction <= 1) continue;
    throw new ConfigError("storyDocument", `${name} must be from 0 to 1`, { [name]: fraction });
  }
}
