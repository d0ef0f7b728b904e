/**
 * phasor train: a new model from a config, or a checkpoint trained further, also at a longer context.
 */

import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Command, Option } from "commander";
import { createTrainingBackend, type DecoderBackendName } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import { createModelFiles, createTokenizer, type ModelFiles, openModelFolder, type Tokenizer } from "../model/index.ts";
import {
  type ContextExtension,
  createTrainable,
  EXPORT_DTYPES,
  type ExportDType,
  extendContext,
  type LearningRateSchedule,
  loadTrainable,
  type ModelJson,
  openCheckpointFile,
  packDocuments,
  packOnce,
  parseExtension,
  SCHEDULES,
  saveModelFolder,
  type TokenDocument,
  type TrainableModel,
  type TrainOptions,
  train,
} from "../train/index.ts";
import { checkSchedule } from "../train/learning-rate.ts";
import { checkQkClip } from "../train/qk-clip.ts";
import { interruptible } from "./interrupt.ts";
import { addThreadOptions } from "./model-options.ts";
import { checkThreads, collect, numberIn, parseFraction, parsePositive, parseText, wholeNumber } from "./options.ts";
import { note, type Progress, startProgress } from "./output.ts";
import { checkOutputFolder, checkReplacedFile, makeOutputFolder } from "./output-paths.ts";
import { checkInputFile } from "./read-text.ts";
import { readDocuments } from "./train-documents.ts";
import { TrainingLog } from "./train-log.ts";
import { PlainProgress, ProgressLine } from "./train-progress.ts";

/** What the command line asks for. */
export type TrainSettings = {
  readonly out: string;
  readonly config?: string;
  readonly model?: string;
  readonly tokenizer?: string;
  readonly data: readonly string[];
  readonly evalData?: readonly string[];
  readonly holdOut: number;
  readonly ropeScaling?: string;
  readonly context?: number;
  readonly batchTokens?: number;
  readonly accumulate: number;
  readonly steps: number;
  readonly learningRate?: number;
  readonly schedule: (typeof SCHEDULES)[number];
  readonly warmup?: number;
  readonly decaySteps?: number;
  readonly floor: number;
  readonly weightDecay: number;
  readonly clip: number;
  readonly qkClip?: number;
  readonly recompute?: boolean;
  readonly evalEvery: number;
  readonly checkpoint?: string;
  readonly checkpointEvery: number;
  readonly resume?: boolean;
  readonly seed: number;
  readonly dtype: ExportDType;
  readonly backend: DecoderBackendName;
  readonly threads?: number;
};

const CHECKPOINT = "checkpoint.safetensors";
/** What else a run writes into its folder. */
const FILES = ["config.json", "model.safetensors", "tokenizer.json", "training.jsonl", "loss.svg"];
/** Tokens of a batch. */
const MAX_BATCH = 2 ** 22;
const DEFAULT_CONTEXT = 512;
const DEFAULT_ROWS = 8;
/** Learning rates of new and of trained weights. */
const NEW_RATE = 1e-3;
const TRAINED_RATE = 1e-4;

