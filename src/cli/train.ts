/**
 * phasor train: a new model from a config, or a checkpoint trained further, also at a longer context.
 */

import { mkdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Command, Option } from "commander";
import { createTrainingBackend, DECODER_BACKENDS, type DecoderBackendName } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import { createModelFiles, createTokenizer, type ModelFiles, openModelFolder, type Tokenizer } from "../model/index.ts";
import {
  createTrainable,
  EXPORT_DTYPES,
  type ExportDType,
  extendContext,
  loadTrainable,
  type ModelJson,
  openCheckpointFile,
  packDocuments,
  packOnce,
  parseExtension,
  SCHEDULES,
  type StepReport,
  saveModelFolder,
  type TokenDocument,
  type TrainableModel,
  type TrainOptions,
  train,
} from "../train/index.ts";
import { interruptible } from "./interrupt.ts";
import { collect, parseInteger, parseNumber } from "./options.ts";
import { note, type Progress, startProgress } from "./output.ts";
import { readDocuments } from "./train-documents.ts";
import { TrainingLog } from "./train-log.ts";

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

const DEFAULT_CONTEXT = 512;
const DEFAULT_ROWS = 8;
/** Learning rates of new and of trained weights. */
const NEW_RATE = 1e-3;
const TRAINED_RATE = 1e-4;

/** Adds the command to the program. */
export function addTrainCommand(program: Command): void {
  program
    .command("train")
    .description("train a new model, or a checkpoint further")
    .requiredOption("-o, --out <folder>", "where model, log, loss curve and checkpoint go")
    .addOption(new Option("--config <path>", "config.json of a new model").conflicts("model"))
    .option("-m, --model <folder>", "a Hugging Face folder to train further")
    .option("--tokenizer <path>", "tokenizer.json or its folder; default: the model's, or the one beside the config")
    .requiredOption("-d, --data <path>", "text or .jsonl to train on; may be given several times", collect)
    .option("--eval-data <path>", "held-out text or .jsonl; may be given several times", collect)
    .option("--hold-out <fraction>", "documents held out when there is no --eval-data", parseNumber, 0.02)
    .option("--rope-scaling <type:factor>", "a longer context by linear, yarn, ntk or llama3, for example yarn:4")
    .option(
      "--context <n>",
      `tokens of the longest text; default: the model's, at most ${DEFAULT_CONTEXT}`,
      parseInteger,
    )
    .option("--batch-tokens <n>", `tokens of a batch; default: ${DEFAULT_ROWS} contexts`, parseInteger)
    .option("--accumulate <n>", "batches per step", parseInteger, 1)
    .requiredOption("--steps <n>", "steps of the whole run", parseInteger)
    .option(
      "--learning-rate <r>",
      `default: ${NEW_RATE} for a new model, ${TRAINED_RATE} for a trained one`,
      parseNumber,
    )
    .addOption(new Option("--schedule <name>", "shape of the learning rate").choices(SCHEDULES).default("cosine"))
    .option("--warmup <n>", "steps of rising learning rate; default: a fiftieth", parseInteger)
    .option("--decay-steps <n>", "steps of the fall of warmup-stable-decay; default: a tenth", parseInteger)
    .option("--floor <fraction>", "of the learning rate, where it ends", parseNumber, 0.1)
    .option("--weight-decay <w>", "of matrices", parseNumber, 0.1)
    .option("--clip <norm>", "largest norm of the gradient", parseNumber, 1)
    .option("--qk-clip <score>", "scale down heads whose largest score passes this", parseNumber)
    .option("--recompute", "less memory for a quarter more arithmetic")
    .option("--eval-every <n>", "steps between evaluations", parseInteger, 100)
    .option("--checkpoint <path>", "default: checkpoint.safetensors in the folder")
    .option("--checkpoint-every <n>", "steps between checkpoints", parseInteger, 100)
    .option("--resume", "go on from the checkpoint, if there is one")
    .option("--seed <n>", "of new weights and of the order of documents", parseInteger, 0)
    .addOption(new Option("--dtype <type>", "of the weights written at the end").choices(EXPORT_DTYPES).default("f32"))
    .addOption(new Option("--backend <name>", "where the model trains").choices(DECODER_BACKENDS).default("wasm"))
    .option("--threads <n>", "worker threads of the wasm backend; default: one a core", parseInteger)
    .addHelpText("after", "\nCtrl-C ends the run after the step at hand with a checkpoint; --resume goes on from it.")
    .action(async (settings: TrainSettings) => {
      await trainModel(settings);
    });
}

