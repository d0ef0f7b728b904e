/**
 * Trains models/phasor-mini from data of its own making, stage after stage, as src/train/stories/recipe.ts says. What is
 * done is kept in the work folder, so that the same command goes on after a stop.
 *
 * node scripts/train-mini.mjs [--work FOLDER] [--out FOLDER] [--threads N] [--stages N]
 */

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { storyDocuments } from "../dist/evaluate/index.js";
import { lineChart } from "../dist/line-chart.js";
import { createTokenizer } from "../dist/model/index.js";
import {
  heldOutDocuments,
  MINI_CONFIG,
  MINI_STAGES,
  miniTokenizer,
  stageDocuments,
  storyTokens,
} from "../dist/train/stories/index.js";

const { values } = parseArgs({
  options: {
    work: { type: "string", default: "build/phasor-mini" },
    out: { type: "string", default: "models/phasor-mini" },
    threads: { type: "string" },
    stages: { type: "string", default: String(MINI_STAGES.length) },
  },
});
/** Steps whose losses are averaged in the picture. */
const MEAN_OF = 20;

const stages = MINI_STAGES.slice(0, Number(values.stages));

const start = join(values.work, "start");
mkdirSync(start, { recursive: true });
console.log("learning the tokenizer");
const { tokenizer: definition, config: tokenizerConfig } = miniTokenizer();
writeJson(join(start, "config.json"), MINI_CONFIG);
writeJson(join(start, "tokenizer.json"), definition);
writeJson(join(start, "tokenizer_config.json"), tokenizerConfig);
const tokenizer = createTokenizer(definition, tokenizerConfig);

let before = start;
for (const [index, stage] of stages.entries()) {
  const folder = join(values.work, `${index + 1}-${stage.name}`);
  console.log(`stage ${index + 1} of ${stages.length}: ${stage.name}`);
  if (!existsSync(join(folder, "model.safetensors"))) runStage(stage, before, folder, index === 0);
  before = folder;
}

mkdirSync(values.out, { recursive: true });
for (const name of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]) {
  copyFileSync(join(before, name), join(values.out, name));
}
writeRun();
// What `phasor start` reads: longer than the model's context, of the held-out facts, and of seeds that no stage and no evaluation uses.
const [text] = storyDocuments({ documents: 1, seed: 31_415_926, pieces: 12_000, facts: 10 });
writeJson(join(values.out, "text.json"), text);
console.log(`the model is in ${values.out}`);

/** What the stages took and reached, and their losses as a picture; both go with the model. */
function writeRun() {
  const summaries = [];
  const series = [];
  let tokensBefore = 0;
  for (const [index, { name, contextTokens }] of stages.entries()) {
    const lines = readFileSync(join(values.work, `${index + 1}-${name}`, "training.jsonl"), "utf8")
      .trim()
      .split("\n");
    const records = lines.map((line) => JSON.parse(line));
    const steps = records.filter(({ loss }) => loss !== undefined);
    const last = steps.at(-1);
    const heldOutLoss = records.findLast((record) => record.heldOutLoss !== undefined)?.heldOutLoss;
    const { totalTokens: tokens, totalSeconds: seconds, step } = last;
    summaries.push({
      name,
      contextTokens,
      steps: step,
      tokens,
      seconds,
      loss: mean(steps.slice(-MEAN_OF)),
      heldOutLoss,
    });
    const points = [];
    for (let n = 0; n + MEAN_OF <= steps.length; n += MEAN_OF) {
      const some = steps.slice(n, n + MEAN_OF);
      points.push([(tokensBefore + some.at(-1).totalTokens) / 1e6, mean(some)]);
    }
    series.push({ name: `${name} (${contextTokens})`, points });
    tokensBefore += tokens;
  }
  writeJson(join(values.out, "run.json"), summaries);
  const axes = { xLabel: "predictions, millions", yLabel: "loss by weight, nats" };
  writeFileSync(join(values.out, "loss.svg"), lineChart({ title: "Training of phasor-mini", ...axes, series }));
}

function mean(steps) {
  return steps.reduce((sum, { loss }) => sum + loss, 0) / steps.length;
}

function runStage(stage, from, folder, first) {
  mkdirSync(folder, { recursive: true });
  const [data, heldOut] = [join(folder, "train.jsonl"), join(folder, "held-out.jsonl")];
  writeDocuments(data, stageDocuments(stage.documents), stage.weights);
  writeDocuments(heldOut, heldOutDocuments(stage), stage.weights);
  const options = {
    out: folder,
    ...(first ? { config: join(from, "config.json") } : { model: from }),
    data,
    "eval-data": heldOut,
    context: stage.contextTokens,
    "batch-tokens": stage.batchTokens,
    steps: stage.steps,
    "learning-rate": stage.learningRate,
    schedule: "cosine",
    warmup: stage.warmupSteps,
    floor: stage.floor,
    "eval-every": 100,
    "checkpoint-every": 100,
    dtype: stage === MINI_STAGES.at(-1) ? "f16" : "f32",
    ...(stage.ropeScaling && { "rope-scaling": stage.ropeScaling }),
    ...(values.threads && { threads: values.threads }),
  };
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { status } = spawnSync(process.execPath, ["dist/cli/main.js", "train", "--resume", ...args], {
    stdio: "inherit",
  });
  if (status !== 0 || !existsSync(join(folder, "model.safetensors"))) process.exit(status || 1);
}

function writeDocuments(path, documents, roleWeights) {
  if (existsSync(path)) return;
  const lines = [];
  for (const parts of documents) {
    const { tokens, weights } = storyTokens(parts, tokenizer, roleWeights);
    lines.push(
      JSON.stringify({ tokens: Array.from(tokens), weights: Array.from(weights, (w) => Number(w.toFixed(3))) }),
    );
  }
  writeFileSync(`${path}.part`, `${lines.join("\n")}\n`);
  renameSync(`${path}.part`, path);
}

function writeJson(path, value) {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);
}
