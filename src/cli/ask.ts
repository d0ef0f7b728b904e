/**
 * phasor generate --ask: a text is read once, and questions are asked of what the cache kept of it.
 */

import { BudgetError } from "../errors.ts";
import { generate } from "../generate/index.ts";
import type { DecoderModel, ModelCache } from "../model/index.ts";
import { questionPrompt } from "../train/stories/index.ts";
import type { GenerateSettings } from "./generate.ts";
import { samplerOptions } from "./options.ts";
import { note, print, startProgress } from "./output.ts";

/** What is asked of what. */
export type Inquiry = {
  readonly model: DecoderModel;
  /** Empty, or with an earlier text. */
  readonly cache: ModelCache;
  /** May be empty where the cache is not. */
  readonly text: string;
  readonly questions: readonly string[];
  readonly settings: GenerateSettings;
  readonly signal: AbortSignal;
};

const MAX_ANSWER_TOKENS = 64;

/**
 * Reads the text and answers every question from a fork of its own. A single question is known while the text is read,
 * so that policies can choose by it; of several, none is.
 */
export async function ask({ model, cache, text, questions, settings, signal }: Inquiry): Promise<void> {
  checkContext({ model, cache, text, questions, settings });
  if (text !== "") await read({ model, cache, text, questions, signal });
  const { saveCache, stop = ["\n"], maxNewTokens = MAX_ANSWER_TOKENS } = settings;
  if (saveCache !== undefined) await cache.save(saveCache);
  const answers: { question: string; answer: string }[] = [];
  for (const question of questions) {
    const branch = cache.fork();
    const run = generate(model, questionPrompt(question), {
      ...samplerOptions({ temperature: 0, ...settings }),
      ...(settings.context !== undefined && { maxPositions: settings.context }),
      maxNewTokens,
      stopStrings: stop,
      cache: branch,
      signal,
    });
    if (!settings.json) await print(run.promptText);
    for await (const piece of run) if (!settings.json) await print(piece.text);
    if (!settings.json) await print("\n");
    answers.push({ question, answer: run.summary.newText.trim() });
    branch.dispose();
  }
  if (settings.json) await print(`${JSON.stringify({ answers, cache: cache.report() })}\n`);
}

/** Refuses before the text is read what would be refused behind it. */
function checkContext({ model, cache, text, questions, settings }: Omit<Inquiry, "signal">): void {
  if (cache.closesGaps || !model.tokenizer) return;
  const { tokenizer } = model;
  const context = settings.context ?? model.maxPositions;
  const textTokens = text === "" ? 0 : tokenizer.encode(text).length;
  const lengths = questions.map((question) => tokenizer.encode(questionPrompt(question)).length);
  const questionTokens = Math.max(...lengths);
  const cachedPositions = cache.nextPosition;
  if (cachedPositions + textTokens + questionTokens <= context) return;
  throw new BudgetError(
    "generate",
    `text and question must fit the context of ${context} positions`,
    { cachedPositions, textTokens, questionTokens },
    "Give --budget with --rerotate to read a longer text, or raise --context if the model can go further.",
  );
}

async function read({ model, cache, text, questions, signal }: Omit<Inquiry, "settings">): Promise<void> {
  const progress = startProgress("Reading");
  const [question] = questions;
  try {
    const { tokens, seconds } = await model.prefill(cache, text, {
      ...(questions.length === 1 && { question: questionPrompt(question) }),
      signal,
      onProgress: ({ readTokens, totalTokens }) => progress.update(`Reading: ${readTokens} of ${totalTokens} tokens`),
    });
    note(`${tokens} tokens read in ${seconds.toFixed(2)} s, ${(tokens / seconds).toFixed(0)} tokens/s`);
  } finally {
    progress.end();
  }
}
