import { describe, expect, test } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { createTrainingBackend, type DecoderBackendName } from "../engine/index.ts";
import { createMemoryFiles } from "../model/index.ts";
import { DecoderGradients } from "./decoder-gradients.ts";
import { packDocuments } from "./packed-batches.ts";
import { createTrainable } from "./trainable-model.ts";

const LLAMA = {
  model_type: "llama",
  hidden_size: 28,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 6,
  intermediate_size: 37,
  num_hidden_layers: 2,
  vocab_size: 53,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
};

const QWEN3 = {
  ...LLAMA,
  model_type: "qwen3",
  attention_bias: true,
  tie_word_embeddings: false,
  use_sliding_window: true,
  sliding_window: 7,
  max_window_layers: 1,
};

const DOCUMENTS = Array.from({ length: 23 }, (_, n) => {
  const length = 3 + ((n * 7) % 31);
  const tokens = Array.from({ length }, (_, i) => (13 * n + 5 * i * i) % 53);
  return { tokens, ...(n % 3 === 0 && { weights: tokens.map((token) => (token % 4) / 2) }) };
});
const PACKING = { contextTokens: 29, batchTokens: 87, seed: 1 };

/** Losses, gradients and largest scores after two batches. */
async function run(backendName: DecoderBackendName, config: object) {
  const backend = await createTrainingBackend({ backend: backendName, ...(backendName === "wasm" && { threads: 0 }) });
  const files = createMemoryFiles(new Map([["config.json", JSON.stringify(config)]]));
  const model = await createTrainable(files, { backend, seed: 1 });
  // Larger weights, so that scores differ and no gradient is small.
  for (const [, { shape, data }] of model.parameters.entries()) {
    if (shape.length > 1) for (let i = 0; i < data.length; i++) data[i] *= 8;
  }
  const gradients = new DecoderGradients(model, { tokens: 87, contextTokens: 29, logitRows: 20, recordScores: true });
  const data = packDocuments(DOCUMENTS, PACKING);
  for (const number of [0, 1]) {
    gradients.accumulate(data.batch(number));
    await backend.flush();
  }
  const byName = new Map(
    [...model.parameters.entriesOf(model.parameters.gradients)].map(([name, t]) => [name, t.data]),
  );
  return { losses: gradients.losses.data, scores: gradients.scores(1).data, byName };
}

describe("gradients on WASM", () => {
  test.each([
    ["llama", LLAMA],
    ["qwen3", QWEN3],
  ])("equal the reference's: %s", async (_, config) => {
    const want = await run("reference", config);
    const got = await run("wasm", config);
    expectClose(got.losses, want.losses, 1e-5);
    expectClose(got.scores, want.scores, 1e-3); // of 2^20 times a score
    for (const [name, values] of want.byName) {
      const largest = values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
      const off = (got.byName.get(name) as Float32Array).map((value, i) => Math.abs(value - values[i]) / largest);
      expect([name, off.every((one) => one < 1e-5)]).toEqual([name, true]);
    }
  });
});
