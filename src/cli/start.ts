/**
 * phasor start: what `npm start` runs. A text several times too long for the cache it gets is read, questions are asked
 * about it, and ways to forget are shown side by side.
 */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { type Command, Option } from "commander";
import { parsePolicy } from "../compress/index.ts";
import { createBackend } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import { isExactAnswer, measureRetrieval, type RetrievalDocument, type RetrievalResult } from "../evaluate/index.ts";
import { type CacheReport, type DecoderModel, loadModel, type ModelCacheOptions } from "../model/index.ts";
import { questionPrompt } from "../train/stories/index.ts";
import { interruptible } from "./interrupt.ts";
import { threadsOption } from "./model-options.ts";
import { collect, parseText, wholeNumber } from "./options.ts";
import { print, startProgress } from "./output.ts";
import { formatBytes } from "./parse-bytes.ts";
import { readText } from "./read-text.ts";

/** The model and the text that ship with the package. */
const MINI = fileURLToPath(new URL("../../models/phasor-mini", import.meta.url));
const TEXT = fileURLToPath(new URL("../../models/phasor-mini/text.json", import.meta.url));

type StartSettings = {
  readonly model: string;
  readonly file?: string;
  readonly ask?: readonly string[];
  readonly budget: number;
  readonly threads?: number;
  readonly json?: boolean;
};

/** A way to keep a cache. */
type Way = {
  readonly name: string;
  readonly questionAware: boolean;
  readonly options: (budget: number) => ModelCacheOptions;
};

/** What leaves lines of 80 columns. */
const [SAMPLE_LETTERS, ANSWER_LETTERS] = [72, 50];
/** Tokens that SnapKV always keeps; a budget must exceed them. */
const WINDOW = 16;

const small = (policy: string, rerotate: boolean) => (budget: number) => {
  return { policy: parsePolicy(policy), budget, rerotate };
};

const WAYS: readonly Way[] = [
  { name: "everything kept", questionAware: false, options: () => ({}) },
  { name: "SnapKV, re-rotated", questionAware: true, options: small(`snapkv(window=${WINDOW})`, true) },
  { name: "SnapKV, not re-rotated", questionAware: true, options: small(`snapkv(window=${WINDOW})`, false) },
  { name: "KeyDiff, re-rotated", questionAware: false, options: small("keydiff", true) },
  { name: "oldest dropped", questionAware: false, options: small("streamingllm", true) },
];

/** A way, tried. */
type Trial = { readonly way: Way; readonly result: RetrievalResult };

/** Adds the command to the program. */
export function addStartCommand(program: Command): void {
  program
    .command("start")
    .description("read a long text into a small cache, ask about it, and show what was forgotten")
    .addOption(
      new Option("-m, --model <folder>", "a Hugging Face folder with a tokenizer")
        .argParser(parseText)
        .default(MINI, "phasor-mini, which ships"),
    )
    .option("-f, --file <path>", "another text; needs --ask (default: the one that ships)", parseText)
    .option(
      "--ask <question>",
      "a question about the text; may be given several times (default: the ten that ship)",
      collect,
    )
    .option("--budget <n>", "tokens that a small cache keeps per head", wholeNumber(WINDOW + 1), 512)
    .addOption(threadsOption())
    .option("--json", "print one JSON object instead of the text")
    .addHelpText(
      "after",
      `
Examples (with npm start, options stand behind --):
  $ npm start -- --budget 256
  $ npm start -- --file book.txt --ask "Who had the key?" --ask "Where was the lamp?"
  $ npm start -- --model path/to/a/llama --budget 1024 --json

The other commands; "npx phasor help COMMAND" tells all about each:
  $ npx phasor generate   continue a prompt, or answer questions about a text, in a cache of any budget
  $ npx phasor eval       what policies cost: facts found, perplexity, distance from the full cache
  $ npx phasor inspect    a model's architecture, rotary positions and memory
  $ npx phasor train      a new model, or a longer context for a trained one`,
    )
    .action(start);
}

async function start(settings: StartSettings): Promise<void> {
  const document = await readDocument(settings);
  await interruptible(async (signal) => {
    const { budget, threads } = settings;
    using model = await loadModel(settings.model, {
      backend: await createBackend(threads === undefined ? {} : { threads }),
      signal,
    });
    if (model.tokenizer === undefined)
      throw new ConfigError("start", "a model with a tokenizer", { model: settings.model });
    if (budget >= model.maxPositions) {
      const got = { budget, positions: model.maxPositions };
      throw new ConfigError("start", "a budget below the model's positions", got, "Lower --budget.");
    }
    const length = model.tokenizer.encode(document.text).length;
    const progress = startProgress("Reading");
    const trials: Trial[] = [];
    let forgotten: CacheReport;
    try {
      for (const way of WAYS) {
        let answered = 0;
        const tell = (): void => progress.update(`${way.name}: ${answered} of ${document.questions.length} answers`);
        tell();
        const result = await measureRetrieval(model, [document], {
          createCache: () => model.createCache(way.options(budget)),
          questionAware: way.questionAware,
          signal,
          onAnswer: () => {
            answered++;
            tell();
          },
        });
        trials.push({ way, result });
      }
      forgotten = await whatWasForgotten(model, document, budget, signal);
    } finally {
      progress.end();
    }
    if (settings.json) await print(`${JSON.stringify({ length, budget, trials, forgotten }, null, 1)}\n`);
    else await print(describe(document, length, budget, trials, forgotten, model));
  });
}

