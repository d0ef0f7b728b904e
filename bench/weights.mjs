/**
 * What the element type of weights costs and gives: `npm run build && node bench/weights.mjs [--threads 1] [--rounds 15]`.
 *
 * A decoder with random weights (76 million, more than caches hold) makes tokens one by one, and reads a prompt. The
 * types take turns in every round; times are the best of all rounds, so that others on the machine count less.
 */
import { parseArgs } from "node:util";
import { createBackend } from "../dist/engine/index.js";
import { inspectModel, loadModel } from "../dist/model/index.js";
import { randomLlama } from "../test/conformance/random-llama.mjs";

const { values: options } = parseArgs({
  options: { threads: { type: "string", default: "1" }, rounds: { type: "string", default: "15" } },
});
const TYPES = ["f32", "bf16", "int8", "q8_0", "q4_0"];
const TOKENS = 6;
const PROMPT = 64;
const files = randomLlama({
  model_type: "llama",
  hidden_size: 1024,
  num_attention_heads: 16,
  num_key_value_heads: 4,
  head_dim: 64,
  intermediate_size: 2816,
  num_hidden_layers: 6,
  vocab_size: 8192,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
});

const sides = [];
for (const weights of TYPES) {
  const backend = await createBackend({ threads: Number(options.threads) });
  const start = performance.now();
  const model = await loadModel(files, { backend, weights });
  const loadSeconds = (performance.now() - start) / 1000;
  const { loadedBytes } = await inspectModel(files, { weights });
  sides.push({ weights, model, backend, loadSeconds, loadedBytes, decode: [], prefill: [] });
}

async function time(run) {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

const prompt = Int32Array.from({ length: PROMPT }, (_, t) => (t * 37) % 8192);
for (let round = -2; round < Number(options.rounds); round++) {
  for (const { model, decode, prefill } of sides) {
    const cache = model.createCache();
    const read = await time(() => model.forward({ tokens: prompt, cache, logits: "none" }));
    if (round >= 0) prefill.push(read); // the first rounds compile and warm up
    for (let n = 0; n < TOKENS; n++) {
      const step = await time(() => model.forward({ tokens: [n], cache }));
      if (round >= 0) decode.push(step);
    }
  }
}

const best = (times) => Math.min(...times);
const [base] = sides;
process.stdout.write(`${process.version}, ${options.threads} threads, ${options.rounds} rounds\n\n`);
process.stdout.write("| weights | MiB | of f32 | loading s | ms a token | × f32 | prefill of 64, ms | × f32 |\n");
process.stdout.write("|---|---|---|---|---|---|---|---|\n");
for (const { weights, backend, loadSeconds, loadedBytes, decode, prefill } of sides) {
  const cells = [
    weights,
    (loadedBytes / 2 ** 20).toFixed(0),
    (loadedBytes / base.loadedBytes).toFixed(2),
    loadSeconds.toFixed(2),
    best(decode).toFixed(1),
    (best(base.decode) / best(decode)).toFixed(2),
    best(prefill).toFixed(0),
    (best(base.prefill) / best(prefill)).toFixed(2),
  ];
  process.stdout.write(`| ${cells.join(" | ")} |\n`);
  backend.dispose();
}
