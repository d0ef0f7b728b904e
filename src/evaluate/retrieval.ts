/** Facts planted in long texts: which of them can a model still tell from its cache? */

import { ConfigError } from "../errors.ts";
import type { DecoderModel, ModelCache } from "../model/index.ts";
import { type AskOptions, ask, isExactAnswer } from "./ask.ts";

/** A text and questions about it. */
export type RetrievalDocument = {
  readonly text: string;
  readonly questions: readonly RetrievalQuestion[];
};

/** A question whose answer stands in the text, and nowhere else. */
export type RetrievalQuestion = {
  /** What is fed behind the text, up to where the answer begins. */
  readonly prompt: string;
  readonly answer: string;
  /** Where the fact stands: 0 at the start of the text, 1 at its end. */
  readonly depth: number;
};

/** One question, answered. */
export type RetrievalAnswer = {
  readonly document: number;
  readonly prompt: string;
  readonly expected: string;
  readonly given: string;
  readonly correct: boolean;
  readonly depth: number;
  /** Tokens from the fact to the question, about. */
  readonly distanceTokens: number;
};

/** What came of it. */
export type RetrievalResult = {
  readonly answers: readonly RetrievalAnswer[];
  /** Share of exact answers, 0 to 1. */
  readonly accuracy: number;
  /** The most bytes of rows that any document's cache held. */
  readonly peakBytes: number;
  /** Tokens of the documents, and the seconds it took to read them. */
  readonly documentTokens: number;
  readonly prefillSeconds: number;
  /** Mean over the answers. */
  readonly tokensPerSecond: number;
};

/** How documents are read. */
export type RetrievalOptions = AskOptions & {
  /** An empty cache for each document. */
  readonly createCache: () => ModelCache;
  /**
   * Read the text once for every question, with the question known: for policies that choose by it. Otherwise the text
   * is read once, and every question is asked to a fork.
   */
  readonly questionAware?: boolean;
  readonly onAnswer?: (answer: RetrievalAnswer) => void;
};

/**
 * Asks all questions of all documents.
 *
 * @throws ConfigError when there is no question, or the model has no tokenizer
 */
export async function measureRetrieval(
  model: DecoderModel,
  documents: readonly RetrievalDocument[],
  options: RetrievalOptions,
): Promise<RetrievalResult> {
  const { createCache, questionAware = false, onAnswer, signal } = options;
  const { tokenizer } = model;
  if (tokenizer === undefined) throw new ConfigError("measureRetrieval", "a model with a tokenizer");
  if (documents.every(({ questions }) => questions.length === 0)) {
    throw new ConfigError("measureRetrieval", "at least one question", { documents: documents.length });
  }
  const answers: RetrievalAnswer[] = [];
  let peakBytes = 0;
  let documentTokens = 0;
  let prefillSeconds = 0;
  let speeds = 0;

  const read = async (tokens: readonly number[], question?: string): Promise<ModelCache> => {
    const cache = createCache();
    const start = performance.now();
    await model.prefill(cache, tokens, { ...(question !== undefined && { question }), ...(signal && { signal }) });
    prefillSeconds += (performance.now() - start) / 1000;
    documentTokens += tokens.length;
    peakBytes = Math.max(peakBytes, cache.peakBytes);
    return cache;
  };
  for (const [index, { text, questions }] of documents.entries()) {
    const tokens = tokenizer.encode(text);
    const shared = questionAware ? undefined : await read(tokens);
    for (const { prompt, answer: expected, depth } of questions) {
      signal?.throwIfAborted();
      const cache = shared?.fork() ?? (await read(tokens, prompt));
      const { text: given, tokensPerSecond } = await ask(model, cache, prompt, options);
      cache.dispose();
      const correct = isExactAnswer(given, expected);
      const distanceTokens = Math.round((1 - depth) * tokens.length);
      const answer = { document: index, prompt, expected, given, correct, depth, distanceTokens };
      answers.push(answer);
      speeds += tokensPerSecond;
      onAnswer?.(answer);
    }
    shared?.dispose();
  }
  const correct = answers.filter((one) => one.correct).length;
  return {
    answers,
    accuracy: correct / answers.length,
    peakBytes,
    documentTokens,
    prefillSeconds,
    tokensPerSecond: speeds / answers.length,
  };
}

/** Answers whose facts stand in one part of the text, or of the range of distances. */
export type AnswerPart = {
  /** Included. */
  readonly from: number;
  /** Not included, but in the last part. */
  readonly to: number;
  readonly asked: number;
  /** Share of exact answers, 0 to 1. */
  readonly accuracy: number;
};

/** Parts of a text that answers are counted in. */
const DEPTH_PARTS = 5;
const MOST_DISTANCE_PARTS = 5;

/** Accuracy by where the fact stands: a fifth of the text each, from 0 at its start to 1. */
export function answersByDepth(answers: readonly RetrievalAnswer[]): AnswerPart[] {
  return accuracyBy(answers, "depth", DEPTH_PARTS);
}

/** Accuracy by tokens from the fact to the question: at most five parts of 1, 2 or 5 times a power of ten each. */
export function answersByDistance(answers: readonly RetrievalAnswer[]): AnswerPart[] {
  const most = Math.max(1, ...answers.map(({ distanceTokens }) => distanceTokens));
  const power = 10 ** Math.floor(Math.log10(most / MOST_DISTANCE_PARTS));
  const width = Math.max(1, ([1, 2, 5].find((factor) => factor * power * MOST_DISTANCE_PARTS >= most) ?? 10) * power);
  const parts = Math.ceil(most / width);
  return accuracyBy(answers, "distanceTokens", parts, parts * width);
}

/**
 * Accuracy by a number of each answer, in equal parts of its range; parts without answers are absent.
 *
 * @param most - where the range ends: 1 for depths, the largest distance unless told
 */
export function accuracyBy(
  answers: readonly RetrievalAnswer[],
  by: "depth" | "distanceTokens",
  parts: number,
  most: number = by === "depth" ? 1 : Math.max(1, ...answers.map((one) => one[by])),
): AnswerPart[] {
  const part = (answer: RetrievalAnswer): number => Math.min(parts - 1, Math.floor((answer[by] / most) * parts));
  return Array.from({ length: parts }, (_, n) => {
    const inside = answers.filter((one) => part(one) === n);
    const correct = inside.filter((one) => one.correct).length;
    const [from, to] = [(n * most) / parts, ((n + 1) * most) / parts];
    return { from, to, asked: inside.length, accuracy: correct / inside.length };
  }).filter(({ asked }) => asked > 0);
}
