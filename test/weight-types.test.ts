import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { type Backend, createReferenceBackend, createWasmBackend } from "../src/engine/index.ts";
import { addComparison, noSums } from "../src/evaluate/distributions.ts";
import {
  type DecoderModel,
  inspectModel,
  type LoadProgress,
  loadModel,
  type ModelFiles,
  WEIGHT_CHOICES,
  type WeightChoice,
} from "../src/model/index.ts";
import { f32, type Tensor } from "../src/tensor.ts";
import expected from "./fixtures/stories260K/expected.json" with { type: "json" };
import { expectClose } from "./support/expect-close.ts";
import { tinyLlama } from "./support/tiny-llama.ts";

const MODEL = fileURLToPath(new URL("./fixtures/stories260K", import.meta.url));
/** Logits of three f32 layers against the reference, which sums in f64. */
const TOLERANCE = 2e-5;
/** For single tokens where weights are codes, as a part of the largest logit: inputs are rounded to 16 bits. */
const CODES_TOLERANCE = 1e-4;

const largestOf = ({ data }: Tensor): number =>
  (data as Float32Array).reduce((top, x) => Math.max(top, Math.abs(x)), 0);
const largestDifference = (a: Tensor, b: Tensor): number =>
  (a.data as Float32Array).reduce((top, x, i) => Math.max(top, Math.abs(x - Number(b.data[i]))), 0);

const createWasm = () => createWasmBackend({ threads: 0, maxBytes: 2 ** 26 });

describe.each(WEIGHT_CHOICES)("a decoder with weights: %s", (weights) => {
  // 96 and 160 are whole blocks; the output projection's 4 · 10 = 40 columns are not.
  const sizes = { hidden_size: 96, intermediate_size: 160, vocab_size: 101 };

  it.each([false, true])("gives the reference's logits, tied embeddings: %s", async (tied) => {
    const files = tinyLlama({ ...sizes, tie_word_embeddings: tied });
    const models = await Promise.all(
      [createReferenceBackend(), await createWasm()].map((backend) => loadModel(files, { backend, weights })),
    );
    const caches = models.map((model) => model.createCache());
    for (const tokens of [[1, 5, 100, 0, 17], [17], [3]]) {
      const [want, got] = await Promise.all(
        models.map((model, n) => model.forward({ tokens, cache: caches[n], logits: "all" })),
      );
      const rounds = tokens.length === 1 && ["int8", "q8_0", "q4_0"].includes(weights);
      if (!rounds) expectClose(got.data, want.data, TOLERANCE);
      else expect(largestDifference(got, want)).toBeLessThanOrEqual(CODES_TOLERANCE * largestOf(want));
    }
  });

  it("takes the bytes that inspectModel tells", async () => {
    const backend = await createWasm();
    const report = await inspectModel(MODEL, { weights });
    await loadModel(MODEL, { backend, weights });
    const tensors = 48; // each takes whole cache lines, int8 two runs of them
    expect(backend.usedBytes).toBeGreaterThanOrEqual(report.loadedBytes);
    expect(backend.usedBytes).toBeLessThan(report.loadedBytes + 2 * tensors * 64);
  });
});

describe("stories260K, 256 tokens of its own text", () => {
  async function logitsOf(weights: WeightChoice): Promise<{ model: DecoderModel; tokens: number[]; logits: Tensor }> {
    const model = await loadModel(MODEL, { backend: await createWasm(), weights });
    const tokens = [...(model.tokenizer?.encode(expected[0].text) ?? [])];
    return { model, tokens, logits: await model.forward({ tokens: tokens.slice(0, -1), logits: "all" }) };
  }
  let exact: Awaited<ReturnType<typeof logitsOf>>;
  beforeAll(async () => {
    exact = await logitsOf("f32");
  });

  // Bounds are 1.5 times what was measured (docs/models.md): mean KL divergence in nats, largest difference of a logit.
  it.each([
    ["stored", 0, 0, 256],
    ["f16", 5e-7, 0.018, 256],
    ["bf16", 6e-5, 0.17, 252],
    ["int8", 5e-4, 0.5, 250],
    ["q8_0", 3.5e-4, 0.5, 250],
    ["q4_0", 0.057, 10.5, 220],
  ] as const)("as %s: near f32's distributions", async (weights, divergence, difference, sameBest) => {
    const { logits, tokens } = await logitsOf(weights);
    const sums = noSums();
    addComparison(sums, exact.logits.data as Float32Array, logits.data as Float32Array, tokens.slice(1));
    expect(sums.rows).toBe(256);
    expect(sums.divergence / sums.rows).toBeLessThanOrEqual(divergence);
    expect(sums.sameBest).toBeGreaterThanOrEqual(sameBest);
    expect(largestDifference(logits, exact.logits)).toBeLessThanOrEqual(difference);
  });
});

