/** Training: a small Llama beside the reference, the operations it does not use, and the same bits every time. */

import { createTrainingBackend, createWasmTrainingBackend } from "../../dist/engine/index.js";
import { DecoderGradients, loadTrainable, packDocuments, train } from "../../dist/train/index.js";
import * as budgets from "./budgets.mjs";
import { expectClose, expectSame, expectSameBits, randomNumbers } from "./numbers.mjs";
import { randomLlama } from "./random-llama.mjs";

const CONFIG = {
  model_type: "llama",
  hidden_size: 20,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 6,
  intermediate_size: 29,
  num_hidden_layers: 2,
  vocab_size: 37,
  max_position_embeddings: 32,
  rms_norm_eps: 1e-5,
  rope_theta: 100,
  tie_word_embeddings: false,
};
/** Of 2 to 18 tokens, so that rows hold several documents, parts of one, and padding. */
const DOCUMENTS = Array.from({ length: 13 }, (_, n) => ({
  tokens: Array.from({ length: 2 + ((n * 5) % 17) }, (_, i) => (11 * n + 3 * i * i) % 37),
}));
const PACKING = { contextTokens: 16, batchTokens: 48, seed: 3 };

/** Losses and gradients by name of one batch, and losses and weights of a short run. */
async function trainOn(backend) {
  const model = await loadTrainable(randomLlama(CONFIG), { backend });
  const data = packDocuments(DOCUMENTS, PACKING);
  const gradients = new DecoderGradients(model, { tokens: PACKING.batchTokens, contextTokens: PACKING.contextTokens });
  gradients.accumulate(data.batch(0));
  await backend.flush();
  const copies = (whole) => [...model.parameters.entriesOf(whole)].map(([name, { data }]) => [name, data.slice()]);
  const result = { losses: gradients.losses.data.slice(), gradients: copies(model.parameters.gradients), steps: [] };
  gradients.release();
  await train({
    ...{ model, data, steps: 4, optimizer: { learningRate: 0.003 }, accumulate: 2 },
    onStep: ({ loss, gradientNorm }) => void result.steps.push(loss, gradientNorm),
  });
  return { ...result, weights: copies(model.parameters.weights) };
}

/** Runs something on a training backend of its own. */
async function on(backend, run) {
  try {
    return await run(backend);
  } finally {
    backend.dispose();
  }
}

let wanted;
const reference = () => {
  wanted ??= createTrainingBackend({ backend: "reference" }).then((backend) => on(backend, trainOn));
  return wanted;
};

/** Operations for [rows, width] that a Llama does not need: the tensors they write. */
async function otherOperations(backend, [rows, width]) {
  const random = (seed, ...shape) => {
    const t = backend.allocate(shape);
    t.data.set(randomNumbers(t.data.length, seed, 2));
    return t;
  };
  const x = random(1, rows, width);
  for (let i = 0; i < x.data.length; i++) x.data[i] += 100;
  const [weight, bias, dOut] = [random(2, width), random(3, width), random(4, rows, width)];
  const written = { normed: x, dx: x, dWeight: weight, dBias: weight };
  for (const [name, { shape }] of Object.entries(written)) written[name] = random(5, ...shape);
  backend.layerNorm(written.normed, x, weight, 0.1, bias);
  backend.layerNormBackward(written.dx, written.dWeight, dOut, x, weight, 0.1, true, written.dBias);
  for (const activation of ["silu", "gelu", "geluTanh"]) {
    const [gate, up] = [random(6, rows, width), random(7, rows, width)];
    const [out, dGate, dUp] = [8, 9, 10].map((seed) => random(seed, rows, width));
    backend.gate(out, gate, up, activation);
    backend.gateBackward(dGate, dUp, dOut, gate, up, activation);
    Object.assign(written, { [`${activation} out`]: out, [`${activation} dGate`]: dGate, [`${activation} dUp`]: dUp });
  }
  await backend.flush();
  return written;
}

/** [name, check(backend, { options })]; `options` are those of the backends to train on. */
export const TRAINING_CHECKS = [
  [
    "a small decoder has the reference's losses and gradients, and learns as fast",
    async (_, { options }) => {
      const [want, got] = [await reference(), await on(await createWasmTrainingBackend(options), trainOn)];
      expectClose("losses", got.losses, want.losses, budgets.LOSSES);
      for (const [n, [name, gradient]] of got.gradients.entries()) {
        expectSame("name", name, want.gradients[n][0]);
        expectClose(`the gradient of ${name}`, gradient, want.gradients[n][1], budgets.GRADIENTS);
      }
      expectClose("losses and gradient norms of steps", got.steps, want.steps, budgets.LOSSES);
      if (!(got.steps[6] < got.steps[0])) throw new Error(`losses went from ${got.steps[0]} to ${got.steps[6]}`);
    },
  ],
  [
    "training gives the same bits every time",
    async (_, { options }) => {
      const first = await on(await createWasmTrainingBackend(options), trainOn);
      const again = await on(await createWasmTrainingBackend(options), trainOn);
      expectSameBits("losses", again.losses, first.losses);
      expectSame("steps", again.steps.join(), first.steps.join());
      for (const part of ["gradients", "weights"]) {
        for (const [n, [name, data]] of first[part].entries())
          expectSameBits(`${part} ${name}`, again[part][n][1], data);
      }
    },
  ],
  [
    "layer norm, gates and their gradients",
    async (_, { options }) => {
      const ours = await createWasmTrainingBackend(options);
      const theirs = await createTrainingBackend({ backend: "reference" });
      await on(ours, async () => {
        for (const shape of [
          [1, 1],
          [5, 7],
          [331, 103],
        ]) {
          const want = await otherOperations(theirs, shape);
          const got = await otherOperations(ours, shape);
          for (const [name, { data }] of Object.entries(want)) {
            expectClose(`${name} of ${shape}`, got[name].data, data, budgets.GRADIENTS);
          }
        }
      });
    },
  ],
];
