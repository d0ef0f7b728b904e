import { describe, expect, test } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { values } from "../../test/support/values.ts";
import { createTrainingBackend } from "../engine/index.ts";
import { createMemoryFiles } from "../model/index.ts";
import type { RotaryLayer } from "../rope/index.ts";
import { DecoderGradients, type GradientModel, type GradientOptions } from "./decoder-gradients.ts";
import { STEEP } from "./layer-gradients.ts";
import type { PackedBatch } from "./packed-batch.ts";
import { createTrainable, type TrainableModel } from "./trainable-model.ts";

const LLAMA = {
  model_type: "llama",
  hidden_size: 6,
  num_attention_heads: 3,
  num_key_value_heads: 1,
  head_dim: 4,
  intermediate_size: 7,
  num_hidden_layers: 2,
  vocab_size: 11,
  max_position_embeddings: 16,
  rms_norm_eps: 1e-5,
  rope_theta: 50,
  tie_word_embeddings: true,
};

const QWEN3 = {
  ...LLAMA,
  model_type: "qwen3",
  num_key_value_heads: 3,
  tie_word_embeddings: false,
  attention_bias: true,
  use_sliding_window: true,
  sliding_window: 2,
  layer_types: ["full_attention", "sliding_attention"],
  rope_scaling: { rope_type: "yarn", factor: 3, original_max_position_embeddings: 8 },
};

/** Three texts, the last after padding; weights of 0, 1 and others. */
const BATCH: PackedBatch = {
  tokens: Int32Array.of(3, 1, 4, 1, 5, 9, 2, 0, 6, 5, 3),
  positions: Int32Array.of(0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2),
  segments: Int32Array.of(0, 0, 0, 0, 1, 1, 1, -1, 2, 2, 2),
  targets: Int32Array.of(1, 4, 1, -1, 9, 2, -1, -1, 5, 3, -1),
  weights: Float32Array.of(1, 1, 2.5, 0, 1, 0.25, 0, 0, 1, 1, 0),
};

const OPTIONS: GradientOptions = { tokens: BATCH.tokens.length, contextTokens: 8 };

async function modelOf(config: object): Promise<TrainableModel> {
  const files = createMemoryFiles(new Map([["config.json", JSON.stringify(config)]]));
  const model = await createTrainable(files, {
    backend: await createTrainingBackend({ backend: "reference" }),
    seed: 0,
  });
  let salt = 1;
  for (const [, { shape, data }] of model.parameters.entries()) {
    const gain = shape.length === 1 ? 1 : 0;
    const size = shape.length === 1 ? 0.3 : 1.3 / Math.sqrt(shape[1]);
    data.set(values(shape, salt++).data.map((value) => gain + size * value));
  }
  return model;
}

const INTERLEAVED: Partial<RotaryLayer> = { pairing: "interleaved" };

/** The model with other rotations than its family has. */
function changeRotation({ config, weights, parameters, backend }: TrainableModel, change: object): GradientModel {
  const layers = config.layers.map((layer) => {
    const rotary = { ...(layer.positions.rotary as RotaryLayer), ...change };
    return { ...layer, positions: { ...layer.positions, rotary } };
  });
  return { config: { ...config, layers }, weights, parameters, backend };
}

function lossOf(gradients: DecoderGradients): number {
  gradients.evaluate(BATCH);
  return gradients.losses.data.reduce((sum, loss, t) => sum + loss * BATCH.weights[t], 0);
}

/** Derivatives of the loss by every parameter, from losses a little to both sides (fourth order). */
function differences(gradients: DecoderGradients, weights: Float32Array): Float64Array {
  const h = 0.008;
  return Float64Array.from(weights, (weight, i) => {
    const at = (steps: number): number => {
      weights[i] = weight + steps * h;
      return lossOf(gradients);
    };
    const slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h);
    weights[i] = weight;
    return slope;
  });
}

