/**
 * phasor generate: a prompt in, its continuation out, as it is made.
 */

import { buffer as readAll } from "node:stream/consumers";
import { type Command, Option } from "commander";
import { parsePolicy } from "../compress/index.ts";
import { createBackend, type DecoderBackendName } from "../engine/index.ts";
import { BudgetError, ConfigError, type ErrorValues, FormatError, PhasorError } from "../errors.ts";
import { createSampler, type GenerationSummary, generate, type SamplerOptions } from "../generate/index.ts";
import {
  type DecoderModel,
  loadModel,
  type ModelCache,
  type ModelCacheOptions,
  type WeightChoice,
} from "../model/index.ts";
import { ask } from "./ask.ts";
import {
  addCacheOptions,
  type CacheSettings,
  cacheOptions,
  checkCacheSettings,
  describeCache,
  forgets,
} from "./cache-settings.ts";
import { interruptible } from "./interrupt.ts";
import { addBackendOptions } from "./model-options.ts";
import { checkThreads, collect, collectStops, parseNumber, parseText, samplerOptions, wholeNumber } from "./options.ts";
import { note, print, startProgress } from "./output.ts";
import { checkReplacedFile } from "./output-paths.ts";
import { formatBytes } from "./parse-bytes.ts";
import { checkInputFile, decodeText, readText } from "./read-text.ts";

/** Ctrl-C is looked at between forwards, and a forward of a large model on the CPU takes a second per token. */
const PREFILL_CHUNK = 64;

/** What the command line asks for. */
export type GenerateSettings = SamplerOptions &
  CacheSettings & {
    readonly model: string;
    readonly prompt?: string;
    readonly file?: string;
    readonly maxNewTokens?: number;
    readonly context?: number;
    readonly stop?: readonly string[];
    readonly prefillChunk?: number;
    readonly ask?: readonly string[];
    readonly saveCache?: string;
    readonly loadCache?: string;
    readonly json?: boolean;
    readonly weights?: WeightChoice;
    readonly backend?: DecoderBackendName;
    readonly threads?: number;
  };

/** Adds the command to the program. */
export function addGenerateCommand(program: Command): void {
  const command = program
    .command("generate")
    .description("continue a prompt, or answer questions about it, and show the text as it is made")
    .requiredOption(
      "-m, --model <folder>",
      "a Hugging Face folder: config.json, safetensors, tokenizer.json",
      parseText,
    )
    .option("-p, --prompt <text>", "the text to continue; - reads it from stdin (default: empty)")
    .addOption(new Option("-f, --file <path>", "read the prompt from a file").argParser(parseText).conflicts("prompt"))
    .option("--ask <question>", "read the prompt and answer a question about it; may be given several times", collect)
    .option("--json", "print one JSON object instead of the text")
    .optionsGroup("Length:")
    .option(
      "-n, --max-new-tokens <n>",
      "tokens to make at most (default: as many as the context holds; 64 for an answer)",
      wholeNumber(0),
    )
    .option("--context <n>", "positions to fill at most, in tokens (default: the model's own limit)", wholeNumber(1))
    .option(
      "--stop <text>",
      "end before this text; may be given several times (default: none; a line's end for answers)",
      collectStops,
    )
    .optionsGroup("Sampling:")
    .option(
      "-t, --temperature <t>",
      "0 takes the best token (default: the model's own, or 0; 0 for answers)",
      parseNumber,
    )
    .option("--top-k <k>", "sample among the k best tokens; 0 for all (default: the model's own, or 0)", wholeNumber(0))
    .option(
      "--top-p <p>",
      "sample among the fewest tokens with this probability together (default: the model's own, or 1)",
      parseNumber,
    )
    .option(
      "--min-p <p>",
      "sample among tokens at least p times as probable as the best (default: the model's own, or 0)",
      parseNumber,
    )
    .option(
      "--repetition-penalty <r>",
      "above 1 makes tokens that occurred less likely (default: the model's own, or 1)",
      parseNumber,
    )
    .option("--seed <n>", "repeats a sampled text (default: a new one, which is told)", wholeNumber(0));
  addCacheOptions(command)
    .option(
      "--prefill-chunk <n>",
      `prompt tokens per forward (default: ${PREFILL_CHUNK}; up to 512 where the cache forgets)`,
      wholeNumber(1),
    )
    .option("--save-cache <path>", "keep the cache in a file: after the prompt with --ask, else at the end", parseText)
    .option(
      "--load-cache <path>",
      "go on from a cache that was kept, with the same --cache-dtype and room for its rows",
      parseText,
    );
  addBackendOptions(command)
    .addHelpText(
      "after",
      `
One newline at the end of a prompt from stdin or a file is left out.

Examples:
  $ phasor generate -m models/phasor-mini -f long.txt --ask "Who had the key?" --budget 512 --policy keydiff --rerotate
  $ phasor generate -m models/phasor-mini -p "One day" -t 0.8 --seed 7 -n 100`,
    )
    .action(async (settings: GenerateSettings) => {
      await generateText(settings);
    });
}

