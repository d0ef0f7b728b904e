/** Files on disk, for Node, Deno and Bun. Kept out of the folder's index, so that browsers never load it. */

import { type FileHandle, open, stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, FormatError } from "../../errors.ts";
import {
  allocateBytes,
  checkRange,
  createModelFiles,
  type ModelFiles,
  missingFile,
  type WeightSource,
} from "./source.ts";

/** Bytes per system call: small enough to stop between calls, and below the 2 GiB that one call can read. */
const CHUNK_BYTES = 2 ** 26;

/**
 * A file on disk. It is opened for each read, so nothing has to be closed.
 *
 * @param path - the file's path
 */
export function createFileSource(path: string): WeightSource {
  return {
    name: path,
    size: () => withFile(path, sizeOfFile),
    read: (offset, length, signal) =>
      withFile(path, async (file, name) => {
        signal?.throwIfAborted();
        checkRange(name, offset, length, await sizeOfFile(file, name));
        return readFully(file, name, offset, length, signal);
      }),
  };
}

/**
 * A model folder on disk.
 *
 * @param path - the folder's path
 * @throws ConfigError when there is no such folder
 */
export async function openModelFolder(path: string): Promise<ModelFiles> {
  const hint = "Give the folder that holds config.json and model.safetensors.";
  const found = await stat(path).catch((error: unknown) => {
    throw new ConfigError(path, "a model folder that can be read", { error: errorCode(error) }, hint);
  });
  if (!found.isDirectory()) throw new ConfigError(path, "a model folder, not a file", {}, hint);

  const has = async (file: string): Promise<boolean> => {
    try {
      return (await stat(join(path, file))).isFile();
    } catch (error) {
      if (errorCode(error) === "ENOENT") return false;
      throw unreadable(join(path, file), error);
    }
  };
  return createModelFiles(path, has, (file) => createFileSource(join(path, file)));
}

async function withFile<T>(path: string, use: (file: FileHandle, name: string) => Promise<T>): Promise<T> {
  const file = await open(path, "r").catch((error: unknown) => {
    throw unreadable(path, error);
  });
  try {
    return await use(file, path);
  } finally {
    await file.close();
  }
}

async function sizeOfFile(file: FileHandle, name: string): Promise<number> {
  const found = await file.stat();
  if (!found.isFile()) throw new ConfigError(name, "a file, not a folder or a device");
  return found.size;
}

async function readFully(
  file: FileHandle,
  name: string,
  offset: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const bytes = allocateBytes(name, length);
  let filled = 0;
  while (filled < length) {
    signal?.throwIfAborted();
    const { bytesRead } = await file.read(bytes, filled, Math.min(CHUNK_BYTES, length - filled), offset + filled);
    if (bytesRead === 0) {
      const got = { byteOffset: offset + filled, missing: length - filled };
      throw new FormatError(name, "the file must keep its size while it is read", got, "Load the model again.");
    }
    filled += bytesRead;
  }
  return bytes;
}

function unreadable(path: string, error: unknown): ConfigError {
  const code = errorCode(error);
  if (code === "ENOENT" || code === "ENOTDIR") return missingFile(path);
  return new ConfigError(path, "a file that can be read", { error: code }, "Check its permissions.");
}

function errorCode(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}
