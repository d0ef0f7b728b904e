/**
 * Saving a cache to a file: what is there survives whatever happens to the process that writes.
 */

import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createReferenceBackend } from "../src/engine/index.ts";
import { type DecoderModel, loadModel } from "../src/model/index.ts";

const MODEL = fileURLToPath(new URL("./fixtures/stories260K", import.meta.url));
const dist = (name: string): string => new URL(`../dist/${name}/index.js`, import.meta.url).href;

let folder: string;
let model: DecoderModel;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-cache-"));
  model = await loadModel(MODEL, { backend: createReferenceBackend() });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it("a saved cache is loaded with its text", async () => {
  const path = join(folder, "saved.kv");
  const options = { budget: 8, prefillChunk: 8 };
  const cache = model.createCache(options);
  await model.prefill(cache, "Once upon a time there was a little girl who liked to play in the park.");
  await cache.save(path);
  const loaded = await model.loadCache(path, options);
  expect(loaded.report()).toEqual({
    ...cache.report(),
    peakBytes: loaded.peakBytes,
    peakAllocatedBytes: loaded.peakAllocatedBytes,
  });
  expect(
    loaded
      .report()
      .forgotten.map(({ text }) => text)
      .join(""),
  ).toContain("was a little girl");
});

it("killing the process during a save leaves the old file intact", { timeout: 60_000 }, async () => {
  const path = join(folder, "document.kv");
  const cache = model.createCache();
  await model.prefill(cache, "Once upon a time");
  await cache.save(path);
  const before = await readFile(path);
  const script = `
    import { createReferenceBackend } from "${dist("engine")}";
    import { loadModel } from "${dist("model")}";
    const model = await loadModel(${JSON.stringify(MODEL)}, { backend: createReferenceBackend() });
    const cache = model.createCache();
    await model.prefill(cache, "Another story, about a dog");
    const snapshot = cache.snapshot.bind(cache);
    cache.snapshot = async function* () {
      for await (const chunk of snapshot()) {
        yield chunk;
        process.stdout.write("written\\n");
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    await cache.save(${JSON.stringify(path)});
  `;
  for (const chunks of [1, 4]) {
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let written = 0;
    child.stdout.on("data", (data) => {
      written += String(data).split("\n").length - 1;
      if (written >= chunks) child.kill("SIGKILL");
    });
    const signal = await new Promise((resolve) => child.on("exit", (_, how) => resolve(how)));
    expect(signal).toBe("SIGKILL");
    expect(await readFile(path)).toEqual(before);
  }
  expect((await readdir(folder)).some((name) => name.startsWith(".document.kv."))).toBe(true);
  expect((await model.loadCache(path)).tokensSeen).toBe(cache.tokensSeen);
});
