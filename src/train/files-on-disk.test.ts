import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpointFile, saveModelFolder } from "./index.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-disk-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("a checkpoint file", () => {
  test("is absent, then the last one written; what a crash left beside it does not matter", async () => {
    const path = join(folder, "deep", "run.safetensors");
    const store = await openCheckpointFile(path);
    expect(await store.read()).toBeUndefined();
    await store.write(Uint8Array.of(1, 2, 3));
    await writeFile(`${path}.part`, "half a checkp");
    expect(await store.read()).toEqual(Uint8Array.of(1, 2, 3));
    await store.write(Uint8Array.of(4));
    expect(await store.read()).toEqual(Uint8Array.of(4));
    expect(await readdir(join(folder, "deep"))).toEqual(["run.safetensors"]);
  });

  test("that cannot be written stays as it was, and says why", async () => {
    const path = join(folder, "occupied");
    await mkdir(join(path, "by a folder"), { recursive: true });
    const store = await openCheckpointFile(path);
    await expect(store.write(Uint8Array.of(1))).rejects.toThrow(
      /occupied: a file that can be read and written; got error="E[A-Z]+"\. Check path, rights and space\.$/,
    );
    expect(await readdir(folder)).not.toContain("occupied.part");
  });
});

test("a model folder holds the files by name", async () => {
  const path = join(folder, "model");
  await saveModelFolder(
    path,
    new Map<string, string | Uint8Array>([
      ["config.json", '{"é":1}'],
      ["model.safetensors", Uint8Array.of(0, 255)],
    ]),
  );
  expect(await readFile(join(path, "config.json"), "utf8")).toBe('{"é":1}');
  expect(Uint8Array.from(await readFile(join(path, "model.safetensors")))).toEqual(Uint8Array.of(0, 255));
});
