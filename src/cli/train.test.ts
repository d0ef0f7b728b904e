import { mkdtemp, rm, writeFile } from "node:fs/promises";
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

test("refuses folders that cannot be made", async () => {
  const file = join(folder, "config.json");
  const refused = `${file}: a folder that is there or can be made; got error="EEXIST".`;
  await expect(trainModel({ ...settings, out: file })).rejects.toThrow(refused);
  const elsewhere = { ...settings, out: join(folder, "new"), checkpoint: join(file, "run.safetensors") };
  await expect(trainModel(elsewhere)).rejects.toThrow(refused);
});
