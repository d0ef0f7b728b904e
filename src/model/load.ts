/**
 * From a folder of files to a model that runs.
 */

import { ConfigReader } from "../config-reader.ts";
import { type Backend, createBackend, type WeightType } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import type { DecoderConfig } from "./config.ts";
import { WeightLoader } from "./decoder-weights.ts";
import type { Family } from "./families/family.ts";
import { familyOf } from "./families/index.ts";
import { type GenerationConfig, readGenerationConfig } from "./generation-config.ts";
import { DecoderModel } from "./language-model.ts";
import { createTokenizer, type Tokenizer } from "./tokenizer.ts";
import { checkWeightChoice, type KeptType, type WeightChoice } from "./weight-choice.ts";
import { type ModelFiles, openCheckpoint } from "./weights/index.ts";

/** How far loading has come. */
export type LoadProgress = {
  /** The tensor just loaded. */
  readonly tensor: string;
  /** The element type it is kept in. */
  readonly loadedAs: WeightType;
  /** Whether it keeps the type of the file since its rows are not whole blocks of the type asked for. */
  readonly fallback: boolean;
  readonly loadedTensors: number;
  readonly totalTensors: number;
};

/** Options of {@link loadModel}. */
export type LoadOptions = {
  /** Where the model runs; WASM on all cores when absent. It holds nothing of a model that fails to load. */
  backend?: Backend;
  /**
   * Element type of the matrices, which are converted one at a time as they are read; "stored", the type of the file,
   * when absent. Vectors are f32. With q4_0 the output head is q8_0; rows that are not whole blocks of 32 stay as stored.
   */
  weights?: WeightChoice;
  onProgress?: (progress: LoadProgress) => void;
  /** Stops loading between tensors. */
  signal?: AbortSignal;
};

/** The text files of a model folder, read and understood. */
export type ModelDescription = {
  readonly config: DecoderConfig;
  readonly generation: GenerationConfig;
  readonly family: Family;
  readonly reader: ConfigReader;
};

const MAX_CONFIG_BYTES = 2 ** 22;
const MAX_TOKENIZER_BYTES = 2 ** 27;

/**
 * Loads a decoder from a Hugging Face folder: config.json, model.safetensors (or its shards), and, when present,
 * generation_config.json, tokenizer.json and tokenizer_config.json.
 *
 * @param folder - a path (Node, Deno, Bun), or the files themselves (anywhere)
 * @returns the model, ready to run
 * @throws ConfigError for a missing file, an unknown architecture, a bad config value, an unknown type of weights, or
 * the name of a backend in place of one
 * @throws FormatError for damaged files, and tensors that do not fit the config or the type of weights
 */
export async function loadModel(folder: string | ModelFiles, options: LoadOptions = {}): Promise<DecoderModel> {
  const choice = checkWeightChoice("loadModel", options.weights ?? "stored");
  if (options.backend !== undefined && typeof options.backend !== "object") {
    throw new ConfigError(
      "loadModel",
      "backend must be what createBackend gives",
      { backend: options.backend },
      'Pass backend: await createBackend({ backend: "reference" }), for example.',
    );
  }
  const files = typeof folder === "string" ? await openModelFolder(folder) : folder;
  const { config, generation, family, reader } = await describeModel(files);
  const tokenizer = await loadTokenizer(files);
  const checkpoint = await openCheckpoint(files, options.signal);
  const backend = options.backend ?? (await createBackend());

  let loadedTensors = 0;
  const totalTensors = checkpoint.names().length;
  const onTensor = (tensor: string, { type, fallback }: KeptType): void => {
    loadedTensors++;
    options.onProgress?.({ tensor, loadedAs: type, fallback, loadedTensors, totalTensors });
  };
  const keeping = { weights: choice, headTensor: family.headTensor(config) };
  const loader = new WeightLoader(checkpoint, backend, onTensor, options.signal, keeping);
  try {
    const weights = await family.loadWeights(loader, config, reader);
    return new DecoderModel({ config, weights, backend, generation, ...(tokenizer && { tokenizer }) });
  } catch (error) {
    if (options.backend) loader.release();
    else backend.dispose(); // nobody else knows of it
    throw error;
  }
}

/**
 * Reads a model folder's configs without its weights.
 *
 * @throws ConfigError for a missing config.json, an unknown architecture or a bad value
 */
export async function describeModel(files: ModelFiles): Promise<ModelDescription> {
  const json = await files.readJson("config.json", MAX_CONFIG_BYTES);
  const reader = new ConfigReader("config.json", json);
  const family = familyOf(reader);
  const config = family.readConfig(reader, json);
  const generationJson = await readOptional(files, "generation_config.json");
  return { config, generation: readGenerationConfig(reader, generationJson), family, reader };
}

/** The files of a folder on disk. */
export async function openModelFolder(path: string): Promise<ModelFiles> {
  // Imported when needed: the file system is not there in browsers.
  const source = await import("./weights/file-source.ts");
  return source.openModelFolder(path);
}

async function loadTokenizer(files: ModelFiles): Promise<Tokenizer | undefined> {
  const tokenizer = await readOptional(files, "tokenizer.json", MAX_TOKENIZER_BYTES);
  if (tokenizer === undefined) return undefined;
  return createTokenizer(tokenizer, (await readOptional(files, "tokenizer_config.json")) ?? {});
}

async function readOptional(files: ModelFiles, name: string, maxBytes = MAX_CONFIG_BYTES): Promise<unknown> {
  return (await files.has(name)) ? files.readJson(name, maxBytes) : undefined;
}
