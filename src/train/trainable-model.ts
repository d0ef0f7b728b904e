/** A decoder whose weights are trained, from a config or from a checkpoint, and back into a model folder. */

import { numberToBf16, numberToF16 } from "../dtype.ts";
import type { TrainingBackend } from "../engine/index.ts";
import { CapabilityError, FormatError } from "../errors.ts";
import type { DecoderWeights } from "../model/decoder-weights.ts";
import {
  createMemoryFiles,
  createTokenizer,
  type DecoderConfig,
  DecoderModel,
  describeModel,
  type ModelDescription,
  type ModelFiles,
  openCheckpoint,
  type Tokenizer,
  writeSafetensors,
} from "../model/index.ts";
import { type Tensor, tensor, toF32 } from "../tensor.ts";
import { initialise } from "./initialise.ts";
import { listParameters, Parameters, weightsByRole } from "./parameters.ts";

/** Element types that weights can be written in. */
export const EXPORT_DTYPES = ["f32", "f16", "bf16"] as const;

/** One of them. */
export type ExportDType = (typeof EXPORT_DTYPES)[number];

/** A parsed config.json. */
export type ModelJson = Readonly<Record<string, unknown>>;

/** Files that go along with a model unchanged. */
const COMPANIONS = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "generation_config.json",
  "chat_template.jinja",
] as const;

const MAX_FILE_BYTES = 2 ** 27;

/** How a trainable model is made. */
export type TrainableOptions = {
  /** Where it trains. */
  readonly backend: TrainingBackend;
  /** What config.json shall say instead of what it says: see `extendContext`. */
  readonly changeConfig?: (json: ModelJson) => ModelJson;
};

/**
 * A model with new weights.
 *
 * @param files - a folder with config.json; a tokenizer and generation settings go along when they are there
 * @param options - `seed` of the weights, an integer from 0 to 2^53 − 1
 * @throws ConfigError when config.json is missing, of an unknown architecture or has a bad value
 * @throws CapabilityError when the backend does not train
 * @throws BudgetError when the backend's memory does not hold weights, gradients and moments
 */
export async function createTrainable(
  files: ModelFiles,
  options: TrainableOptions & { readonly seed: number },
): Promise<TrainableModel> {
  const model = await prepare("createTrainable", files, options);
  initialise(model.parameters, model.weights, options.seed);
  return model;
}

/**
 * A model with the weights of a checkpoint, converted to f32.
 *
 * @param files - a Hugging Face folder
 * @throws as `createTrainable`, and FormatError for damaged weights or weights that do not fit the config
 */
export async function loadTrainable(files: ModelFiles, options: TrainableOptions): Promise<TrainableModel> {
  const checkpoint = await openCheckpoint(files);
  const model = await prepare("loadTrainable", files, options);
  for (const [name, weight] of model.parameters.entries()) {
    const { shape } = checkpoint.info(name);
    if (shape.join() !== weight.shape.join()) {
      const hint = "config.json and the weight file do not belong together.";
      throw new FormatError(
        "loadTrainable",
        `tensor ${name} must have shape [${weight.shape.join(", ")}]`,
        { shape },
        hint,
      );
    }
    weight.data.set(toF32(await checkpoint.read(name)));
  }
  return model;
}

async function prepare(where: string, files: ModelFiles, options: TrainableOptions): Promise<TrainableModel> {
  const { backend } = options;
  if (typeof (backend as Partial<TrainingBackend>).attendForTraining !== "function") {
    throw new CapabilityError(
      where,
      "a backend that trains",
      { backend: backend.name },
      "createTrainingBackend makes one.",
    );
  }
  const original = await files.readJson("config.json", MAX_FILE_BYTES);
  const json = options.changeConfig ? options.changeConfig(original as ModelJson) : (original as ModelJson);
  const companions = new Map<string, string>();
  for (const name of COMPANIONS) {
    if (await files.has(name)) companions.set(name, await files.readText(name, MAX_FILE_BYTES));
  }
  const texts = new Map<string, string>([["config.json", JSON.stringify(json)], ...companions]);
  const description = await describeModel(createMemoryFiles(texts));
  const parameters = new Parameters(await listParameters(description), backend);
  const weights = await weightsByRole(description, parameters);
  return new TrainableModel({ json, companions, description, parameters, weights, backend });
}

type TrainableParts = {
  json: ModelJson;
  companions: ReadonlyMap<string, string>;
  description: ModelDescription;
  parameters: Parameters;
  weights: DecoderWeights;
  backend: TrainingBackend;
};

/** Weights in training, with all that a model folder holds beside them. */
export class TrainableModel {
  readonly config: DecoderConfig;
  readonly parameters: Parameters;
  readonly weights: DecoderWeights;
  readonly backend: TrainingBackend;
  /** config.json. */
  readonly json: ModelJson;
  readonly #companions: ReadonlyMap<string, string>;
  readonly #description: ModelDescription;

  constructor({ json, companions, description, parameters, weights, backend }: TrainableParts) {
    this.config = description.config;
    this.parameters = parameters;
    this.weights = weights;
    this.backend = backend;
    this.json = json;
    this.#companions = companions;
    this.#description = description;
  }

  /** Token ids that end a text. */
  get stopTokenIds(): readonly number[] {
    return this.#description.generation.stopTokenIds;
  }

  /**
   * The model to run as it is now: it shares weights and backend with this one, so that it changes with every step and
   * must not be disposed of while training goes on.
   */
  asModel(): DecoderModel {
    const { config, generation } = this.#description;
    const tokenizer = this.#tokenizer();
    return new DecoderModel({
      config,
      weights: this.weights,
      backend: this.backend,
      generation,
      ...(tokenizer && { tokenizer }),
    });
  }

  /**
   * The files of a Hugging Face folder with the present weights.
   *
   * @param dtype - element type of the weights
   * @returns config.json, model.safetensors, and the tokenizer and generation settings the model came with
   */
  async toFiles(dtype: ExportDType): Promise<Map<string, string | Uint8Array>> {
    await this.backend.flush();
    const tensors: [string, Tensor][] = [];
    for (const [name, weight] of this.parameters.entries()) tensors.push([name, convert(weight, dtype)]);
    const names = { f32: "float32", f16: "float16", bf16: "bfloat16" };
    const { dtype: _, ...json } = this.json;
    const config = { ...json, torch_dtype: names[dtype] };
    return new Map<string, string | Uint8Array>([
      ["config.json", `${JSON.stringify(config, null, 2)}\n`],
      ["model.safetensors", writeSafetensors(tensors, { format: "pt" })],
      ...this.#companions,
    ]);
  }

  /** Gives the memory of weights, gradients and moments back. */
  release(): void {
    this.parameters.release(this.backend);
  }

  #tokenizer(): Tokenizer | undefined {
    const definition = this.#companions.get("tokenizer.json");
    if (definition === undefined) return undefined;
    return createTokenizer(JSON.parse(definition), JSON.parse(this.#companions.get("tokenizer_config.json") ?? "{}"));
  }
}

function convert({ shape, data }: Tensor<"f32">, dtype: ExportDType): Tensor {
  if (dtype === "f32") return tensor(dtype, shape, data.slice());
  return tensor(dtype, shape, Uint16Array.from(data, dtype === "f16" ? numberToF16 : numberToBf16));
}