/** Adds the command to the program. */
export function addTrainCommand(program: Command): void {
  const command = program
    .command("train")
    .description("train a new model, or a checkpoint further")
    .requiredOption("-o, --out <folder>", "where model, log, loss curve and checkpoint go", parseText)
    .addOption(new Option("--config <path>", "config.json of a new model").argParser(parseText).conflicts(["model"]))
    .option("-m, --model <folder>", "a Hugging Face folder to train further", parseText)
    .option(
      "--tokenizer <path>",
      "tokenizer.json or its folder (default: the model's, or the one beside the config)",
      parseText,
    )
    .addOption(new Option("--dtype <type>", "of the weights written at the end").choices(EXPORT_DTYPES).default("f32"))
    .optionsGroup("Data:")
    .requiredOption("-d, --data <path>", "text or .jsonl to train on; may be given several times", collect)
    .addOption(
      new Option("--eval-data <path>", "held-out text or .jsonl; may be given several times")
        .argParser(collect)
        .conflicts(["holdOut"]),
    )
    .addOption(
      new Option("--hold-out <fraction>", "of the documents, held out when there is no --eval-data")
        .argParser(parseFraction)
        .default(0.02),
    )
    .option(
      "--context <n>",
      `tokens of the longest text (default: the model's, at most ${DEFAULT_CONTEXT})`,
      wholeNumber(2),
    )
    .option(
      "--batch-tokens <n>",
      `tokens of a batch, whole contexts (default: ${DEFAULT_ROWS} contexts)`,
      wholeNumber(2, MAX_BATCH),
    )
    .option("--accumulate <n>", "batches per step", wholeNumber(1), 1)
    .option("--rope-scaling <type:factor>", "a longer context by linear, yarn, ntk or llama3, such as yarn:4")
    .optionsGroup("Steps:")
    .requiredOption("--steps <n>", "steps of the whole run", wholeNumber(1))
    .option(
      "--learning-rate <r>",
      `its largest value (default: ${NEW_RATE} for a new model, ${TRAINED_RATE} for a trained one)`,
      parsePositive,
    )
    .addOption(new Option("--schedule <name>", "shape of the learning rate").choices(SCHEDULES).default("cosine"))
    .option("--warmup <n>", "steps of rising learning rate (default: a fiftieth)", wholeNumber(0))
    .option("--decay-steps <n>", "steps of the fall of warmup-stable-decay (default: a tenth)", wholeNumber(1))
    .option("--floor <fraction>", "of the learning rate, where it ends", numberIn(0, 1), 0.1)
    .option("--weight-decay <w>", "of matrices", numberIn(0), 0.1)
    .option("--clip <norm>", "largest norm of the gradient", parsePositive, 1)
    .option("--qk-clip <score>", "scale down heads whose largest score passes this (default: never)", parsePositive)
    .option("--recompute", "less memory for a quarter more arithmetic")
    .option("--seed <n>", "of new weights and of the order of documents", wholeNumber(0), 0)
    .optionsGroup("Evaluations and checkpoints:")
    .option("--eval-every <n>", "steps between evaluations", wholeNumber(1), 100)
    .option("--checkpoint <path>", `its file (default: ${CHECKPOINT} in the folder)`, parseText)
    .option("--checkpoint-every <n>", "steps between checkpoints", wholeNumber(1), 100)
    .option("--resume", "go on from the checkpoint, if there is one");
  addThreadOptions(command)
    .addHelpText(
      "after",
      `
Ctrl-C ends the run after the step at hand with a checkpoint; --resume goes on from it.

Examples:
  $ phasor train --config config.json --tokenizer tokenizer.json -d stories.jsonl --steps 2000 -o my-model
  $ phasor train --model my-model -d long.jsonl --rope-scaling yarn:4 --steps 300 -o my-long-model`,
    )
    .action(async (settings: TrainSettings) => {
      await trainModel(settings);
    });
}

/** Reads model and data, trains, and writes the result. */
export async function trainModel(settings: TrainSettings): Promise<void> {
  const extension = checkSettings(settings);
  await checkPaths(settings);
  const files = await openFiles(settings);
  await interruptible(async (signal) => {
    const { backend: name, threads, seed, out, model: trained } = settings;
    const backend = await createTrainingBackend({ backend: name, ...(threads !== undefined && { threads }) });
    try {
      const changeConfig = extension && ((json: ModelJson) => extendContext(json, extension));
      const making = { backend, ...(changeConfig && { changeConfig }) };
      const model = await (trained === undefined
        ? createTrainable(files, { ...making, seed })
        : loadTrainable(files, making));
      const options = { ...(await runOptions(settings, model, files, signal)), signal };
      await makeOutputFolder("train", "out", out);
      const { step } = await trainWithProgress(options, settings);
      if (step < settings.steps) {
        note(`stopped after step ${step} of ${settings.steps}; the same command with --resume goes on`);
        return;
      }
      await saveModelFolder(out, await model.toFiles(settings.dtype));
      note(`the model is in ${out}`);
    } finally {
      backend.dispose();
    }
  });
}

