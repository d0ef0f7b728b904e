/** Snapshots on disk, for Node, Deno and Bun. Kept out of the folder's index, so that browsers never load it. */

import { randomUUID } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { SnapshotChunks } from "./snapshot.ts";

const CHUNK_BYTES = 2 ** 20;

/**
 * Writes a snapshot to a file. The file is replaced at once when everything has reached the disk: whatever happens
 * before that (an error, a killed process, no space) leaves the old one as it is. A killed process may leave a file
 * named `.<name>.<random>.tmp` behind.
 *
 * @param path - the file
 * @param chunks - what `saveSnapshot` gives
 */
export async function writeSnapshotFile(path: string, chunks: SnapshotChunks): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  try {
    const file = await open(temporary, "wx");
    try {
      for await (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/**
 * Reads a file in chunks, for `restoreSnapshot`.
 *
 * @param path - the file
 */
export async function* readSnapshotFile(path: string): AsyncGenerator<Uint8Array> {
  const file = await open(path, "r");
  try {
    for (;;) {
      const { bytesRead, buffer } = await file.read(new Uint8Array(CHUNK_BYTES), 0, CHUNK_BYTES);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}
