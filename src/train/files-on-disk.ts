/** Checkpoints and models on disk, for Node, Deno and Bun. Imported when needed, so that browsers never load it. */

import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ConfigError } from "../errors.ts";
import { createFileSource } from "../model/weights/file-source.ts";
import type { CheckpointStore } from "./checkpoint.ts";

/** Bytes per write: below the 2 GiB that one call can take. */
const CHUNK_BYTES = 2 ** 26;

/**
 * A checkpoint in one file.
 *
 * @param path - of the file; its folder is made when it is missing
 */
export function createCheckpointFile(path: string): CheckpointStore {
  return {
    name: path,
    read: async () => {
      try {
        await stat(path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
        throw failed(path, error);
      }
      const file = createFileSource(path);
      return file.read(0, await file.size());
    },
    write: (bytes) => writeAtomically(path, bytes),
  };
}

/**
 * Writes a model folder; every file is whole at every moment.
 *
 * @param files - names and contents
 */
export async function writeModelFolder(path: string, files: ReadonlyMap<string, string | Uint8Array>): Promise<void> {
  for (const [name, content] of files) {
    await writeAtomically(join(path, name), typeof content === "string" ? new TextEncoder().encode(content) : content);
  }
}

/** Writes beside the file, waits until the disk has it, then takes its name. */
export async function writeAtomically(path: string, bytes: Uint8Array): Promise<void> {
  const beside = `${path}.part`;
  try {
    await makeFolder(dirname(path));
    const file = await open(beside, "w");
    try {
      for (let at = 0; at < bytes.length; at += CHUNK_BYTES) await file.writeFile(bytes.subarray(at, at + CHUNK_BYTES));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(beside, { force: true }).catch(() => {});
    throw failed(path, error);
  }
}

/**
 * Makes a folder and those it lies in, where they are missing. (Node's own way never returns in places where nothing can be
 * made, such as /proc.)
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const there = await stat(path).catch(() => undefined);
    if (there?.isDirectory()) return;
    const parent = dirname(path);
    const isParentMissing = (await stat(parent).catch(() => undefined)) === undefined;
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || parent === path || !isParentMissing) throw error;
    await makeFolder(parent);
    await mkdir(path);
  }
}

/** The new name must survive a power failure, too. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === "win32") return; // folders cannot be opened there
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** What the system refused, as an error that names the file. */
export function failed(path: string, error: unknown): ConfigError {
  const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
  return new ConfigError(path, "a file that can be read and written", { error: code }, "Check path, rights and space.");
}