/** Refuses options that contradict each other, before anything is read. */
function checkSettings(settings: TrainSettings): ContextExtension | undefined {
  const { config, model, ropeScaling, backend, threads, context, batchTokens } = settings;
  if (config === undefined && model === undefined) {
    throw new ConfigError("train", "--config for a new model or --model for a trained one");
  }
  checkThreads("train", backend, threads);
  checkSchedule(scheduleOf(settings), settings.steps);
  const { schedule, decaySteps } = settings;
  if (decaySteps !== undefined && schedule !== "warmup-stable-decay") {
    throw new ConfigError("train", "--decay-steps with --schedule warmup-stable-decay", { schedule, decaySteps });
  }
  if (context !== undefined && batchTokens !== undefined) checkBatch(context, batchTokens);
  return ropeScaling === undefined ? undefined : parseExtension(ropeScaling);
}

function checkBatch(context: number, batchTokens: number): void {
  if (batchTokens % context === 0) return;
  throw new ConfigError("train", "--batch-tokens a multiple of the context", { "batch-tokens": batchTokens, context });
}

/** Refuses files that cannot be read, places that cannot be written to, and a checkpoint of another run. */
async function checkPaths({ data, evalData = [], out, checkpoint, resume = false }: TrainSettings): Promise<void> {
  for (const path of data) await checkInputFile("train", "data", "data", path);
  for (const path of evalData) await checkInputFile("train", "data", "eval-data", path);
  await checkOutputFolder("train", "out", out, FILES);
  const path = checkpoint ?? join(out, CHECKPOINT);
  await checkReplacedFile("train", "checkpoint", path, true);
  const isThere = (await stat(path).catch(() => undefined)) !== undefined;
  if (!isThere || resume) return;
  const hint = "Go on from it with --resume, take it away, or name another with --checkpoint.";
  throw new ConfigError("train", "no checkpoint where the run's is to go", { checkpoint: path }, hint);
}

function scheduleOf({ schedule: type, steps, warmup, floor, decaySteps }: TrainSettings): LearningRateSchedule {
  const warmupSteps = warmup ?? Math.min(steps - 1, Math.ceil(steps / 50));
  return { type, warmupSteps, floor, ...(decaySteps !== undefined && { decaySteps }) };
}

/** The model's folder, with the tokenizer from elsewhere when one is named. */
async function openFiles({ config, model, tokenizer }: TrainSettings): Promise<ModelFiles> {
  const base = await openModelFolder(model ?? dirname(config as string));
  const isFile = tokenizer !== undefined && (await stat(tokenizer).catch(() => undefined))?.isFile();
  const vocabulary = tokenizer === undefined ? base : await openModelFolder(isFile ? dirname(tokenizer) : tokenizer);
  /** A file's folder, and its name there. */
  const place = (name: string): [ModelFiles, string] => {
    if (name === "config.json" && config !== undefined) return [base, basename(config)];
    if (name === "tokenizer.json" && isFile) return [vocabulary, basename(tokenizer)];
    return name.startsWith("tokenizer") || name === "special_tokens_map.json" ? [vocabulary, name] : [base, name];
  };
  return createModelFiles(
    base.name,
    (file) => {
      const [folder, name] = place(file);
      return folder.has(name);
    },
    (file) => {
      const [folder, name] = place(file);
      return folder.open(name);
    },
  );
}

