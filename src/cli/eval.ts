/**
 * phasor eval: what policies cost a model in answers, perplexity and agreement with its full cache.
 */

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { createBackend, DECODER_BACKENDS, type DecoderBackendName } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import {
  type EvaluationRow,
  evaluate,
  evaluationCharts,
  evaluationSettings,
  evaluationTable,
  settingName,
  storyDocuments,
} from "../evaluate/index.ts";
import { loadModel, WEIGHT_CHOICES, type WeightChoice } from "../model/index.ts";
import { interruptible } from "./interrupt.ts";
import { parseInteger, parseIntegers, parsePolicies, parseWords } from "./options.ts";
import { note, print, startProgress } from "./output.ts";
import { readText } from "./read-text.ts";

const DTYPES = ["f32", "int8", "int4"] as const;
const POLICIES = "streamingllm,keydiff,snapkv";
const BUDGETS = [64, 128, 256];

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
  program
    .command("eval")
    .description("measure what a smaller cache costs: facts found, perplexity, distance from the full cache")
    .requiredOption("-m, --model <folder>", "a Hugging Face folder")
    .option("--policies <list>", "policies to compare, as in snapkv(window=32),keydiff", parsePolicies, [
      ...POLICIES.split(","),
    ])
    .option("--budgets <list>", "tokens kept per head", parseIntegers, BUDGETS)
    .addOption(switchOption("--rerotate <when>", "move what stays together", ["on", "off", "both"], "both"))
    .addOption(
      switchOption("--question <when>", "whether policies know the question", ["hidden", "known", "both"], "hidden"),
    )
    .option("--cache-dtype <list>", `element types of the cache: ${DTYPES.join(", ")}`, parseWords(DTYPES), ["f32"])
    .option("--text <file>", "text for perplexity and agreement; default: one of the project's own stories")
    .option("--text-tokens <n>", "tokens of it to use; 0 leaves the comparison out", parseInteger, 768)
    .option("--prefix-tokens <n>", "tokens of it that are read first; default: two thirds", parseInteger)
    .option("--documents <n>", "stories with planted facts; 0 leaves retrieval out", parseInteger, 8)
    .option("--document-pieces <n>", "words and marks of a story", parseInteger, 512)
    .option("--facts <n>", "facts planted in a story, each asked about", parseInteger, 8)
    .option("--seed <n>", "of the first story", parseInteger, 1)
    .option("--prefill-chunk <n>", "tokens read between two compressions", parseInteger)
    .option("--json <file>", "write every row and answer to a file")
    .option("--svg <folder>", "write charts to a folder")
    .addOption(
      new Option("--weights <type>", "element type the matrices are loaded as")
        .choices(WEIGHT_CHOICES)
        .default("stored"),
    )
    .addOption(new Option("--backend <name>", "where the model runs").choices(DECODER_BACKENDS).default("wasm"))
    .option("--threads <n>", "worker threads of the wasm backend; default: one a core", parseInteger)
    .action(evaluateModel);
}

async function evaluateModel(options: EvalSettings): Promise<void> {
  checkCounts(options);
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
    const tokens = tokenizer.encode(await agreementText(options)).slice(0, options.textTokens);
    const prefixTokens = options.prefixTokens ?? Math.floor((2 * tokens.length) / 3);
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
    await print(evaluationTable(rows));
    await writeResults(options, rows);
    note(`${rows.length} settings in ${((performance.now() - start) / 1000).toFixed(0)} s`);
  });
}

/** The record says everything that is needed to run it again. */
async function writeResults({ json, svg, ...options }: EvalSettings, rows: readonly EvaluationRow[]): Promise<void> {
  if (json !== undefined) await writeFile(json, `${JSON.stringify({ options, rows }, null, 1)}\n`);
  if (svg === undefined) return;
  await mkdir(svg, { recursive: true });
  for (const [name, chart] of evaluationCharts(rows)) await writeFile(join(svg, name), chart);
}

/** Refuses what would have every setting refused, before the model is loaded. */
function checkCounts({ documents, textTokens, prefillChunk = 1 }: EvalSettings): void {
  if (documents < 0 || textTokens < 0 || prefillChunk < 1) {
    throw new ConfigError("eval", "counts that are not negative, and a chunk of at least 1 token", {
      documents,
      "text-tokens": textTokens,
      "prefill-chunk": prefillChunk,
    });
  }
}

function storyOptions({ documents, documentPieces: pieces, facts, seed }: EvalSettings) {
  return documents > 0 ? { documents, pieces, facts, seed } : undefined;
}

async function agreementText({ text, textTokens, seed }: EvalSettings): Promise<string> {
  if (textTokens === 0) return "";
  if (text === undefined) {
    const [story] = storyDocuments({ documents: 1, seed: seed + 1_000_000, pieces: 2 * textTokens, facts: 8 });
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
