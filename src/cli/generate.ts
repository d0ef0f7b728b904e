/**
 * phasor generate: a prompt in, its continuation out, as it is made.
 */

import { text as readAll } from "node:stream/consumers";
import { type Command, Option } from "commander";
import { parsePolicy } from "../compress/index.ts";
import { createBackend, DECODER_BACKENDS, type DecoderBackendName } from "../engine/index.ts";
import { ConfigError, PhasorError } from "../errors.ts";
import { createSampler, type GenerationSummary, generate, type SamplerOptions } from "../generate/index.ts";
import {
  type DecoderModel,
  loadModel,
  type ModelCache,
  type ModelCacheOptions,
  WEIGHT_CHOICES,
  type WeightChoice,
} from "../model/index.ts";
import { ask } from "./ask.ts";
import { addCacheOptions, type CacheSettings, cacheOptions, describeCache, forgets } from "./cache-settings.ts";
import { interruptible } from "./interrupt.ts";
import { collect, parseInteger, parseNumber, samplerOptions } from "./options.ts";
import { note, print, startProgress } from "./output.ts";
import { formatBytes } from "./parse-bytes.ts";
import { readText } from "./read-text.ts";

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
    .requiredOption("-m, --model <folder>", "a Hugging Face folder: config.json, safetensors, tokenizer.json")
    .option("-p, --prompt <text>", "the text to continue; - reads it from stdin; empty when absent")
    .addOption(new Option("-f, --file <path>", "read the prompt from a file").conflicts("prompt"))
    .option("-n, --max-new-tokens <n>", "tokens to make at most; default: as many as the context holds", parseInteger)
    .option("--context <n>", "positions to fill at most; default: the model's own limit", parseInteger)
    .option("-t, --temperature <t>", "0 takes the best token; default: the model's own, or 0", parseNumber)
    .option("--top-k <k>", "sample among the k best tokens", parseInteger)
    .option("--top-p <p>", "sample among the fewest tokens with this probability together", parseNumber)
    .option("--min-p <p>", "sample among tokens at least p times as probable as the best", parseNumber)
    .option("--repetition-penalty <r>", "above 1 makes tokens that occurred less likely", parseNumber)
    .option("--seed <n>", "repeats a sampled text", parseInteger)
    .option("--stop <text>", "end before this text; may be given several times", collect)
    .option("--prefill-chunk <n>", `prompt tokens per forward; default: ${PREFILL_CHUNK}`, parseInteger)
    .option("--ask <question>", "read the prompt and answer a question about it; may be given several times", collect)
    .option("--save-cache <path>", "keep the cache in a file: after the prompt with --ask, else at the end")
    .option("--load-cache <path>", "go on from a cache that was kept; the cache options must be the same")
    .addOption(
      new Option("--weights <type>", "element type the matrices are loaded as")
        .choices(WEIGHT_CHOICES)
        .default("stored"),
    )
    .addOption(new Option("--backend <name>", "where the model runs").choices(DECODER_BACKENDS).default("wasm"))
    .option("--threads <n>", "worker threads of the wasm backend; default: one a core", parseInteger)
    .option("--json", "print one JSON object instead of the text")
    .addHelpText("after", "\nOne newline at the end of a prompt from stdin or a file is left out.")
    .action(async (settings: GenerateSettings) => {
      await generateText(settings);
    });
  addCacheOptions(command);
}

/** Loads the model, runs it, and prints text and statistics. */
export async function generateText(settings: GenerateSettings): Promise<void> {
  createSampler(samplerOptions(settings)); // refuses bad values before the model is loaded
  checkQuestion(settings);
  const prompt = await readPrompt(settings);
  await interruptible(async (signal) => {
    using model = await load(settings, signal);
    const { loadCache, saveCache, prefillChunk } = settings;
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

async function readCache(model: DecoderModel, path: string, options: ModelCacheOptions): Promise<ModelCache> {
  try {
    return await model.loadCache(path, options);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined || error instanceof PhasorError) throw error;
    throw new ConfigError("generate", "the cache file must be readable", { file: path, error: code });
  }
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
  if (prompt === "-") return withoutLastNewline(await readAll(process.stdin));
  return prompt ?? "";
}

function withoutLastNewline(text: string): string {
  return text.replace(/\r?\n$/, "");
}