/** Loads the model, runs it, and prints text and statistics. */
export async function generateText(settings: GenerateSettings): Promise<void> {
  // What can be refused is refused before the model is loaded.
  createSampler(samplerOptions(settings));
  checkThreads("generate", settings.backend, settings.threads);
  checkCacheSettings("generate", settings);
  checkQuestion(settings);
  checkContinuation(settings);
  checkSaving(settings);
  const { loadCache, saveCache, prefillChunk } = settings;
  if (loadCache !== undefined) await checkInputFile("generate", "cache", "file", loadCache);
  if (saveCache !== undefined) await checkReplacedFile("generate", "save-cache", saveCache);
  const prompt = await readPrompt(settings);
  checkText(settings, prompt);
  await interruptible(async (signal) => {
    using model = await load(settings, signal);
    const made = {
      ...cacheOptions(settings),
      ...(forgets(settings) && prefillChunk !== undefined && { prefillChunk }),
    };
    const cache = loadCache === undefined ? model.createCache(made) : await readCache(model, loadCache, made);
    if (settings.ask) await ask({ model, cache, text: prompt, questions: settings.ask, settings, signal });
    else await continuePrompt({ model, cache, prompt, settings, signal });
    if (saveCache !== undefined && !settings.ask) await cache.save(saveCache);
    if (forgets(settings)) note(describeCache(cache.report()));
  });
}

/** One run of the loop, shown as it goes. */
async function continuePrompt({ model, cache, prompt, settings, signal }: Continuation): Promise<void> {
  const { maxNewTokens, context, prefillChunk = PREFILL_CHUNK } = settings;
  const sampling = samplerOptions({ ...model.generation.sampling, ...settings });
  const run = generate(model, prompt, {
    ...sampling,
    ...(maxNewTokens !== undefined && { maxNewTokens }),
    ...(context !== undefined && { maxPositions: context }),
    prefillChunk,
    stopStrings: settings.stop ?? [],
    cache,
    signal,
  });
  if (settings.json) {
    await print(`${toJson(await run.finish())}\n`);
    return;
  }
  await print(run.promptText);
  try {
    for await (const piece of run) await print(piece.text);
  } finally {
    await print("\n");
  }
  note(describeRun(run.summary, (sampling.temperature ?? 0) > 0));
}

type Continuation = {
  readonly model: DecoderModel;
  readonly cache: ModelCache;
  readonly prompt: string;
  readonly settings: GenerateSettings;
  readonly signal: AbortSignal;
};

/** The statistics of a run in one line; the seed counts when tokens were sampled. */
function describeRun(summary: GenerationSummary, sampled: boolean): string {
  const { promptTokens, newTokens, seconds, tokensPerSecond, cacheBytes, stopReason, seed } = summary;
  const figures = [
    `${promptTokens} prompt + ${newTokens} new tokens in ${seconds.toFixed(2)} s`,
    `${tokensPerSecond.toFixed(1)} tokens/s`,
    `cache ${formatBytes(cacheBytes)}`,
    `ended by ${stopReason}`,
  ];
  if (sampled) figures.push(`seed ${seed}`);
  return figures.join(", ");
}

function toJson(summary: GenerationSummary): string {
  const { text, tokenIds, promptTokens, newTokens, seconds, prefillSeconds, tokensPerSecond } = summary;
  const { cacheBytes, stopReason, seed } = summary;
  return JSON.stringify({
    text,
    tokenIds,
    promptTokens,
    newTokens,
    seconds,
    prefillSeconds,
    tokensPerSecond,
    cacheBytes,
    stopReason,
    seed,
  });
}

