/**
 * Files and folders that a command is to write: tried before the work begins, so that it is not done for nothing.
 */

import { randomUUID } from "node:crypto";
import type { Stats } from "node:fs";
import { mkdir, open, rmdir, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { ConfigError } from "../errors.ts";
import { makeFolder } from "../train/files-on-disk.ts";

/**
 * Refuses a file that could not be written in place; devices and pipes may be.
 *
 * @param where - the command, for messages
 * @param option - the option that named it
 * @throws ConfigError with path and reason
 */
export async function checkOutputFile(where: string, option: string, path: string): Promise<void> {
  await trying(where, "a file that can be written", option, path, async () => {
    const there = await present(path);
    if (there === undefined) await probe(dirname(path));
    else if (there.isDirectory()) throw new Error("EISDIR: is a directory");
    else if (there.isFile()) await (await open(path, "r+")).close();
  });
}

/**
 * Refuses a file that could not be written beside itself and put in its place: as {@link checkOutputFile}, and devices.
 *
 * @param makesFolder - whether its folder will be made where it is missing
 */
export async function checkReplacedFile(
  where: string,
  option: string,
  path: string,
  makesFolder = false,
): Promise<void> {
  await trying(where, "a file that can be written", option, path, async () => {
    const there = await present(path);
    if (there?.isDirectory()) throw new Error("EISDIR: is a directory");
    if (there && !there.isFile()) throw new Error("not a file but a device or pipe");
    await probe(makesFolder ? await nearestFolder(path) : dirname(path));
  });
}

/**
 * Refuses a folder that is not there and could not be made, or that could not be written into. Nothing is made.
 *
 * @param files - names of files that will be written there
 */
export async function checkOutputFolder(
  where: string,
  option: string,
  path: string,
  files: readonly string[] = [],
): Promise<void> {
  await trying(where, "a folder that is there or can be made", option, path, async () => {
    if (path === "") throw new Error("ENOENT: no such file or directory");
    await probe((await present(path)) ? path : await nearestFolder(path));
  });
  for (const file of files) {
    const inside = join(path, file);
    if ((await present(inside))?.isDirectory()) {
      throw new ConfigError(where, "a file that can be written", { [option]: inside, error: "EISDIR: is a directory" });
    }
  }
}

/** Writes a file that was checked. */
export async function writeOutputFile(where: string, option: string, path: string, content: string): Promise<void> {
  await trying(where, "a file that can be written", option, path, () => writeFile(path, content));
}

/** Makes a folder that was checked, and those it lies in. */
export async function makeOutputFolder(where: string, option: string, path: string): Promise<void> {
  await trying(where, "a folder that is there or can be made", option, path, () => makeFolder(path));
}

/** What the system says, without the call and the path, which may be a temporary one. */
function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message.split(", ")[0] : String(error);
}

async function trying(
  where: string,
  expected: string,
  option: string,
  path: string,
  action: () => Promise<unknown>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    throw new ConfigError(where, expected, { [option]: path, error: reasonOf(error) });
  }
}

async function present(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** The innermost folder around a path that is there. */
async function nearestFolder(path: string): Promise<string> {
  let folder = dirname(resolve(path));
  while ((await present(folder)) === undefined) folder = dirname(folder);
  return folder;
}

/** Makes an empty folder in a folder and takes it away: rights alone do not tell whether that works. */
async function probe(folder: string): Promise<void> {
  const path = join(folder, `.phasor-${randomUUID()}`);
  await mkdir(path);
  await rmdir(path);
}
