/** A model's caches: what compressing costs a prefill, and what kinds of cache cost a step. */
import { randomLlama } from "../../test/conformance/random-llama.mjs";
import { numbers } from "../inputs.mjs";

const { loadModel } = await import("../../dist/model/index.js");
const { knorm, snapKV } = await import("../../dist/compress/index.js");
const { tensor } = await import("../../dist/tensor.js");

const median = (values) => values.toSorted((a, b) => a - b)[(values.length - 1) >> 1];

/** Formulations of the same work share a model; only the latest is kept. */
let latest;

async function modelOf(shape, backend) {
  const key = JSON.stringify(shape);
  if (latest?.key === key) return latest.model;
  const { hidden, layers, heads, kvHeads, headDim, inner, vocabulary } = shape;
  const files = randomLlama({
    model_type: "llama",
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    intermediate_size: inner,
    vocab_size: vocabulary,
    max_position_embeddings: 65536,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
  });
  latest = { key, model: await loadModel(files, { backend }) };
  return latest.model;
}

const tokensOf = (count, { vocabulary }) => Int32Array.from({ length: count }, (_, t) => (t * 37) % vocabulary);

/** A prompt into a new cache, in chunks; compressed at its end, or after every chunk. */
export const compressionFormulations = ({ dims }, backend) => {
  const { shape, tokens, chunk } = dims;
  const text = tokensOf(tokens, shape);
  const formulation = (name, options = {}) => ({
    name,
    create: async () => {
      const model = await modelOf(shape, backend);
      const createCache = () => model.createCache({ prefillChunk: chunk, ...options });
      let cache = createCache();
      return {
        before: () => {
          cache.dispose();
          cache = createCache();
        },
        run: () => model.prefill(cache, text),
        ...(options.policy === undefined && {
          output: () => Float32Array.of(cache.length()),
        }),
        ...(options.policy !== undefined && {
          notes: async () => {
            const kept = options.budget ?? Math.round(tokens * (1 - options.compressionRatio));
            if (Math.abs(cache.length() - kept) > 1) {
              throw new Error(`${name} kept ${cache.length()} of ${tokens} tokens instead of ${kept}`);
            }
            const shares = [];
            while (shares.length < 3) shares.push(await compressingShare(model, createCache(), text, chunk));
            return { compressingShare: median(shares) };
          },
        }),
        dispose: () => {
          cache.dispose();
          return backend.flush();
        },
      };
    },
  });
  return [
    formulation("phasor"),
    ...[
      ["SnapKV", snapKV()],
      ["Knorm", knorm()],
    ].flatMap(([name, policy]) => [
      formulation(`${name}, half goes at the end`, { policy, compressionRatio: 0.5 }),
      formulation(`${name}, a quarter stays after every chunk`, { policy, budget: tokens / 4 }),
    ]),
  ];
};

/** The share of a prefill's time from the end of a chunk's last layer until the call returns. */
async function compressingShare(model, cache, text, chunk) {
  const last = model.config.layers.length - 1;
  const start = performance.now();
  let compressing = 0;
  for (let at = 0; at < text.length; at += chunk) {
    let computed;
    const onLayer = (layer) => {
      if (layer === last) computed = performance.now();
    };
    const tokens = text.subarray(at, at + chunk);
    await model.forward({ tokens, cache, logits: "none", sequenceLength: text.length, onLayer });
    compressing += performance.now() - computed;
  }
  const share = compressing / (performance.now() - start);
  cache.dispose();
  return share;
}

/** Steps of a call, after which the cache is cut back to where it was. */
const STEPS = 8;

/** One token after the other on a cache with many rows. */
export const cacheFormulations = ({ dims }, backend) => {
  const { shape, tokens } = dims;
  const { layers, kvHeads, headDim } = shape;
  const next = tokensOf(STEPS, shape);
  const formulation = (name, options = {}, { exact = true, thin } = {}) => ({
    name,
    create: async () => {
      const model = await modelOf(shape, backend);
      const cache = model.createCache(options);
      // Rows of any numbers cost what rows of a text do; more of them where some go.
      const rows = thin === undefined ? tokens : 2 * tokens;
      fill(cache, { layers, kvHeads, headDim, tokens, rows });
      await backend.flush();
      if (thin) for (let layer = 0; layer < layers; layer++) cache.compact(layer, thin(rows));
      let logits;
      return {
        before: () => cache.crop(rows),
        run: async () => {
          for (const token of next) logits = await model.forward({ tokens: [token], cache });
        },
        ...(exact && { output: () => logits.data }),
        notes: () => ({ steps: STEPS, bytes: cache.bytes }),
        dispose: () => {
          cache.dispose();
          return backend.flush();
        },
      };
    },
  });
  const budget = tokens + 1024;
  return [
    formulation("phasor"),
    formulation("f32, contiguous, once more"),
    formulation("paged", { layout: "paged" }),
    formulation("int8", { elements: "int8" }, { exact: false }),
    formulation("int4", { elements: "int4" }, { exact: false }),
    formulation("int8, paged", { elements: "int8", layout: "paged" }, { exact: false }),
    formulation("gaps: every second row of twice as many", {}, { exact: false, thin: everySecond }),
    formulation("ragged: heads of ½ and 1½ as many", {}, { exact: false, thin: unequal(kvHeads) }),
    formulation("ragged, paged", { layout: "paged" }, { exact: false, thin: unequal(kvHeads) }),
    formulation("a policy that has no reason to run: SnapKV", { policy: snapKV(), budget, prefillChunk: 512 }),
    formulation("a policy that has no reason to run: Knorm", { policy: knorm(), budget, prefillChunk: 512 }),
  ];
};

/** Appends rows of numbers; those beyond `tokens` repeat the first ones. */
function fill(cache, { layers, kvHeads, headDim, tokens, rows }) {
  const chunk = 512;
  for (let at = 0; at < rows; at += chunk) {
    const count = Math.min(chunk, rows - at);
    const positions = Int32Array.from({ length: count }, (_, t) => at + t);
    const segments = new Int32Array(count);
    const rowsOf = (seed) =>
      tensor("f32", [count, kvHeads, headDim], numbers(count * kvHeads * headDim, seed + (at % tokens)));
    for (let layer = 0; layer < layers; layer++) {
      cache.append(layer, { keys: rowsOf(2 * layer + 1), values: rowsOf(2 * layer + 2), positions, segments });
    }
    cache.commit({ tokens: new Int32Array(count), positions, segments });
  }
  cache.scheduleLength = rows;
}

const strided = (rows, share) => {
  const count = Math.round(rows * share);
  return Int32Array.from({ length: count }, (_, i) => Math.floor((i * rows) / count));
};
const everySecond = (rows) => strided(rows, 0.5);
/** By turns a quarter and three quarters of all rows. */
const unequal = (kvHeads) => (rows) =>
  Array.from({ length: kvHeads }, (_, head) => strided(rows, head % 2 === 0 ? 0.25 : 0.75));
