/**
 * phasor train as people run it, on the built program: new models, killed and resumed runs, longer contexts.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadModel, openModelFolder } from "../src/model/index.ts";

const PROGRAM = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const TRAINED = fileURLToPath(new URL("./fixtures/stories260K", import.meta.url));

const CONFIG = {
  model_type: "llama",
  hidden_size: 24,
  num_attention_heads: 3,
  num_key_value_heads: 1,
  intermediate_size: 40,
  num_hidden_layers: 2,
  vocab_size: 512,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
  eos_token_id: 2,
};

const NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eve"];
const TEXTS = Array.from({ length: 60 }, (_, n) => {
  return `${NAMES[n % 5]} had a red ball. ${NAMES[(n * 7) % 5]} saw it and was happy. The end.`;
});

let folder: string;
let configPath: string;
let dataPath: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "phasor-train-"));
  configPath = join(folder, "config.json");
  dataPath = join(folder, "texts.jsonl");
  await writeFile(configPath, JSON.stringify(CONFIG));
  await writeFile(dataPath, TEXTS.map((text) => `${JSON.stringify({ text })}\n`).join(""));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

type Result = { code: number | null; stdout: string; stderr: string };

function start(args: string[]): { child: ChildProcess; ended: Promise<Result> } {
  const child = spawn(process.execPath, [PROGRAM, ...args]);
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  const ended = new Promise<Result>((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })));
  return { child, ended };
}

/** The arguments of a small run into a folder of that name. */
function runInto(name: string, ...more: string[]): string[] {
  const files = ["--config", configPath, "--tokenizer", TRAINED, "--data", dataPath, "--out", join(folder, name)];
  const sizes = ["--context", "48", "--batch-tokens", "96", "--threads", "1", "--seed", "4"];
  return ["train", ...files, ...sizes, ...more];
}

type Entry = { step: number; loss?: number; heldOutLoss?: number; gradientNorm?: number };

async function logOf(name: string): Promise<Entry[]> {
  const text = await readFile(join(folder, name, "training.jsonl"), "utf8").catch(() => "");
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  return whole
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

const numbersOf = (entries: Entry[]): unknown[] =>
  entries.map(({ step, loss, heldOutLoss, gradientNorm }) => [step, loss, heldOutLoss, gradientNorm]);

describe("phasor train", () => {
  test("makes a model folder that generates, a log and a picture", async () => {
    const args = runInto("new", "--steps", "12", "--learning-rate", "0.01", "--eval-every", "6", "--dtype", "bf16");
    const { code, stdout, stderr } = await start(args).ended;
    expect([code, stdout]).toEqual([0, ""]);
    expect(stderr).toMatch(
      /^step 6 of 12, loss [\d.]+, held out [\d.]+, [\d,]+ tokens\/s, \d+ s left\nstep 12 .*\nthe model is in .*new\n$/,
    );
    expect((await readdir(join(folder, "new"))).sort()).toEqual([
      ...["checkpoint.safetensors", "config.json", "loss.svg", "model.safetensors"],
      ...["tokenizer.json", "tokenizer_config.json", "training.jsonl"],
    ]);
    const entries = await logOf("new");
    expect(entries).toHaveLength(14);
    expect(entries[0].loss).toBeCloseTo(Math.log(512), 0);
    expect(entries[13].heldOutLoss).toBeLessThan(5);
    const generated = await start(["generate", "-m", join(folder, "new"), "-p", "Ann", "-n", "3", "--json"]).ended;
    expect(JSON.parse(generated.stdout).newTokens).toBeGreaterThan(0);
  });

  test("killed at any moment it resumes from its last checkpoint, and ends as if it had never stopped", async () => {
    const more = ["--steps", "40", "--checkpoint-every", "1", "--eval-every", "7"];
    expect((await start(runInto("whole", ...more)).ended).code).toBe(0);

    let kills = 0;
    for (let finished = false; !finished; ) {
      const { child, ended } = start(runInto("killed", ...more, "--resume"));
      const target = (await logOf("killed")).length + 9;
      const watch = setInterval(async () => {
        if ((await logOf("killed")).length >= target && child.exitCode === null) child.kill("SIGKILL");
      }, 1);
      const { code, stderr } = await ended;
      clearInterval(watch);
      finished = code === 0;
      if (!finished) expect([code, stderr.includes("phasor:")]).toEqual([null, false]);
      kills += finished ? 0 : 1;
      expect(kills).toBeLessThan(20);
    }
    expect(kills).toBeGreaterThan(1);
    expect(numbersOf(await logOf("killed"))).toEqual(numbersOf(await logOf("whole")));
    const [killed, whole] = await Promise.all(
      ["killed", "whole"].map((name) => readFile(join(folder, name, "model.safetensors"))),
    );
    expect(killed.equals(whole)).toBe(true);
  });

  test("Ctrl-C ends after the step at hand with a checkpoint", async () => {
    const args = runInto("interrupted", "--steps", "100000", "--checkpoint-every", "100000");
    const { child, ended } = start(args);
    let sent = false;
    const watch = setInterval(async () => {
      if ((await logOf("interrupted")).length < 3) return;
      clearInterval(watch);
      if (!sent) child.kill("SIGINT"); // a second one would end it at once
      sent = true;
    }, 5);
    const { code, stderr } = await ended;
    clearInterval(watch);
    expect(code).toBe(130);
    expect(stderr).toMatch(/stopped after step \d+ of 100000; the same command with --resume goes on\n$/);
    const again = await start(args).ended;
    expect(again.code).toBe(1);
    expect(again.stderr).toMatch(/^phasor: train: no checkpoint where the run's is to go\. Resume it, take it away/);
  });

  test("trains a checkpoint further at a longer context with a scaled schedule", async () => {
    const args = ["train", "--model", TRAINED, "--data", dataPath, "--out", join(folder, "longer"), "--steps", "2"];
    const { code, stderr } = await start([
      ...args,
      "--rope-scaling",
      "yarn:2",
      "--context",
      "1024",
      "--batch-tokens",
      "1024",
    ]).ended;
    expect([code, stderr]).toEqual([0, expect.stringMatching(/the model is in .*longer\n$/)]);
    const config = JSON.parse(await readFile(join(folder, "longer", "config.json"), "utf8"));
    expect(config).toMatchObject({
      max_position_embeddings: 1024,
      rope_scaling: { rope_type: "yarn", factor: 2, original_max_position_embeddings: 512 },
    });
    const [first] = await logOf("longer");
    expect(first.loss).toBeLessThan(4); // it had learned to write stories
    using model = await loadModel(await openModelFolder(join(folder, "longer")));
    expect(model.config.layers[0].positions.rotary?.schedule.type).toBe("yarn");
  });

  test.each([
    [["--steps", "1"], "train: --config for a new model or --model for a trained one."],
    [
      ["--steps", "1", "--model", TRAINED, "--rope-scaling", "dynamic:2"],
      'extendContext: a schedule that is the same at every length; got type="dynamic". ' +
        "Its frequencies change with the length of every text; fine-tune with yarn or ntk instead.",
    ],
    [
      ["--steps", "1", "--model", TRAINED, "--context", "600"],
      "train: a context that the model is made for; got contextTokens=600, max_position_embeddings=512. " +
        "Raise max_position_embeddings, or extend the context with a scaled rotary schedule.",
    ],
  ])("refuses %j", async (more, message) => {
    const { code, stderr } = await start(["train", "--data", dataPath, "--out", join(folder, "refused"), ...more])
      .ended;
    expect([code, stderr]).toEqual([1, expect.stringContaining(`phasor: ${message}\n`)]);
  });
});