describe("gradients of a decoder", () => {
  test.each([
    ["shared keys, tied head", LLAMA],
    ["biases, head norms, a window, scaled frequencies, a head of its own", QWEN3],
    ["biases of the feed-forward block", { ...LLAMA, mlp_bias: true, num_hidden_layers: 1 }],
    ["gates by GELU", { ...LLAMA, hidden_act: "gelu", num_hidden_layers: 1 }],
    ["gates by GELU's approximation", { ...LLAMA, hidden_act: "gelu_new", num_hidden_layers: 1 }],
    ["interleaved pairs of half the head", { ...LLAMA, num_hidden_layers: 1, partial_rotary_factor: 0.5 }, INTERLEAVED],
  ])("of all parameters equal differences of the loss: %s", async (_, config, change = {}) => {
    const model = await modelOf(config);
    const gradients = new DecoderGradients(changeRotation(model, change), OPTIONS);
    gradients.accumulate(BATCH);
    for (const [name, { data }] of model.parameters.entries()) {
      const got = model.parameters.gradientOf({ dtype: "f32", shape: [data.length], data }).data;
      const want = differences(gradients, data);
      const off = got.findIndex((value, i) => Math.abs(value - want[i]) > 5e-4 * (1 + Math.abs(want[i])));
      expect([name, off, got[off], want[off]]).toEqual([name, -1, undefined, undefined]);
      expect(got.some((value) => Math.abs(value) > 1e-3)).toBe(true);
    }
  });

  test("are added up over batches, and the same to the bit when activations are computed again", async () => {
    const model = await modelOf(QWEN3);
    const { gradients: sums } = model.parameters;
    new DecoderGradients(model, OPTIONS).accumulate(BATCH);
    const once = sums.data.slice();
    new DecoderGradients(model, { ...OPTIONS, recompute: true }).accumulate(BATCH);
    expectClose(
      sums.data,
      once.map((value) => 2 * value),
      1e-6,
    );
    sums.data.fill(0);
    new DecoderGradients(model, { ...OPTIONS, recompute: true }).accumulate(BATCH);
    expect(sums.data).toEqual(once);
  });

  test("losses equal those of the model that runs, text by text", async () => {
    const model = await modelOf(QWEN3);
    const gradients = new DecoderGradients(model, OPTIONS);
    gradients.evaluate(BATCH);
    const running = model.asModel();
    for (const [from, to] of [
      [0, 4],
      [4, 7],
      [8, 11],
    ]) {
      const logits = await running.forward({ tokens: BATCH.tokens.slice(from, to), logits: "all" });
      for (let t = from; t < to; t++) {
        if (BATCH.targets[t] < 0) continue;
        const row = logits.data.slice((t - from) * 11, (t - from + 1) * 11);
        const sum = row.reduce((total, logit) => total + Math.exp(logit), 0);
        expectClose([gradients.losses.data[t]], [Math.log(sum) - row[BATCH.targets[t]]], 1e-5);
      }
    }
  });

  test("logits of a few rows at a time change nothing", async () => {
    const model = await modelOf(LLAMA);
    new DecoderGradients(model, OPTIONS).accumulate(BATCH);
    const whole = model.parameters.gradients.data.slice();
    model.parameters.gradients.data.fill(0);
    const gradients = new DecoderGradients(model, { ...OPTIONS, logitRows: 4 });
    gradients.accumulate(BATCH);
    expectClose(model.parameters.gradients.data, whole, 1e-6);
    expect(gradients.losses.data.filter((loss) => loss > 0)).toHaveLength(7);
  });

  test("the largest scores of every head are recorded", async () => {
    const model = await modelOf(LLAMA);
    const gradients = new DecoderGradients(model, { ...OPTIONS, recordScores: true });
    gradients.evaluate(BATCH);
    // Scaling queries by 3 scales all scores by 3.
    const before = Float32Array.from(gradients.scores(0).data, (score) => score / STEEP);
    const { weight } = model.weights.layers[0].query;
    for (let i = 0; i < weight.data.length; i++) weight.data[i] *= 3;
    gradients.evaluate(BATCH);
    const visible = BATCH.segments.findIndex((segment) => segment < 0) * 3;
    const after = Float32Array.from(gradients.scores(0).data, (score) => score / STEEP);
    expectClose(
      after.slice(0, visible),
      before.slice(0, visible).map((score) => 3 * score),
      1e-4,
    );
    expect(after.slice(visible, visible + 3)).toEqual(Float32Array.of(-Infinity, -Infinity, -Infinity));
  });
});

describe("refusals", () => {
  test("parts without a gradient are named", async () => {
    const model = await modelOf(LLAMA);
    const config = { ...model.config, layers: model.config.layers.map((layer) => ({ ...layer, sinks: [1] })) };
    const { weights, parameters, backend } = model;
    expect(() => new DecoderGradients({ config, weights, parameters, backend }, OPTIONS)).toThrow(
      'train: a decoder whose every part has a gradient; got modelType="llama", part="sinks".',
    );
  });

  test("batches of another size, and tokens and positions that do not exist", async () => {
    const gradients = new DecoderGradients(await modelOf(LLAMA), OPTIONS);
    const short = { ...BATCH, tokens: BATCH.tokens.slice(1) };
    expect(() => gradients.accumulate(short)).toThrow("train: a batch of 11 tokens; got lengths=[10,11,11,11,11].");
    const far = { ...BATCH, positions: BATCH.positions.map((p) => (p === 3 ? 8 : p)) };
    expect(() => gradients.accumulate(far)).toThrow(
      "train: tokens of the vocabulary at positions of the context; got index=3, token=1, target=-1, position=8.",
    );
  });
});
