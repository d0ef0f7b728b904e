import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type TrainSettings, trainModel } from "./train.ts";

const CONFIG = {
  ...{ model_type: "llama", vocab_size: 7, hidden_size: 4, intermediate_size: 6, num_hidden_layers: 1 },
  ...{ num_attention_heads: 1, max_position_embeddings: 8 },
};

let folder: string;
let settings: Omit<TrainSettings, "out">;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-train-command-"));
  const [config, data] = [join(folder, "config.json"), join(folder, "data.jsonl")];
  await writeFile(config, JSON.stringify(CONFIG));
  await writeFile(data, '{"tokens":[1,2,3]}\n');
  settings = {
    ...{ config, data: [data], holdOut: 0, accumulate: 1, steps: 1, schedule: "constant", floor: 0, weightDecay: 0 },
    ...{ clip: 1, evalEvery: 1, checkpointEvery: 1, seed: 0, dtype: "f32", backend: "reference" },
  };
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const refusedFolder = (option: string, path: string, error: string): string =>
  `train: a folder that is there or can be made; got ${option}="${path}", error="${error}".`;

test("refuses folders that cannot be made, before anything is read", async () => {
  const file = join(folder, "config.json");
  const unread = { ...settings, config: join(folder, "nowhere", "config.json") };
  await expect(trainModel({ ...unread, out: file })).rejects.toThrow(
    refusedFolder("out", file, "ENOTDIR: not a directory"),
  );
  await expect(trainModel({ ...unread, out: join(file, "deep") })).rejects.toThrow(
    refusedFolder("out", join(file, "deep"), "ENOTDIR: not a directory"),
  );
  const elsewhere = { ...unread, out: join(folder, "new"), checkpoint: join(file, "run.safetensors") };
  await expect(trainModel(elsewhere)).rejects.toThrow(
    `train: a file that can be written; got checkpoint="${elsewhere.checkpoint}", error="ENOTDIR: not a directory".`,
  );
});

test.skipIf(!existsSync("/proc/self"))("refuses a place where nothing can be made", async () => {
  await expect(trainModel({ ...settings, out: "/proc/x/y" })).rejects.toThrow(
    refusedFolder("out", "/proc/x/y", "ENOENT: no such file or directory"),
  );
});

test("refuses a folder in the place of a file that comes at the end", async () => {
  const out = join(folder, "occupied");
  await mkdir(join(out, "model.safetensors"), { recursive: true });
  await expect(trainModel({ ...settings, out })).rejects.toThrow(
    `train: a file that can be written; got out="${join(out, "model.safetensors")}", error="EISDIR: is a directory".`,
  );
});

test("refuses a checkpoint that is there, unless the run goes on from it, and names what is wrong with it", async () => {
  const out = join(folder, "begun");
  const checkpoint = join(out, "checkpoint.safetensors");
  await mkdir(out);
  await writeFile(checkpoint, "nothing");
  await expect(trainModel({ ...settings, out })).rejects.toThrow(
    `train: no checkpoint where the run's is to go; got checkpoint="${checkpoint}". ` +
      "Go on from it with --resume, take it away, or name another with --checkpoint.",
  );
  await expect(trainModel({ ...settings, out, resume: true })).rejects.toThrow(
    `${checkpoint}: 8 more bytes (u64); got byteOffset=0, remaining=7. The file is truncated or damaged.`,
  );
});

test.each([
  [
    { backend: "reference", threads: 2 },
    'train: --threads with the wasm backend only; got backend="reference", threads=2.',
  ],
  [
    { decaySteps: 1 },
    'train: --decay-steps with --schedule warmup-stable-decay; got schedule="constant", decaySteps=1.',
  ],
  [{ warmup: 5, steps: 5 }, "train: warmupSteps must be fewer than the steps; got warmupSteps=5, steps=5."],
  [{ context: 5, batchTokens: 12 }, "train: --batch-tokens a multiple of the context; got batch-tokens=12, context=5."],
  [
    { evalData: ["nowhere.txt"] },
    'train: the data file must be readable; got eval-data="nowhere.txt", error="ENOENT".',
  ],
] satisfies [Partial<TrainSettings>, string][])(
  "refuses %j before data and model are read",
  async (change, message) => {
    const out = join(folder, "never");
    const unread = { ...settings, config: join(folder, "nowhere", "config.json") };
    await expect(trainModel({ ...unread, out, ...change })).rejects.toThrow(message);
    await expect(stat(out)).rejects.toThrow("ENOENT");
  },
);

test("refuses a context longer than the model's before the data are read", async () => {
  const bad = join(folder, "bad.jsonl");
  await writeFile(bad, "{\n");
  await expect(trainModel({ ...settings, data: [bad], context: 9, out: join(folder, "never") })).rejects.toThrow(
    "train: a context that the model is made for; got context=9, max_position_embeddings=8. " +
      "Raise max_position_embeddings in the config, or give --rope-scaling.",
  );
});
