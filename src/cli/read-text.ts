/** Text files named on the command line. */

import { open, readFile } from "node:fs/promises";
import { ConfigError } from "../errors.ts";

/**
 * The text of a file, without a byte order mark.
 *
 * @param where - the command, for messages
 * @param what - what the file is to it, for example "prompt"
 * @param option - the option that named it
 * @throws ConfigError with the system's error code when it cannot be read, and when it is not UTF-8
 */
export async function readText(where: string, what: string, option: string, path: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw unreadable(where, what, option, path, error);
  }
  return decodeText(bytes, () => new ConfigError(where, `the ${what} file must be text in UTF-8`, { [option]: path }));
}

/** Refuses a file that cannot be opened for reading, before it is needed. */
export async function checkInputFile(where: string, what: string, option: string, path: string): Promise<void> {
  try {
    const file = await open(path, "r");
    const isFolder = (await file.stat()).isDirectory();
    await file.close();
    if (isFolder) throw Object.assign(new Error(), { code: "EISDIR" });
  } catch (error) {
    throw unreadable(where, what, option, path, error);
  }
}

/**
 * UTF-8 as text, without a byte order mark.
 *
 * @param refusal - what is thrown for anything else
 */
export function decodeText(bytes: Uint8Array, refusal: () => Error): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw refusal();
  }
}

function unreadable(where: string, what: string, option: string, path: string, error: unknown): ConfigError {
  const { code } = error as NodeJS.ErrnoException;
  return new ConfigError(where, `the ${what} file must be readable`, { [option]: path, error: code });
}