/** The report of a cache that was filled with the first question known. */
async function whatWasForgotten(
  model: DecoderModel,
  { text, questions }: RetrievalDocument,
  budget: number,
  signal: AbortSignal,
): Promise<CacheReport> {
  const cache = model.createCache(WAYS[1].options(budget));
  await model.prefill(cache, text, { question: questions[0].prompt, signal });
  const report = cache.report();
  cache.dispose();
  return report;
}

function describe(
  { questions }: RetrievalDocument,
  length: number,
  budget: number,
  trials: readonly Trial[],
  forgotten: CacheReport,
  model: DecoderModel,
): string {
  const known = questions.some(({ answer }) => answer !== "");
  const times = length / budget;
  const fits = times > 1 ? `${times.toFixed(1)} times too small` : "which holds all of it";
  const head = ["", "question", ...(known ? ["answers"] : []), "cache, most", "tokens/s"];
  const rows = trials.map(({ way, result }) => {
    const correct = result.answers.filter((one) => one.correct).length;
    return [
      way.name,
      way.options(budget).budget === undefined ? "" : way.questionAware ? "known" : "hidden",
      ...(known ? [`${correct} of ${questions.length}`] : []),
      formatBytes(result.peakBytes),
      result.tokensPerSecond.toFixed(0),
    ];
  });
  const lines = [
    `A text of ${length} tokens, a cache of ${budget}: ${fits}.`,
    `The model was trained on texts of up to ${model.maxPositions} tokens.`,
    "",
    ...table([head, ...rows]),
    "",
    ...questions.flatMap(({ prompt, answer, depth }, n) => [
      `${prompt.replace(/^Question: /, "").replace(/\nAnswer:$/, "")}${known ? `  (${answer}; told at ${percent(depth)})` : ""}`,
      ...trials.map(({ way, result }) => {
        const { given } = result.answers[n];
        const mark = known ? (isExactAnswer(given, answer) ? "✓ " : "✗ ") : "";
        return `    ${way.name.padEnd(24)}${mark}${shortened(given, ANSWER_LETTERS)}`;
      }),
    ]),
    "",
    ...describeForgotten(forgotten),
    "",
  ];
  return lines.join("\n");
}

function describeForgotten(report: CacheReport): string[] {
  const who = `What "${WAYS[1].name}" forgot for the first question: `;
  if (report.forgotten.length === 0) return [`${who}nothing.`, "Some head holds every token."];
  const texts = samples(report).filter((text) => text !== "");
  const share = `${who}${forgottenShare(report)} of the text`;
  return texts.length === 0 ? [`${share}.`] : [`${share}, as`, ...texts.map((text) => `    … ${text} …`)];
}

/** The share of tokens that no head holds. */
function forgottenShare({ forgotten, tokensSeen }: CacheReport): string {
  return percent(forgotten.reduce((sum, { range: [from, to] }) => sum + to - from, 0) / tokensSeen);
}

/** The longest runs of text that are gone, in the order of the text. */
function samples({ forgotten }: CacheReport): string[] {
  const longest = [...forgotten].sort((a, b) => b.range[1] - b.range[0] - (a.range[1] - a.range[0])).slice(0, 3);
  return longest
    .sort((a, b) => a.range[0] - b.range[0])
    .map(({ text = "" }) => shortened(text.replaceAll(/\s+/g, " ").trim(), SAMPLE_LETTERS));
}

/** Columns as wide as their widest cell, the first aligned to the left. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0].map((_, n) => Math.max(...rows.map((cells) => cells[n].length)));
  return rows.map((cells) =>
    cells.map((cell, n) => (n === 0 ? cell.padEnd(widths[n]) : cell.padStart(widths[n]))).join("   "),
  );
}

/** At most so many letters, whole words where there are any. */
function shortened(text: string, most: number): string {
  if (text.length <= most) return text;
  const start = text.slice(0, most + 1);
  const end = start.lastIndexOf(" ");
  return start.slice(0, end > 0 ? end : most);
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** The text that ships, or the caller's with the caller's questions. */
async function readDocument({ file, ask = [] }: StartSettings): Promise<RetrievalDocument> {
  const own = ask.map((question) => ({ prompt: questionPrompt(question), answer: "", depth: 0 }));
  if (file === undefined) {
    const shipped = JSON.parse(await readFile(TEXT, "utf8")) as RetrievalDocument;
    return own.length > 0 ? { ...shipped, questions: own } : shipped;
  }
  if (own.length === 0)
    throw new ConfigError("start", "questions about the text", { file }, "Give --ask once or more.");
  const text = await readText("start", "text", "file", file);
  if (text.trim() === "") throw new ConfigError("start", "a text", { file, characters: text.length });
  return { text, questions: own };
}
