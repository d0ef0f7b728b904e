/**
 * phasor train as people run it, on the built program: new models, killed and resumed runs, longer contexts.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
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

function start(args: string[], nodeArgs: string[] = []): { child: ChildProcess; ended: Promise<Result> } {
  const child = spawn(process.execPath, [...nodeArgs, PROGRAM, ...args]);
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

/** Losses of every step, and the model to the bit. */
async function expectSameRun(name: string, other: string): Promise<void> {
  expect(numbersOf(await logOf(name))).toEqual(numbersOf(await logOf(other)));
  const [one, two] = await Promise.all([name, other].map((run) => readFile(join(folder, run, "model.safetensors"))));
  expect(one.equals(two)).toBe(true);
}

/**
 * Where in its third checkpoint a run is killed; the step of the checkpoint that is there then, and how much of the next
 * one lies beside it.
 */
const STAGES: Record<string, readonly [step: number, written: number | null]> = {
  opened: [2, 0],
  half: [4, 0.5],
  written: [6, 1],
  synced: [8, 1],
  renamed: [11, null],
};

/** A module that makes the process kill itself, loaded before the program. */
function killerAt(stage: string): string {
  return `
    import fs from "node:fs/promises";
    import { syncBuiltinESMExports } from "node:module";
    const { open, rename } = fs;
    const dieAt = (stage) => stage === "${stage}" && process.kill(process.pid, "SIGKILL");
    let checkpoints = 0;
    fs.open = async (path, flags, ...rest) => {
      const file = await open(path, flags, ...rest);
      if (flags !== "w" || !path.endsWith("checkpoint.safetensors.part") || ++checkpoints < 3) return file;
      dieAt("opened");
      const { writeFile, sync } = file;
      file.writeFile = async (bytes) => {
        await writeFile.call(file, bytes.subarray(0, bytes.length >> 1));
        dieAt("half");
        await writeFile.call(file, bytes.subarray(bytes.length >> 1));
        dieAt("written");
      };
      file.sync = async () => {
        await sync.call(file);
        dieAt("synced");
      };
      return file;
    };
    fs.rename = async (from, to) => {
      await rename(from, to);
      if (checkpoints >= 3) dieAt("renamed");
    };
    syncBuiltinESMExports();
  `;
}

/** The step of a checkpoint, by the metadata of its safetensors header. */
function stepOf(checkpoint: Buffer): number {
  const header = checkpoint.subarray(8, 8 + Number(checkpoint.readBigUInt64LE()));
  return JSON.parse(JSON.parse(header.toString()).__metadata__.phasor_training).state.step;
}

describe("phasor train", () => {
  test("makes a model folder that generates, a log and a picture", async () => {
    const args = runInto("new", "--steps", "12", "--learning-rate", "0.01", "--eval-every", "6", "--dtype", "bf16");
    const { code, stdout, stderr } = await start(args).ended;
    expect([code, stdout]).toEqual([0, ""]);
    expect(stderr).toMatch(
      /^Training [\d,]+ parameters\nstep 1 of 12, loss [\d.]+, [\d,]+ tokens\/s, \d+ s left\nstep 6 of 12, loss [\d.]+, held out [\d.]+, .*\nstep 12 .*\nthe model is in .*new\n$/,
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

  test("tells steps in plain lines where nothing is held out", async () => {
    const { code, stderr } = await start(runInto("plain", "--steps", "3", "--hold-out", "0")).ended;
    expect(code).toBe(0);
    expect(stderr.split("\n").map((line) => line.replace(/, loss.*| in .*/, ""))).toEqual([
      "phasor: nothing is held out to evaluate on; --eval-data names some",
      expect.stringMatching(/^Training [\d,]+ parameters$/),
      ...["step 1 of 3", "step 3 of 3", "the model is", ""],
    ]);
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
    expect(again.stderr).toMatch(
      /^phasor: train: no checkpoint where the run's is to go; got checkpoint=".*checkpoint\.safetensors"\. Go on from it/,
    );
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
      "train: a context that the model is made for; got context=600, max_position_embeddings=512. " +
        "Raise max_position_embeddings in the config, or give --rope-scaling.",
    ],
  ])("refuses %j", async (more, message) => {
    const { code, stderr } = await start(["train", "--data", dataPath, "--out", join(folder, "refused"), ...more])
      .ended;
    expect([code, stderr]).toEqual([1, expect.stringContaining(`phasor: ${message}\n`)]);
  });
});

describe("phasor train, killed and resumed,", () => {
  const more = ["--steps", "40", "--checkpoint-every", "1", "--eval-every", "7"];
  let seconds = 0;

  beforeAll(async () => {
    const began = performance.now();
    expect((await start(runInto("whole", ...more)).ended).code).toBe(0);
    seconds = (performance.now() - began) / 1000;
  });

  test("goes on from a whole checkpoint whatever was being written, and ends as if it had never stopped", async () => {
    const checkpoint = join(folder, "staged", "checkpoint.safetensors");
    const seen: unknown[] = [];
    for (const stage of Object.keys(STAGES)) {
      const hook = join(folder, `kill-${stage}.mjs`);
      await writeFile(hook, killerAt(stage));
      const { code } = await start(runInto("staged", ...more, "--resume"), ["--import", pathToFileURL(hook).href])
        .ended;
      const [old, part] = await Promise.all([readFile(checkpoint), readFile(`${checkpoint}.part`).catch(() => null)]);
      seen.push([stage, code, stepOf(old), part && Math.round((2 * part.length) / old.length) / 2]);
    }
    // Every run writes two whole checkpoints and dies of the third; the last one's has its name already.
    expect(seen).toEqual(Object.entries(STAGES).map(([stage, [step, written]]) => [stage, null, step, written]));
    expect((await start(runInto("staged", ...more, "--resume")).ended).code).toBe(0);
    await expectSameRun("staged", "whole");
  });

  test("at random moments, ends as if it had never stopped", async () => {
    const delays: number[] = [];
    for (let finished = false; !finished; ) {
      const { child, ended } = start(runInto("random", ...more, "--resume"));
      // Anywhere between the start of the program and its end; after four kills it is left alone.
      const delay = 1000 * seconds * (0.1 + 0.8 * Math.random());
      const timer = delays.length < 4 ? setTimeout(() => child.kill("SIGKILL"), delay) : undefined;
      const { code, stderr } = await ended;
      clearTimeout(timer);
      finished = code === 0;
      if (finished) continue;
      delays.push(delay);
      expect([delays, code, stderr.includes("phasor:")]).toEqual([delays, null, false]);
    }
    await expectSameRun("random", "whole");
  });
});
