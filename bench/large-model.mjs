/**
 * A model of real size: `npm run build && node bench/large-model.mjs [--threads 2] [--weights stored,int8,q8_0,q4_0]`.
 *
 * Writes a checkpoint of random bf16 weights in the shape of Llama 3.2 1B (1.24 billion parameters, 2.5 GB, in the folder for
 * temporary files, gone afterwards), loads it in each type of weights, reads a prompt of 128 tokens and makes 24 more, one by
 * one. Each type runs in a process of its own: memory of the engine never shrinks. Times of tokens are medians, of prompts the
 * better of two.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    weights: { type: "string", default: "stored,int8,q8_0,q4_0" },
    folder: { type: "string" }, // of the process that measures one type
  },
});
const CONFIG = {
  model_type: "llama",
  hidden_size: 2048,
  num_hidden_layers: 16,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 64,
  intermediate_size: 8192,
  vocab_size: 128256,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  tie_word_embeddings: true,
};
const PROMPT = 128;
const TOKENS = 24;
const GiB = 2 ** 30;

if (options.folder) await measure(options.folder, options.weights, Number(options.threads));
else measureAll();

function measureAll() {
  const folder = mkdtempSync(join(tmpdir(), "phasor-large-"));
  try {
    writeCheckpoint(folder);
    process.stdout.write(`${process.version}, ${options.threads} threads\n\n`);
    process.stdout.write("| weights | loading | memory | prompt | tokens |\n|---|---|---|---|---|\n");
    for (const weights of options.weights.split(",")) {
      const script = fileURLToPath(import.meta.url);
      const args = [script, "--folder", folder, "--weights", weights, "--threads", options.threads];
      process.stdout.write(execFileSync(process.execPath, args, { encoding: "utf8" }));
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function measure(folder, weights, threads) {
  const { createBackend } = await import("../dist/engine/index.js");
  const { loadModel } = await import("../dist/model/index.js");
  const backend = await createBackend({ threads, maxBytes: 4 * GiB });
  const seconds = async (run) => {
    const start = performance.now();
    await run();
    return (performance.now() - start) / 1000;
  };
  let model;
  const loading = await seconds(async () => {
    model = await loadModel(folder, { backend, weights });
  });
  const tokens = Int32Array.from({ length: PROMPT }, (_, t) => (t * 37) % CONFIG.vocab_size);
  let cache;
  const prompts = [];
  for (let n = 0; n < 2; n++) {
    cache = model.createCache();
    prompts.push(await seconds(() => model.forward({ tokens, cache, logits: "none" })));
  }
  const steps = [];
  for (let n = 0; n < TOKENS; n++) steps.push(await seconds(() => model.forward({ tokens: [n], cache })));
  const median = steps.sort((a, b) => a - b)[TOKENS >> 1];
  const cells = [
    weights === "stored" ? "bf16, as stored" : weights,
    `${loading.toFixed(1)} s`,
    `${(backend.usedBytes / GiB).toFixed(2)} GiB`,
    `${(PROMPT / Math.min(...prompts)).toFixed(0)} tokens/s`,
    `${(1 / median).toFixed(1)} tokens/s`,
  ];
  process.stdout.write(`| ${cells.join(" | ")} |\n`);
  backend.dispose();
}

/** Tensors of the model, in the order of the file. */
function shapes() {
  const { hidden_size: C, intermediate_size: F, vocab_size: V, head_dim: D } = CONFIG;
  const [Q, K] = [CONFIG.num_attention_heads * D, CONFIG.num_key_value_heads * D];
  const layer = {
    ...{
      "self_attn.q_proj": [Q, C],
      "self_attn.k_proj": [K, C],
      "self_attn.v_proj": [K, C],
      "self_attn.o_proj": [C, Q],
    },
    ...{ "mlp.gate_proj": [F, C], "mlp.up_proj": [F, C], "mlp.down_proj": [C, F] },
    ...{ input_layernorm: [C], post_attention_layernorm: [C] },
  };
  const layers = Array.from({ length: CONFIG.num_hidden_layers }, (_, n) =>
    Object.entries(layer).map(([name, shape]) => [`model.layers.${n}.${name}.weight`, shape]),
  );
  return [["model.embed_tokens.weight", [V, C]], ["model.norm.weight", [C]], ...layers.flat()];
}

function writeCheckpoint(folder) {
  writeFileSync(join(folder, "config.json"), JSON.stringify(CONFIG));
  const header = {};
  let end = 0;
  for (const [name, shape] of shapes()) {
    const start = end;
    end += 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: "BF16", shape, data_offsets: [start, end] };
  }
  const text = JSON.stringify(header);
  const length = 8 * Math.ceil(text.length / 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(length));
  const file = openSync(join(folder, "model.safetensors"), "w");
  writeSync(file, size);
  writeSync(file, text.padEnd(length));
  const random = randomHalves(2 ** 24);
  const ones = new Uint16Array(CONFIG.hidden_size).fill(0x3f80);
  for (const [, shape] of shapes()) {
    const source = shape.length === 1 ? ones : random;
    let left = shape.reduce((a, b) => a * b);
    for (; left > 0; left -= source.length) {
      writeSync(file, Buffer.from(source.buffer, 0, 2 * Math.min(left, source.length)));
    }
  }
}

/** bf16 between −0.03 and 0.03; the same in every run. */
function randomHalves(count) {
  const float = new Float32Array(1);
  const word = new Uint32Array(float.buffer);
  let state = 1;
  return Uint16Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    float[0] = (state / 2 ** 31) * 0.03;
    return word[0] >>> 16;
  });
}