/** Reads model and data, trains, and writes the result. */
export async function trainModel(settings: TrainSettings): Promise<void> {
  if (settings.config === undefined && settings.model === undefined) {
    throw new ConfigError("train", "--config for a new model or --model for a trained one");
  }
  const extension = settings.ropeScaling === undefined ? undefined : parseExtension(settings.ropeScaling);
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
      await makeFolder(out);
      if (settings.checkpoint !== undefined) await makeFolder(dirname(settings.checkpoint));
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

/** Now rather than when the first checkpoint is due. */
async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch((error: NodeJS.ErrnoException) => {
    throw new ConfigError(path, "a folder that is there or can be made", { error: error.code });
  });
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
  const { steps, accumulate, recompute = false, qkClip, seed, schedule: type, floor, decaySteps } = settings;
  const { maxPositions } = model.config;
  const extended = settings.ropeScaling === undefined ? DEFAULT_CONTEXT : maxPositions;
  const contextTokens = settings.context ?? Math.min(maxPositions, extended);
  const packing = { contextTokens, batchTokens: settings.batchTokens ?? DEFAULT_ROWS * contextTokens, seed };
  const { training, heldOut } = await readData(settings, model, files, signal);
  if (heldOut.length === 0) note("phasor: nothing is held out to evaluate on; --eval-data names some");
  const warmupSteps = settings.warmup ?? Math.min(steps - 1, Math.ceil(steps / 50));
  const { weightDecay, clip, learningRate = settings.model === undefined ? NEW_RATE : TRAINED_RATE } = settings;
  return {
    model,
    data: packDocuments(training, packing),
    ...{ steps, accumulate, recompute, optimizer: { learningRate, weightDecay, clip } },
    schedule: { type, warmupSteps, floor, ...(decaySteps !== undefined && { decaySteps }) },
    ...(qkClip !== undefined && { qkClip }),
    ...(heldOut.length > 0 && {
      evaluation: { everySteps: settings.evalEvery, batches: packOnce(heldOut, packing) },
    }),
    checkpoint: {
      store: await openCheckpointFile(settings.checkpoint ?? join(settings.out, "checkpoint.safetensors")),
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
    if (evalData) return { training: documents, heldOut: await readDocuments(evalData, options) };
    if (!(holdOut >= 0 && holdOut < 1)) throw new ConfigError("train", "--hold-out from 0 to below 1", { holdOut });
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
  const progress: Progress = startProgress(`Training ${count.toLocaleString("en-US")} parameters`);
  const line = new ProgressLine(steps);
  try {
    return await train({
      ...options,
      onStep: async (report) => {
        await log.step(report);
        progress.update(line.step(report));
      },
      onEvaluation: async (report) => {
        await log.evaluation(report);
        line.heldOutLoss = report.loss;
        if (!process.stderr.isTTY) note(line.text());
      },
    });
  } finally {
    progress.end();
    await log.draw();
  }
}

/** What the progress line says. */
export class ProgressLine {
  heldOutLoss: number | undefined;
  readonly #steps: number;
  #last: StepReport | undefined;
  /** Means over the last steps, later ones counting more. */
  #seconds = 0;
  #tokens = 0;
  #loss = 0;

  /** @param steps - of the whole run */
  constructor(steps: number) {
    this.#steps = steps;
  }

  /** Takes a step in; returns the line. */
  step(report: StepReport): string {
    const share = this.#last === undefined ? 1 : 0.05;
    this.#seconds += share * (report.seconds - this.#seconds);
    this.#tokens += share * (report.tokens - this.#tokens);
    this.#loss += share * (report.loss - this.#loss);
    this.#last = report;
    return this.text();
  }

  /** The line. */
  text(): string {
    const step = this.#last?.step ?? 0;
    const heldOut = this.heldOutLoss === undefined ? "" : `, held out ${this.heldOutLoss.toFixed(3)}`;
    const speed = Math.round(this.#tokens / this.#seconds).toLocaleString("en-US");
    const left = formatDuration((this.#steps - step) * this.#seconds);
    return `step ${step} of ${this.#steps}, loss ${this.#loss.toFixed(3)}${heldOut}, ${speed} tokens/s, ${left} left`;
  }
}

/** A duration in its two largest units: "42 s", "3 min 20 s", "1 h 5 min". */
export function formatDuration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