describe("stories260K, one token at a time", () => {
  // Single tokens meet codes as integers, with inputs of 16 bits. Bounds are 1.5 times what was measured (docs/models.md).
  it.each([
    ["f32", 2e-12, 5e-5],
    ["int8", 5e-9, 2.3e-3],
    ["q8_0", 5e-9, 1.6e-3],
    ["q4_0", 6e-9, 1.8e-3],
  ] as const)("as %s: the distributions of the whole text at once", async (weights, divergence, difference) => {
    const model = await loadModel(MODEL, { backend: await createWasm(), weights });
    const tokens = [...(model.tokenizer?.encode(expected[0].text) ?? [])];
    const whole = await model.forward({ tokens: tokens.slice(0, -1), logits: "all" });
    const cache = model.createCache();
    const V = whole.shape.at(-1) as number;
    const sums = noSums();
    let largest = 0;
    for (let t = 0; t < tokens.length - 1; t++) {
      const step = await model.forward({ tokens: [tokens[t]], cache, logits: "all" });
      const want = f32([1, V], whole.data.subarray(t * V, (t + 1) * V) as Float32Array);
      addComparison(sums, want.data, step.data as Float32Array, [tokens[t + 1]]);
      largest = Math.max(largest, largestDifference(step, want));
    }
    expect([sums.rows, sums.sameBest]).toEqual([256, 256]);
    expect(sums.divergence / sums.rows).toBeLessThanOrEqual(divergence);
    expect(largest).toBeLessThanOrEqual(difference);
  });
});

describe("loadModel with weights", () => {
  async function typesOf(files: ModelFiles, weights: WeightChoice): Promise<Map<string, LoadProgress>> {
    const progress: LoadProgress[] = [];
    const backend = createReferenceBackend();
    await loadModel(files, { backend, weights, onProgress: (one) => progress.push(one) });
    return new Map(progress.map((one) => [one.tensor, one]));
  }
  const sizes = { hidden_size: 64, head_dim: 10, intermediate_size: 64 };

  it("q4_0 keeps the head in q8_0, and an embedding of its own in q4_0", async () => {
    const types = await typesOf(tinyLlama(sizes), "q4_0");
    expect(types.get("lm_head.weight")?.loadedAs).toBe("q8_0");
    expect(types.get("model.embed_tokens.weight")?.loadedAs).toBe("q4_0");
    expect(types.get("model.layers.1.mlp.gate_proj.weight")?.loadedAs).toBe("q4_0");
    expect(types.get("model.norm.weight")?.loadedAs).toBe("f32");
  });

  it("q4_0 keeps a table that is embedding and head in q8_0", async () => {
    const types = await typesOf(tinyLlama({ ...sizes, tie_word_embeddings: true }), "q4_0");
    expect(types.get("model.embed_tokens.weight")?.loadedAs).toBe("q8_0");
  });

  it("q8_0 leaves rows that are not whole blocks as stored, and says so; int8 takes any", async () => {
    const odd = "model.layers.0.self_attn.o_proj.weight"; // 40 columns
    const q8 = await typesOf(tinyLlama(sizes), "q8_0");
    expect(q8.get(odd)).toMatchObject({ loadedAs: "f32", fallback: true });
    expect([...q8.values()].filter(({ fallback }) => fallback)).toHaveLength(3);
    const int8 = await typesOf(tinyLlama(sizes), "int8");
    expect(int8.get(odd)).toMatchObject({ loadedAs: "int8", fallback: false });
    expect((await inspectModel(tinyLlama(sizes), { weights: "q8_0" })).fallbackMatrices).toBe(3);
  });

  it("refuses a type that is none", async () => {
    const weights = "q5_1" as WeightChoice;
    const message = 'weights must be one of stored, f32, f16, bf16, int8, q8_0, q4_0; got weights="q5_1".';
    await expect(loadModel(tinyLlama(), { weights })).rejects.toThrow(`loadModel: ${message}`);
    await expect(inspectModel(tinyLlama(), { weights })).rejects.toThrow(`inspectModel: ${message}`);
  });

  it("leaves nothing behind in the backend when it fails or is stopped", async () => {
    const files = tinyLlama(sizes, (tensors) => {
      tensors["model.layers.2.mlp.up_proj.weight"].data[64 * 3 + 7] = Number.NaN;
    });
    const backend = await createWasm();
    const before = backend.usedBytes;
    await expect(loadModel(files, { backend, weights: "int8" })).rejects.toThrow("weights that int8 can hold");
    const stop = new AbortController();
    const onProgress = ({ loadedTensors }: LoadProgress): void => {
      if (loadedTensors === 5) stop.abort();
    };
    await expect(loadModel(tinyLlama(sizes), { backend, onProgress, signal: stop.signal })).rejects.toThrow("aborted");
    await backend.flush();
    expect(backend.usedBytes).toBe(before);
    const model = await loadModel(tinyLlama(sizes), { backend });
    expect((await model.forward({ tokens: [1, 2] })).data.every(Number.isFinite)).toBe(true);
  });

  it("refuses the name of a backend in place of one", async () => {
    const backend = "reference" as unknown as Backend;
    await expect(loadModel(tinyLlama(), { backend })).rejects.toThrow(
      'loadModel: backend must be what createBackend gives; got backend="reference". ' +
        'Pass backend: await createBackend({ backend: "reference" }), for example.',
    );
  });

  it("refuses weights that the type cannot hold, by the tensor's name", async () => {
    const files = tinyLlama(sizes, (tensors) => {
      tensors["model.layers.2.mlp.up_proj.weight"].data[64 * 3 + 7] = Number.NaN;
    });
    await expect(loadModel(files, { backend: createReferenceBackend(), weights: "q8_0" })).rejects.toThrow(
      "model.layers.2.mlp.up_proj.weight: weights that q8_0 can hold; got row=3, column=7, value=NaN. " +
        "The file is damaged, or its weights need a type of wider range: f32 or bf16.",
    );
  });
});
