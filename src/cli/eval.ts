/**
 * phasor eval: what policies cost a model in answers, perplexity and agreement with its full cache.
 */

import { join } from "node:path";
import { type Command, Option } from "commander";
import { createBackend, type DecoderBackendName } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import {
  answersByDepth,
  answersByDistance,
  type EvaluationRow,
  evaluate,
  evaluationCharts,
  evaluationSettings,
  evaluationTable,
  retrievalTables,
  settingName,
  storyDocuments,
} from "../evaluate/index.ts";
import { loadModel, type WeightChoice } from "../model/index.ts";
import { interruptible } from "./interrupt.ts";
import { addBackendOptions } from "./model-options.ts";
import { inOptions } from "./option-words.ts";
import { checkThreads, parseCounts, parsePolicies, parseText, parseWords, wholeNumber } from "./options.ts";
import { note, print, startProgress } from "./output.ts";
import { checkOutputFile, checkOutputFolder, makeOutputFolder, writeOutputFile } from "./output-paths.ts";
import { readText } from "./read-text.ts";

const DTYPES = ["f32", "int8", "int4"] as const;
const POLICIES = ["streamingllm", "keydiff", "snapkv"];
const BUDGETS = [64, 128, 256];
const CHARTS = ["budget", "depth", "distance"].map((by) => `retrieval-by-${by}.svg`).concat("divergence-by-budget.svg");
/** What stories are made of in memory before anything is measured. */
const MAX_DOCUMENTS = 100_000;
const MAX_PIECES = 100_000;
const MAX_TOKENS = 10_000_000;

/** What the command line asks for. */
type EvalSettings = {
  readonly model: string;
  readonly policies: string[];
  readonly budgets: number[];
  readonly rerotate: "on" | "off" | "both";
  readonly question: "hidden" | "known" | "both";
  readonly cacheDtype: (typeof DTYPES)[number][];
  readonly text?: string;
  readonly textTokens: number;
  readonly prefixTokens?: number;
  readonly documents: number;
  readonly documentPieces: number;
  readonly facts: number;
  readonly seed: number;
  readonly prefillChunk?: number;
  readonly json?: string;
  readonly svg?: string;
  readonly weights: WeightChoice;
  readonly backend: DecoderBackendName;
  readonly threads?: number;
};

/** Adds the command to the program. */
export function addEvalCommand(program: Command): void {
  const command = program
    .command("eval")
    .description("measure what a smaller cache costs: facts found, perplexity, distance from the full cache")
    .requiredOption("-m, --model <folder>", "a Hugging Face folder with a tokenizer", parseText)
    .option("--json <file>", "write every row and answer to a file", parseText)
    .option("--svg <folder>", "write charts to a folder", parseText)
    .optionsGroup("What is compared:")
    .addOption(
      new Option("--policies <list>", "policies, as in snapkv(window=32),keydiff")
        .argParser(parsePolicies)
        .default(POLICIES, POLICIES.join(",")),
    )
    .addOption(
      new Option("--budgets <list>", "tokens kept per head").argParser(parseCounts).default(BUDGETS, BUDGETS.join(",")),
    )
    .addOption(switchOption("--rerotate <when>", "move what stays together", ["on", "off", "both"], "both"))
    .addOption(
      switchOption("--question <when>", "whether policies know the question", ["hidden", "known", "both"], "hidden"),
    )
    .addOption(
      new Option("--cache-dtype <list>", `element types of the cache: ${DTYPES.join(", ")}`)
        .argParser(parseWords(DTYPES))
        .default(["f32"], "f32"),
    )
    .option(
      "--prefill-chunk <n>",
      "tokens read between two compressions (default: as the cache decides, at most 512)",
      wholeNumber(1),
    )
    .optionsGroup("Facts planted in stories:")
    .option("--documents <n>", "stories; 0 leaves retrieval out", wholeNumber(0, MAX_DOCUMENTS), 8)
    .option("--document-pieces <n>", "words and marks of a story", wholeNumber(1, MAX_PIECES), 512)
    .option("--facts <n>", "facts planted in a story, each asked about", wholeNumber(1, MAX_PIECES), 8)
    .option("--seed <n>", "of the first story; the others follow it", wholeNumber(0), 1)
    .optionsGroup("Perplexity and agreement with the full cache:")
    .option("--text <file>", "text to predict (default: one of the project's own stories)", parseText)
    .option("--text-tokens <n>", "tokens of it to use; 0 leaves the comparison out", wholeNumber(0, MAX_TOKENS), 768)
    .option("--prefix-tokens <n>", "tokens of it that are read first (default: two thirds)", wholeNumber(1));
  addBackendOptions(command)
    .addHelpText(
      "after",
      `
The same options give the same answers. The charts are facts found by budget, by place in the text and by distance from
the question, and the distance of predictions from the full cache's by budget.

Example:
  $ phasor eval -m models/phasor-mini --policies keydiff,streamingllm --budgets 256,512 --svg charts`,
    )
    .action(evaluateModel);
}

