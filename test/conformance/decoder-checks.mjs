/** Whole decoders: a small one with random weights beside the reference, and a trained one that tells its story. */

import { createReferenceBackend } from "../../dist/engine/index.js";
import { generate } from "../../dist/generate/index.js";
import { loadModel } from "../../dist/model/index.js";
import { LOGITS } from "./budgets.mjs";
import { expectClose, expectSame } from "./numbers.mjs";
import { randomLlama } from "./random-llama.mjs";

const CONFIG = {
  model_type: "llama",
  hidden_size: 24,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 10,
  intermediate_size: 29,
  num_hidden_layers: 3,
  vocab_size: 37,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 100,
  tie_word_embeddings: false,
  eos_token_id: 2,
};
const TOKENS = [1, 5, 36, 0, 17, 17, 3, 29, 11, 2, 8];

async function compareModels(backend, inputs) {
  const files = randomLlama(CONFIG);
  const models = await Promise.all([backend, createReferenceBackend()].map((b) => loadModel(files, { backend: b })));
  const caches = models.map((model) => model.createCache());
  for (const [step, input] of inputs.entries()) {
    const [got, want] = await Promise.all(models.map((model, n) => model.forward({ ...input, cache: caches[n] })));
    expectClose(`step ${step}`, got.data, want.data, LOGITS);
  }
}

const PACKED = {
  tokens: TOKENS,
  positions: Int32Array.of(0, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1),
  segments: Int32Array.of(-1, 0, 0, 0, 1, 1, 1, 1, 1, 7, 7),
  logits: "all",
};

/** [name, check(backend, { openModel, stories })]; `stories` are the expected texts of the model that is opened. */
export const DECODER_CHECKS = [
  ["small decoder, a prompt", (backend) => compareModels(backend, [{ tokens: TOKENS, logits: "all" }])],
  [
    "small decoder, step by step",
    (backend) =>
      compareModels(
        backend,
        TOKENS.map((token) => ({ tokens: [token] })),
      ),
  ],
  ["small decoder, packed texts and padding", (backend) => compareModels(backend, [PACKED])],
  [
    "stories260K tells its story",
    async (backend, { openModel, stories }) => {
      const model = await loadModel(await openModel(), { backend });
      const { prompt, text, steps, prompt_token_count } = stories.find((story) => story.prompt.length > 0);
      const summary = await generate(model, prompt, { maxNewTokens: steps + 1 - prompt_token_count }).finish();
      expectSame("text", summary.text, text);
    },
  ],
];
