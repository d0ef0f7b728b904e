import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeFolder } from "../train/files-on-disk.ts";
import { checkOutputFile, checkOutputFolder, checkReplacedFile, writeOutputFile } from "./output-paths.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-paths-"));
  await writeFile(join(folder, "file"), "as it was");
  await mkdir(join(folder, "inside", "model.safetensors"), { recursive: true });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const hasProc = existsSync("/proc/self");
const FILE = "eval: a file that can be written";
const FOLDER = "eval: a folder that is there or can be made";

describe("paths that can be written", () => {
  test("pass, and nothing is left there", async () => {
    const before = await readdir(folder, { recursive: true });
    await checkOutputFile("eval", "json", join(folder, "new.json"));
    await checkOutputFile("eval", "json", join(folder, "file"));
    await checkReplacedFile("eval", "json", join(folder, "new.kv"));
    await checkReplacedFile("eval", "json", join(folder, "file"));
    await checkOutputFolder("eval", "svg", join(folder, "a", "b", "c"));
    await checkOutputFolder("eval", "svg", join(folder, "inside"), ["config.json"]);
    await checkOutputFolder("eval", "svg", "a-relative-one");
    expect(await readdir(folder, { recursive: true })).toEqual(before);
    expect(await readFile(join(folder, "file"), "utf8")).toBe("as it was");
  });

  test.skipIf(!existsSync("/dev/null"))("may be a device, where nothing takes its place", async () => {
    await checkOutputFile("eval", "json", "/dev/null");
    await writeOutputFile("eval", "json", "/dev/null", "{}");
    await expect(checkReplacedFile("generate", "save-cache", "/dev/null")).rejects.toThrow(
      'generate: a file that can be written; got save-cache="/dev/null", error="not a file but a device or pipe".',
    );
  });
});

describe("paths that cannot be written are refused with path and reason", () => {
  test.each([
    [["nowhere", "x"], "ENOENT: no such file or directory"],
    [["inside"], "EISDIR: is a directory"],
    [["file", "x"], "ENOTDIR: not a directory"],
  ])("files: %j", async (parts, error) => {
    const path = join(folder, ...parts);
    const message = `${FILE}; got json="${path}", error="${error}".`;
    await expect(checkOutputFile("eval", "json", path)).rejects.toThrow(message);
    await expect(checkReplacedFile("eval", "json", path)).rejects.toThrow(message);
    if (parts.length > 1) await expect(writeOutputFile("eval", "json", path, "")).rejects.toThrow(message);
  });

  test("folders", async () => {
    for (const path of [join(folder, "file"), join(folder, "file", "x")]) {
      await expect(checkOutputFolder("eval", "svg", path)).rejects.toThrow(
        `${FOLDER}; got svg="${path}", error="ENOTDIR: not a directory".`,
      );
    }
    await expect(checkOutputFolder("eval", "svg", join(folder, "inside"), ["model.safetensors"])).rejects.toThrow(
      `${FILE}; got svg="${join(folder, "inside", "model.safetensors")}", error="EISDIR: is a directory".`,
    );
    await expect(checkOutputFolder("eval", "svg", "")).rejects.toThrow(
      `${FOLDER}; got svg="", error="ENOENT: no such file or directory".`,
    );
  });

  test.skipIf(!hasProc)("places where rights do not tell it", async () => {
    const got = (option: string, path: string) => `got ${option}="${path}", error="ENOENT: no such file or directory".`;
    await expect(checkOutputFile("eval", "json", "/proc/x")).rejects.toThrow(`${FILE}; ${got("json", "/proc/x")}`);
    await expect(checkOutputFolder("eval", "svg", "/proc/x/y")).rejects.toThrow(
      `${FOLDER}; ${got("svg", "/proc/x/y")}`,
    );
    await expect(makeFolder("/proc/x/y")).rejects.toThrow("ENOENT");
  });
});

test("a folder is made with those it lies in, and may be there", async () => {
  for (let again = 0; again < 2; again++) await makeFolder(join(folder, "deep", "deeper", "deepest"));
  expect(await readdir(join(folder, "deep", "deeper"))).toEqual(["deepest"]);
  await expect(makeFolder(join(folder, "file"))).rejects.toThrow("EEXIST");
});