async function runOptions(
  settings: TrainSettings,
  model: TrainableModel,
  files: ModelFiles,
  signal: AbortSignal,
): Promise<TrainOptions> {
  const { steps, accumulate, recompute = false, qkClip, seed } = settings;
  const { maxPositions } = model.config;
  const extended = settings.ropeScaling === undefined ? DEFAULT_CONTEXT : maxPositions;
  const contextTokens = settings.context ?? Math.min(maxPositions, extended);
  const packing = { contextTokens, batchTokens: settings.batchTokens ?? DEFAULT_ROWS * contextTokens, seed };
  checkBatch(contextTokens, packing.batchTokens);
  if (contextTokens > maxPositions) {
    const hint = "Raise max_position_embeddings in the config, or give --rope-scaling.";
    const got = { context: contextTokens, max_position_embeddings: maxPositions };
    throw new ConfigError("train", "a context that the model is made for", got, hint);
  }
  if (qkClip !== undefined) checkQkClip(model);
  const { training, heldOut } = await readData(settings, model, files, signal);
  if (heldOut.length === 0) note("phasor: nothing is held out to evaluate on; --eval-data names some");
  const { weightDecay, clip, learningRate = settings.model === undefined ? NEW_RATE : TRAINED_RATE } = settings;
  return {
    model,
    data: packDocuments(training, packing),
    ...{ steps, accumulate, recompute, optimizer: { learningRate, weightDecay, clip } },
    schedule: scheduleOf(settings),
    ...(qkClip !== undefined && { qkClip }),
    ...(heldOut.length > 0 && {
      evaluation: { everySteps: settings.evalEvery, batches: packOnce(heldOut, packing) },
    }),
    checkpoint: {
      store: await openCheckpointFile(settings.checkpoint ?? join(settings.out, CHECKPOINT)),
      everySteps: settings.checkpointEvery,
      resume: settings.resume ?? false,
    },
  };
}

async function readData(
  { data, evalData, holdOut }: TrainSettings,
  model: TrainableModel,
  files: ModelFiles,
  signal: AbortSignal,
): Promise<{ training: TokenDocument[]; heldOut: TokenDocument[] }> {
  const tokenizer = await readTokenizer(files, model.config.vocabSize);
  const endTokenId = model.stopTokenIds[0] ?? tokenizer?.eosTokenId;
  const progress = startProgress("Reading the documents");
  try {
    const onProgress = (count: number): void => progress.update(`Reading the documents: ${count}`);
    const options = { tokenizer, endTokenId, onProgress, signal };
    const documents = await readDocuments(data, options);
    if (documents.length === 0) throw new ConfigError("train", "documents to train on", { data });
    if (evalData) return { training: documents, heldOut: await readDocuments(evalData, options) };
    // Spread over the files, so that every kind of text is among them.
    const count = Math.floor(holdOut * documents.length);
    const held = new Set(Array.from({ length: count }, (_, n) => Math.floor(((n + 0.5) * documents.length) / count)));
    return {
      training: documents.filter((_, n) => !held.has(n)),
      heldOut: documents.filter((_, n) => held.has(n)),
    };
  } finally {
    progress.end();
  }
}

async function readTokenizer(files: ModelFiles, vocabSize: number): Promise<Tokenizer | undefined> {
  if (!(await files.has("tokenizer.json"))) return undefined;
  const MAX_BYTES = 2 ** 27;
  const has = await files.has("tokenizer_config.json");
  const config = has ? await files.readJson("tokenizer_config.json", MAX_BYTES) : {};
  const tokenizer = createTokenizer(await files.readJson("tokenizer.json", MAX_BYTES), config);
  if (tokenizer.vocabSize > vocabSize) {
    throw new ConfigError("train", "a tokenizer whose tokens the model has", {
      tokenizer: tokenizer.vocabSize,
      vocab_size: vocabSize,
    });
  }
  return tokenizer;
}

async function trainWithProgress(options: TrainOptions, { out, steps, resume }: TrainSettings) {
  const log = await TrainingLog.open(out, resume ?? false);
  const { count } = options.model.parameters;
  const title = `Training ${count.toLocaleString("en-US")} parameters`;
  const progress: Progress = startProgress(title);
  const line = new ProgressLine(steps);
  const plain = progress.isShown ? undefined : new PlainProgress(note);
  if (plain) note(title);
  try {
    return await train({
      ...options,
      onStep: async (report) => {
        await log.step(report);
        progress.update(line.step(report));
        const isLast = report.step === steps;
        const { everySteps = Infinity } = options.evaluation ?? {};
        if (options.evaluation && (isLast || report.step % everySteps === 0)) return; // told with the held-out loss
        if (isLast) plain?.always(line.text());
        else plain?.sometimes(line.text());
      },
      onEvaluation: async (report) => {
        await log.evaluation(report);
        line.heldOutLoss = report.loss;
        plain?.always(line.text());
      },
    });
  } finally {
    progress.end();
    await log.draw();
  }
}
