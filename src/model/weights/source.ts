/**
 * Where the bytes of a model come from. A {@link WeightSource} is one file with random access, {@link ModelFiles} a
 * folder of them; disk, memory and HTTP implement both.
 */

import { BudgetError, ConfigError, FormatError } from "../../errors.ts";

/** One file, read a range at a time. */
export interface WeightSource {
  /** The file's path or address, for messages. */
  readonly name: string;

  /**
   * @returns the file's size in bytes
   * @throws ConfigError when there is no such file
   */
  size(): Promise<number>;

  /**
   * Reads exactly `length` bytes from `offset`. Holds no more than that. The result may share memory with the
   * source, so it must not be written to.
   *
   * @param offset - first byte
   * @param length - number of bytes
   * @param signal - stops reading; the promise then rejects with its reason
   * @throws FormatError when the file ends before
   * @throws ConfigError when there is no such file
   */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
}

/** A folder of named files. */
export interface ModelFiles {
  /** The folder's path or address, for messages. */
  readonly name: string;
  /** Whether the folder has the file `name`. */
  has(name: string): Promise<boolean>;
  /** The file `name`; that it exists shows when it is read. */
  open(name: string): WeightSource;
  /**
   * The file `name` as text.
   *
   * @throws ConfigError when it is missing
   * @throws FormatError when it is longer than `maxBytes` or not UTF-8
   */
  readText(name: string, maxBytes: number): Promise<string>;
  /**
   * The file `name` as JSON.
   *
   * @throws ConfigError when it is missing
   * @throws FormatError when it is longer than `maxBytes` or not JSON in UTF-8
   */
  readJson(name: string, maxBytes: number): Promise<unknown>;
}

/**
 * A folder from the two things that differ between folders. Names that are not plain file names are refused before
 * `has` or `open` sees them.
 *
 * @param name - the folder's path or address, for messages
 */
export function createModelFiles(
  name: string,
  has: (file: string) => Promise<boolean>,
  open: (file: string) => WeightSource,
): ModelFiles {
  const openPlain = (file: string): WeightSource => {
    if (!isPlainFileName(file)) throw new ConfigError(name, "a file name without a path", { name: file });
    return open(file);
  };
  return {
    name,
    has: async (file) => isPlainFileName(file) && (await has(file)),
    open: openPlain,
    readText: async (file, maxBytes) => readText(openPlain(file), maxBytes),
    readJson: async (file, maxBytes) => {
      const source = openPlain(file);
      return parseJson(source.name, await readText(source, maxBytes));
    },
  };
}

/** Whether `name` is a file of a folder, and not a path that could lead out of it. */
export function isPlainFileName(name: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused.
  return name !== "" && name !== "." && name !== ".." && name.length <= 255 && !/[/\\:\u0000-\u001f]/.test(name);
}

/**
 * Refuses a range that the file does not have.
 *
 * @throws FormatError
 */
export function checkRange(name: string, offset: number, length: number, size: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (whole && length <= size - offset) return;
  throw new FormatError(
    name,
    "the bytes asked for must lie within the file",
    { byteOffset: offset, length, size },
    "The file is truncated or damaged.",
  );
}

/**
 * Room for `length` bytes.
 *
 * @throws BudgetError when the runtime has no room
 */
export function allocateBytes(name: string, length: number): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(length);
  } catch {
    throw new BudgetError(name, "memory for the bytes asked for", { length });
  }
}

/** The error of a file that is not there. */
export function missingFile(name: string): ConfigError {
  return new ConfigError(name, "the file must exist", {}, "Check the path, or download the file again.");
}

async function readText(source: WeightSource, maxBytes: number): Promise<string> {
  const size = await source.size();
  if (size > maxBytes) throw new FormatError(source.name, `a text file of at most ${maxBytes} bytes`, { size });
  const bytes = await source.read(0, size);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new FormatError(source.name, "text in UTF-8", { size }, "The file is damaged.");
  }
}

function parseJson(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FormatError(name, "valid JSON", { reason }, "The file is truncated or damaged.");
  }
}
