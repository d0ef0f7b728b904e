/**
 * How long the event loop of a server waits while a model generates: with worker threads, and on the caller's own thread.
 *
 * Build first: npm run build. Run: node bench/event-loop.mjs [--threads 0,1,2] [--tokens 48] [--prompt 256]
 *
 * A decoder with random weights (hidden 512, 8 layers, vocabulary 4096) reads a prompt in one forward and makes tokens.
 * Delays are those of perf_hooks.monitorEventLoopDelay: timers of 1 ms, how much later they come than asked for.
 */

import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { createBackend } from "../dist/engine/index.js";
import { generate } from "../dist/generate/index.js";
import { loadModel } from "../dist/model/index.js";
import { randomLlama } from "../test/conformance/random-llama.mjs";

const { values: options } = parseArgs({
  options: {
    threads: { type: "string", default: "0,1,2" },
    tokens: { type: "string", default: "48" },
    prompt: { type: "string", default: "256" },
  },
});
const newTokens = Number(options.tokens);
const promptTokens = Number(options.prompt);

const CONFIG = {
  model_type: "llama",
  hidden_size: 512,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 64,
  intermediate_size: 1376,
  num_hidden_layers: 8,
  vocab_size: 4096,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
};

const files = randomLlama(CONFIG);
const prompt = Int32Array.from({ length: promptTokens }, (_, t) => (t * 37) % CONFIG.vocab_size);

console.log("threads | prefill ms | decode tokens/s | delay p50 ms | p99 ms | max ms");
for (const threads of options.threads.split(",").map(Number)) {
  const model = await loadModel(files, { backend: await createBackend({ threads }) });
  await run(model); // compiles the kernels
  const { summary, delay, idle } = await measure(model);
  const ms = (nanoseconds) => (nanoseconds / 1e6).toFixed(2);
  const cells = [
    threads,
    (1000 * summary.prefillSeconds).toFixed(0),
    summary.tokensPerSecond.toFixed(1),
    ms(delay.percentile(50)),
    ms(delay.percentile(99)),
    ms(delay.max),
  ];
  console.log(`${cells.join(" | ")}   (idle: p99 ${ms(idle.percentile(99))})`);
  model.dispose();
}

function run(model) {
  return generate(model, prompt, { maxNewTokens: newTokens, temperature: 0, stopTokens: [] }).finish();
}

/** Delays while the model generates, and for as long without it. */
async function measure(model) {
  let summary;
  const start = performance.now();
  const delay = await delaysWhile(async () => {
    summary = await run(model);
  });
  const elapsedMs = performance.now() - start;
  const idle = await delaysWhile(() => new Promise((done) => setTimeout(done, elapsedMs)));
  return { summary, delay, idle };
}

async function delaysWhile(work) {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await work();
  // A timer that comes late is counted when it comes.
  await new Promise((done) => setTimeout(done, 5));
  delay.disable();
  return delay;
}