/** Refuses a policy that looks from a question where there is not exactly one to look from. */
function checkQuestion({ policy, ask: questions = [], loadCache }: GenerateSettings): void {
  if (policy === undefined || loadCache !== undefined || questions.length === 1) return;
  const { queries, questionTokens } = parsePolicy(policy).needs;
  if (queries !== "question" && !questionTokens) return;
  throw new ConfigError(
    "generate",
    "one question, for a policy that looks from it",
    { policy, questions: questions.length },
    "Give --ask once, or a policy such as keydiff.",
  );
}

/** Refuses questions about nothing. */
function checkText({ ask: questions, loadCache }: GenerateSettings, text: string): void {
  if (questions === undefined || loadCache !== undefined || text.trim() !== "") return;
  const hint = "Give --prompt, --file or --load-cache.";
  throw new ConfigError("generate", "a text to ask about", { characters: text.length }, hint);
}

/** Refuses to save a cache that remembers tokens, to run them again. */
function checkSaving({ saveCache, onFrequencyChange }: GenerateSettings): void {
  if (saveCache === undefined || onFrequencyChange !== "reprefill") return;
  const got = { "save-cache": saveCache, "on-frequency-change": onFrequencyChange };
  throw new ConfigError("generate", "--save-cache with --on-frequency-change pin or rerotate", got);
}

/** Refuses a loaded cache with nothing to go on with. */
function checkContinuation({ loadCache, prompt = "", file, ask: questions }: GenerateSettings): void {
  if (loadCache === undefined || prompt !== "" || file !== undefined || questions !== undefined) return;
  throw new ConfigError("generate", "a text behind the loaded cache", {}, "Give --prompt, --file or --ask.");
}

/** A cache of these options, filled from a file; what does not fit together is told with what to do about it. */
async function readCache(model: DecoderModel, path: string, options: ModelCacheOptions): Promise<ModelCache> {
  const cache = model.createCache(options);
  try {
    await cache.load(path);
    return cache;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (error instanceof BudgetError) throw noRoom(path, error.got);
    if (error instanceof FormatError && error.got.kind !== undefined) {
      const got = { "cache-dtype": options.elements ?? "f32" };
      const hint = "Give --model and --cache-dtype as the cache was saved with.";
      throw new ConfigError(path, "a cache of the same model and element type", got, hint);
    }
    if (code === undefined || error instanceof PhasorError) throw error;
    throw new ConfigError("generate", "the cache file must be readable", { file: path, error: code });
  }
}

/** The model's refusal in the command line's words. */
function noRoom(path: string, got: ErrorValues): BudgetError {
  const { savedRows, savedBudget, savedMaxBytes, budget, prefillChunk, maxBytes } = got;
  const values = {
    savedRows,
    savedBudget,
    savedMaxBytes,
    budget,
    "prefill-chunk": prefillChunk,
    "max-cache-bytes": maxBytes,
  };
  return new BudgetError(
    path,
    "a cache with room for the rows that were saved",
    Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)),
    "Give --policy and --budget or --max-cache-bytes as the cache was saved with, or a larger --prefill-chunk.",
  );
}

async function load(settings: GenerateSettings, signal: AbortSignal): Promise<DecoderModel> {
  const { model: folder, weights, backend, threads } = settings;
  const progress = startProgress("Loading the model");
  try {
    return await loadModel(folder, {
      backend: await createBackend({ ...(backend && { backend }), ...(threads !== undefined && { threads }) }),
      ...(weights && { weights }),
      signal,
      onProgress: ({ loadedTensors, totalTensors }) =>
        progress.update(`Loading the model: ${loadedTensors} of ${totalTensors} tensors`),
    });
  } finally {
    progress.end();
  }
}

async function readPrompt({ prompt, file }: GenerateSettings): Promise<string> {
  if (file !== undefined) return withoutLastNewline(await readText("generate", "prompt", "file", file));
  if (prompt === "-") {
    const refusal = (): Error => new ConfigError("generate", "the prompt from stdin must be text in UTF-8");
    return withoutLastNewline(decodeText(await readAll(process.stdin), refusal));
  }
  return prompt ?? "";
}

function withoutLastNewline(text: string): string {
  return text.replace(/\r?\n$/, "");
}