async function evaluateModel(options: EvalSettings): Promise<void> {
  checkSettings(options);
  const text = await agreementText(options);
  if (options.json !== undefined) await checkOutputFile("eval", "json", options.json);
  if (options.svg !== undefined) await checkOutputFolder("eval", "svg", options.svg, CHARTS);
  const settings = evaluationSettings({
    policies: options.policies,
    budgets: options.budgets,
    rerotate: eachOf(options.rerotate, "on"),
    elements: options.cacheDtype,
    questionAware: eachOf(options.question, "known"),
  });
  await interruptible(async (signal) => {
    const { weights, backend, threads, prefillChunk } = options;
    using model = await loadModel(options.model, {
      backend: await createBackend({ backend, ...(threads !== undefined && { threads }) }),
      weights,
      signal,
    });
    const { tokenizer } = model;
    if (tokenizer === undefined) throw new ConfigError("eval", "a model with a tokenizer", { model: options.model });
    const documents = storyOptions(options);
    const tokens = tokenizer.encode(text).slice(0, options.textTokens);
    const prefixTokens = options.prefixTokens ?? Math.floor((2 * tokens.length) / 3);
    if (options.textTokens > 0 && tokens.length < Math.max(3, prefixTokens + 2)) {
      const { text: path = "a story" } = options;
      const got = { text: path, tokens: tokens.length, "prefix-tokens": prefixTokens };
      throw new ConfigError("eval", "a text of at least 3 tokens, and 2 behind the prefix", got);
    }
    const progress = startProgress("Evaluating");
    const start = performance.now();
    let rows: EvaluationRow[];
    try {
      rows = await evaluate(model, {
        settings,
        ...(options.textTokens > 0 && { agreement: { tokens, prefixTokens } }),
        ...(documents && { documents: storyDocuments(documents) }),
        ...(prefillChunk !== undefined && { prefillChunk }),
        signal,
        onProgress: ({ setting, done, total, answered }) =>
          progress.update(`${done + 1} of ${total}: ${settingName(setting)}${answered ? `, ${answered} answers` : ""}`),
      });
    } finally {
      progress.end();
    }
    rows = rows.map((row) => (row.refused === undefined ? row : { ...row, refused: inOptions(row.refused, "eval") }));
    await writeResults(options, rows); // first: whoever reads the tables may have had enough of them
    await print(evaluationTable(rows) + retrievalTables(rows));
    note(`${rows.length} settings in ${((performance.now() - start) / 1000).toFixed(0)} s`);
  });
}

/** The record says everything that is needed to run it again. */
async function writeResults({ json, svg, ...options }: EvalSettings, rows: readonly EvaluationRow[]): Promise<void> {
  if (json !== undefined) {
    const record = JSON.stringify({ options, rows: rows.map(withParts) }, null, 1);
    await writeOutputFile("eval", "json", json, `${record}\n`);
  }
  if (svg === undefined) return;
  await makeOutputFolder("eval", "svg", svg);
  for (const [name, chart] of evaluationCharts(rows)) await writeOutputFile("eval", "svg", join(svg, name), chart);
}

/** A row with its answers counted by depth and distance. */
function withParts(row: EvaluationRow): object {
  if (row.retrieval === undefined) return row;
  const { answers } = row.retrieval;
  const parts = { byDepth: answersByDepth(answers), byDistance: answersByDistance(answers) };
  return { ...row, retrieval: { ...row.retrieval, ...parts } };
}

/** Refuses what contradicts itself, before the model is loaded. */
function checkSettings({ documents, text, textTokens, prefixTokens, backend, threads }: EvalSettings): void {
  checkThreads("eval", backend, threads);
  if (documents === 0 && textTokens === 0) {
    const got = { documents, "text-tokens": textTokens };
    throw new ConfigError("eval", "something to measure", got, "Raise --documents or --text-tokens.");
  }
  if (textTokens === 0 && (text !== undefined || prefixTokens !== undefined)) {
    const got = { "text-tokens": textTokens, text, "prefix-tokens": prefixTokens };
    throw new ConfigError("eval", "--text and --prefix-tokens with --text-tokens above 0", got);
  }
  if (textTokens > 0 && (prefixTokens ?? 1) > textTokens - 2) {
    const got = { "text-tokens": textTokens, "prefix-tokens": prefixTokens };
    throw new ConfigError("eval", "--text-tokens at least 2 above --prefix-tokens", got);
  }
}

function storyOptions({ documents, documentPieces: pieces, facts, seed }: EvalSettings) {
  return documents > 0 ? { documents, pieces, facts, seed } : undefined;
}

async function agreementText({ text, textTokens, seed }: EvalSettings): Promise<string> {
  if (textTokens === 0) return "";
  if (text === undefined) {
    const [story] = storyDocuments({
      documents: 1,
      seed: seed + 1_000_000,
      pieces: Math.min(2 * textTokens, MAX_PIECES),
      facts: 8,
    });
    return story.text;
  }
  return readText("eval", "text", "text", text);
}

function eachOf(choice: string, on: string): boolean[] {
  return choice === "both" ? [true, false] : [choice === on];
}

function switchOption(flags: string, description: string, choices: readonly string[], initial: string): Option {
  return new Option(flags, description).choices(choices).default(initial);
}
