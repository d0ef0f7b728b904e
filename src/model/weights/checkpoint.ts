/** The weights of a model folder, in one safetensors file or in shards. */

import { ConfigError, FormatError } from "../../errors.ts";
import { sizeOf, type Tensor } from "../../tensor.ts";
import { openSafetensors, type SafetensorsFile, type TensorInfo } from "./safetensors.ts";
import { isPlainFileName, type ModelFiles } from "./source.ts";
import { type JsonLimits, parseStrictJson } from "./strict-json.ts";

/** The tensors of a model, wherever they lie. */
export interface Checkpoint {
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** Elements of all tensors. */
  readonly parameterCount: number;
  /** The names of the tensors. */
  names(): string[];
  /** Whether there is a tensor `name`. */
  has(name: string): boolean;
  /**
   * What is known of a tensor without reading it.
   *
   * @throws FormatError when there is no such tensor
   */
  info(name: string): TensorInfo;
  /**
   * Reads one tensor.
   *
   * @param signal - stops reading; the promise then rejects with its reason
   * @throws FormatError when there is no such tensor, its file is truncated, or its element type has no DType
   */
  read(name: string, signal?: AbortSignal): Promise<Tensor>;
}

const SINGLE_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";
const MAX_INDEX_BYTES = 2 ** 25;
const INDEX_LIMITS: JsonLimits = { maxDepth: 16, maxKeys: 2 ** 19 };

/**
 * Opens the weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
 * All headers are read and checked, and no tensor. Tensors of a shard that the index does not name are left out.
 *
 * @param files - the folder
 * @param signal - stops reading; the promise then rejects with its reason
 * @throws ConfigError when there are no weights, or a shard is missing
 * @throws FormatError when a file is damaged, or the index and the shards contradict each other
 */
export async function openCheckpoint(files: ModelFiles, signal?: AbortSignal): Promise<Checkpoint> {
  if (await files.has(SINGLE_FILE)) {
    const file = await openSafetensors(files.open(SINGLE_FILE), signal);
    return createCheckpoint(files.name, new Map([...file.tensors.keys()].map((name) => [name, file])));
  }
  if (await files.has(INDEX_FILE)) return createCheckpoint(files.name, await openShards(files, signal));
  throw new ConfigError(
    files.name,
    `${SINGLE_FILE} or ${INDEX_FILE} in the model folder`,
    {},
    "Weights in another format must be converted to safetensors first.",
  );
}

function createCheckpoint(where: string, fileOf: ReadonlyMap<string, SafetensorsFile>): Checkpoint {
  const fileWith = (name: string): SafetensorsFile => {
    const file = fileOf.get(name);
    if (file !== undefined) return file;
    const hint = "config.json and the weights do not belong together, or the weights are incomplete.";
    throw new FormatError(where, `a tensor ${JSON.stringify(name)} in the weights`, { tensors: fileOf.size }, hint);
  };
  const info = (name: string): TensorInfo => fileWith(name).tensors.get(name) as TensorInfo;
  let totalBytes = 0;
  let parameterCount = 0;
  for (const name of fileOf.keys()) {
    totalBytes += info(name).byteLength;
    parameterCount += sizeOf(info(name).shape);
  }
  return {
    totalBytes,
    parameterCount,
    names: () => [...fileOf.keys()],
    has: (name) => fileOf.has(name),
    info,
    read: async (name, readSignal) => fileWith(name).read(name, readSignal),
  };
}

/** Opens every shard of the index; returns the file of each tensor. */
async function openShards(files: ModelFiles, signal: AbortSignal | undefined): Promise<Map<string, SafetensorsFile>> {
  const weightMap = await readWeightMap(files);
  const shards = new Map<string, SafetensorsFile>();
  const fileOf = new Map<string, SafetensorsFile>();
  for (const [name, shardName] of weightMap) {
    let shard = shards.get(shardName);
    if (shard === undefined) {
      signal?.throwIfAborted();
      shard = await openShard(files, shardName, signal);
      shards.set(shardName, shard);
    }
    if (!shard.tensors.has(name)) {
      const hint = "The index and the shards do not belong together; download them again.";
      throw new FormatError(INDEX_FILE, "each tensor in the shard it names", { name, shard: shardName }, hint);
    }
    fileOf.set(name, shard);
  }
  return fileOf;
}

async function openShard(files: ModelFiles, name: string, signal: AbortSignal | undefined): Promise<SafetensorsFile> {
  if (await files.has(name)) return openSafetensors(files.open(name), signal);
  const hint = "Download the missing file into the model folder.";
  throw new ConfigError(files.name, `the shard that ${INDEX_FILE} names`, { missing: name }, hint);
}

async function readWeightMap(files: ModelFiles): Promise<[string, string][]> {
  const text = await files.readText(INDEX_FILE, MAX_INDEX_BYTES);
  const json = parseStrictJson(INDEX_FILE, text, 0, INDEX_LIMITS);
  const map = new Map(json.entries()).get("weight_map");
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new FormatError(INDEX_FILE, "weight_map must be an object", { weight_map: map });
  }
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || !isPlainFileName(shard)) {
      const hint = "The file is damaged, or made to read files outside the model folder.";
      throw new FormatError(INDEX_FILE, "weight_map must name files without a path", { name, shard }, hint);
    }
  }
  return Object.entries(map) as [string, string][];
}
