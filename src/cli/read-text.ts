/** Text files named on the command line. */

import { readFile } from "node:fs/promises";
import { ConfigError } from "../errors.ts";

/**
 * The text of a file.
 *
 * @param where - the command, for messages
 * @param what - what the file is to it, for example "prompt"
 * @param option - the option that named it
 * @throws ConfigError with the system's error code when it cannot be read
 */
export async function readText(where: string, what: string, option: string, path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new ConfigError(where, `the ${what} file must be readable`, { [option]: path, error: code });
  }
}
