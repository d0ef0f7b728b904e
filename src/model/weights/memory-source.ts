/** Files that are already in memory: for browsers, tests and models made on the spot. */

import { checkRange, createModelFiles, type ModelFiles, missingFile, type WeightSource } from "./source.ts";

/**
 * A file in memory. Nothing is copied: what is read shares memory with `bytes`.
 *
 * @param name - the file's name, for messages
 * @param bytes - the whole file
 */
export function createMemorySource(name: string, bytes: Uint8Array): WeightSource {
  return {
    name,
    size: async () => bytes.byteLength,
    read: async (offset, length, signal) => {
      signal?.throwIfAborted();
      checkRange(name, offset, length, bytes.byteLength);
      return bytes.subarray(offset, offset + length);
    },
  };
}

/**
 * A folder in memory.
 *
 * @param files - contents by file name; text is stored as UTF-8
 * @param name - the folder's name, for messages
 */
export function createMemoryFiles(files: ReadonlyMap<string, Uint8Array | string>, name = "memory"): ModelFiles {
  const open = (file: string): WeightSource => {
    const content = files.get(file);
    if (content === undefined) throw missingFile(file);
    return createMemorySource(file, typeof content === "string" ? new TextEncoder().encode(content) : content);
  };
  return createModelFiles(name, async (file) => files.has(file), open);
}
