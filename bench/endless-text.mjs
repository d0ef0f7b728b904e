/**
 * A model trained on 512 tokens writes 10,000: with the full cache, and with 256 tokens kept, re-rotated and not.
 *
 *   node bench/endless-text.mjs [--model FOLDER] [--tokens N] [--budget N] [--seeds N] [--write FILE]
 *
 * Two measures, both as loss per token in nats:
 *
 * - reading: the loss on stories the model wrote within its range, given one after the other as one long stream; beside
 *   it the loss on the same stories each by itself
 * - writing: the loss that the model, with fresh caches within its range, gives what was written; text that has broken
 *   down surprises it
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { streamingLLM } from "../dist/compress/index.js";
import { createBackend } from "../dist/engine/index.js";
import { generate } from "../dist/generate/index.js";
import { loadModel } from "../dist/model/index.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: fileURLToPath(new URL("../test/fixtures/stories260K", import.meta.url)) },
    tokens: { type: "string", default: "10000" },
    budget: { type: "string", default: "256" },
    seeds: { type: "string", default: "3" },
    write: { type: "string" },
  },
});
const [TOKENS, BUDGET, SEEDS] = [options.tokens, options.budget, options.seeds].map(Number);
const TEMPERATURE = 0.8;
/** Tokens of a story at most, and of a window in which text is looked at afresh. */
const STORY = 400;
const WINDOW = 256;
const MARKED = /(<!-- endless:begin -->)[\s\S]*(<!-- endless:end -->)/;

const model = await loadModel(options.model, { backend: await createBackend({ threads: 0 }) });
const bounded = (rerotate) => () => model.createCache({ budget: BUDGET, policy: streamingLLM(), rerotate });
const MODES = [
  { name: `${BUDGET} tokens, re-rotated`, createCache: bounded(true) },
  { name: `${BUDGET} tokens, not re-rotated`, createCache: bounded(false) },
  { name: "full cache", createCache: () => model.createCache() },
];

/** Losses of tokens 1 to n − 1 given all before them in the cache, in steps of `step`. */
async function losses(tokens, cache, step) {
  const all = [];
  for (let at = 0; at < tokens.length; at += step) {
    const part = tokens.slice(at, at + step);
    const { data } = await model.forward({ tokens: part, cache, logits: "all" });
    const V = model.vocabSize;
    for (let t = 0; t < part.length && at + t + 1 < tokens.length; t++) {
      const row = data.subarray(t * V, (t + 1) * V);
      const largest = row.reduce((a, b) => Math.max(a, b));
      const sum = row.reduce((total, x) => total + Math.exp(x - largest), 0);
      all.push(largest + Math.log(sum) - row[tokens[at + t + 1]]);
    }
  }
  return all;
}

const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const say = (line) => process.stderr.write(`${line}\n`);

/** Stories of the model's own, each within its range. */
async function writeStories() {
  const stories = [];
  for (let length = 0, seed = 0; length < TOKENS; seed++) {
    const run = generate(model, "Once upon a time", { temperature: TEMPERATURE, seed, maxNewTokens: STORY });
    const { tokenIds } = await run.finish();
    stories.push([...tokenIds]);
    length += tokenIds.length;
  }
  return stories;
}

/** Loss of a text in windows, each with a fresh cache that begins as a text does. */
async function freshLoss(tokens) {
  const begin = model.tokenizer.bosTokenId;
  const all = [];
  for (let at = 0; at + WINDOW <= tokens.length; at += WINDOW) {
    const window = [begin, ...tokens.slice(at, at + WINDOW)];
    const each = await losses(window, model.createCache(), window.length);
    all.push(...each.slice(WINDOW / 4)); // a window's first tokens have little before them
  }
  return mean(all);
}

const stories = await writeStories();
const stream = stories.flat().slice(0, TOKENS);
say(`${stories.length} stories, ${stream.length} tokens`);
const alone = [];
for (const story of stories) alone.push(...(await losses(story, model.createCache(), story.length)));
const inRange = { reading: mean(alone), writing: mean(await Promise.all([freshLoss(stream)])) };

const rows = [];
for (const { name, createCache } of MODES) {
  const read = await losses(stream, createCache(), 16);
  const row = { name, first: mean(read.slice(0, 500)), last: mean(read.slice(-5000)), written: [], seconds: 0 };
  for (let seed = 0; seed < SEEDS; seed++) {
    const cache = createCache();
    const run = generate(model, "Once upon a time", {
      ...{ cache, temperature: TEMPERATURE, seed, maxNewTokens: TOKENS, stopTokens: [], maxPositions: 2 ** 30 },
    });
    const summary = await run.finish();
    const made = summary.tokenIds.slice(-5000);
    row.written.push(await freshLoss(made));
    row.seconds += summary.seconds;
    row.bytes = cache.bytes;
    row.peakBytes = cache.peakBytes;
    row.sample ??= model.tokenizer.decode(made.slice(-60)).replaceAll(/\s+/g, " ").trim();
    cache.dispose();
  }
  rows.push(row);
  say(JSON.stringify(row));
}

const number = (x) => x.toFixed(2);
const table = [
  "| cache | loss, reading: first 500 / last 5,000 tokens | loss of what it wrote, last 5,000 of 10,000 | cache bytes, at most | tokens/s |",
  "| --- | --: | --: | --: | --: |",
  `| within its range, fresh for each story | ${number(inRange.reading)} | ${number(inRange.writing)} | | |`,
  ...rows.map(({ name, first, last, written, peakBytes, seconds }) => {
    const speed = ((SEEDS * TOKENS) / seconds).toFixed(0);
    const wrote = written.map(number).join(", ");
    return `| ${name} | ${number(first)} / ${number(last)} | ${wrote} | ${peakBytes.toLocaleString("en-US")} | ${speed} |`;
  }),
  "",
  "How each ends:",
  "",
  ...rows.map(({ name, sample }) => `- ${name}: "${sample}"`),
].join("\n");
process.stdout.write(`${table}\n`);
if (options.write) {
  const page = readFileSync(options.write, "utf8");
  if (!MARKED.test(page)) throw new Error(`${options.write} has no endless:begin and endless:end marks`);
  writeFileSync(options.write, page.replace(MARKED, `$1\n${table}\n$2`));
}
model.dispose();
