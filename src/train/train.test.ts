import { describe, expect, test } from "vitest";
import { createReferenceBackend, createTrainingBackend, type TrainingBackend } from "../engine/index.ts";
import { createMemoryFiles, loadModel } from "../model/index.ts";
import type { CheckpointStore } from "./checkpoint.ts";
import { packDocuments, packOnce } from "./packed-batches.ts";
import { heldOutLoss, train } from "./train.ts";
import type { EvaluationReport, StepReport, TrainOptions } from "./train-options.ts";
import { createTrainable, type ExportDType, loadTrainable, type TrainableModel } from "./trainable-model.ts";

const CONFIG = {
  model_type: "llama",
  hidden_size: 12,
  num_attention_heads: 3,
  num_key_value_heads: 1,
  head_dim: 4,
  intermediate_size: 17,
  num_hidden_layers: 2,
  vocab_size: 13,
  max_position_embeddings: 32,
  tie_word_embeddings: true,
  eos_token_id: 2,
};

/** Counting up from anywhere, modulo 11: easy to learn. */
const DOCUMENTS = Array.from({ length: 30 }, (_, n) => ({
  tokens: Array.from({ length: 4 + (n % 9) }, (_, i) => (3 * n + i) % 11),
}));
const PACKING = { contextTokens: 16, batchTokens: 32, seed: 1 };

const filesOf = (config: object) => createMemoryFiles(new Map([["config.json", JSON.stringify(config)]]));
const reference = (): Promise<TrainingBackend> => createTrainingBackend({ backend: "reference" });

async function newModel(config: object = CONFIG): Promise<TrainableModel> {
  return createTrainable(filesOf(config), { backend: await reference(), seed: 5 });
}

async function optionsOf(changes: Partial<TrainOptions> = {}): Promise<TrainOptions> {
  return {
    model: await newModel(),
    data: packDocuments(DOCUMENTS, PACKING),
    steps: 12,
    optimizer: { learningRate: 0.02 },
    schedule: { type: "cosine", warmupSteps: 3, floor: 0.1 },
    ...changes,
  };
}

/** A run's reports. */
async function reportsOf(options: TrainOptions): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  await train({ ...options, onStep: (report) => void reports.push(report) });
  return reports;
}

function memoryStore(): CheckpointStore & { bytes?: Uint8Array; writes: number } {
  return {
    writes: 0,
    async read() {
      return this.bytes;
    },
    async write(bytes) {
      this.bytes = bytes.slice();
      this.writes++;
    },
  };
}

const numbersOf = (reports: StepReport[]): number[][] =>
  reports.map(({ step, loss, learningRate, gradientNorm, tokens }) => [step, loss, learningRate, gradientNorm, tokens]);

describe("train", () => {
  test("learns: the loss begins at ln V and falls below a third of it", async () => {
    const reports = await reportsOf(await optionsOf({ steps: 60 }));
    expect(reports[0].loss).toBeCloseTo(Math.log(13), 1);
    expect(reports[59].loss).toBeLessThan(Math.log(13) / 3);
    expect(reports[59].totalTokens).toBe(reports.reduce((sum, { tokens }) => sum + tokens, 0));
  });

  test("accumulated batches make the step of one large batch", async () => {
    const large = { ...PACKING, batchTokens: 64 };
    const whole = await reportsOf(await optionsOf({ steps: 5, data: packDocuments(DOCUMENTS, large) }));
    const parts = await reportsOf(await optionsOf({ steps: 5, accumulate: 2 }));
    for (const [n, { loss, gradientNorm }] of parts.entries()) {
      expect(loss).toBeCloseTo(whole[n].loss, 5);
      expect(gradientNorm).toBeCloseTo(whole[n].gradientNorm, 5);
    }
  });

  test("computing activations again changes nothing", async () => {
    const kept = await reportsOf(await optionsOf({ steps: 4 }));
    const again = await reportsOf(await optionsOf({ steps: 4, recompute: true }));
    expect(numbersOf(again)).toEqual(numbersOf(kept));
  });

  test("held-out batches of another size, and none at all, are refused before the first step", async () => {
    const options = await optionsOf();
    const evaluated = (batches: ReturnType<typeof packOnce>) =>
      train({ ...options, evaluation: { everySteps: 12, batches } });
    await expect(evaluated(packOnce(DOCUMENTS, { ...PACKING, batchTokens: 16 }))).rejects.toThrow(
      "train: held-out batches of the size of the training data's; got batch=0, tokens=16, batchTokens=32.",
    );
    await expect(evaluated([])).rejects.toThrow("train: at least one held-out batch.");
    await expect(heldOutLoss(options.model, [], 16)).rejects.toThrow("heldOutLoss: at least one batch.");
  });

  test("a step moves no weight further than AdamW allows, and norms do not decay", async () => {
    const options = await optionsOf({ steps: 1, schedule: { type: "constant" } });
    const { parameters } = options.model;
    const before = parameters.weights.data.slice();
    await train({ ...options, optimizer: { learningRate: 0.01, weightDecay: 0 } });
    const moved = parameters.weights.data.map((weight, i) => Math.abs(weight - before[i]));
    expect(Math.max(...moved)).toBeLessThan(0.01 + 1e-7); // the first step is lr·sign(g)
    expect(Math.max(...moved)).toBeGreaterThan(0.0099);

    const decayed = await optionsOf({ steps: 1, schedule: { type: "constant" } });
    await train({ ...decayed, optimizer: { learningRate: 0.01, weightDecay: 0.5 } });
    const after = decayed.model.parameters;
    for (const [name, { data, shape }] of after.entries()) {
      const start = (data.byteOffset - after.weights.data.byteOffset) / 4;
      const plain = parameters.weights.data.subarray(start, start + data.length);
      const decay = shape.length > 1 ? 0.005 : 0;
      const off = data.findIndex((value, i) => Math.abs(plain[i] - decay * before[start + i] - value) > 1e-7);
      expect([name, off]).toEqual([name, -1]);
    }
  });

  test("clipping bounds the gradient before AdamW, whose means show it", async () => {
    const options = await optionsOf({ steps: 4, optimizer: { learningRate: 1e-9, clip: 1e-3 } });
    const [{ gradientNorm }] = await reportsOf(options);
    expect(gradientNorm).toBeGreaterThan(0.01);
    // A mean of gradients of norm 0.001 each, four of them at 0.9 a step: at most (1 − 0.9⁴) of it.
    const norm = Math.sqrt(options.model.parameters.means.data.reduce((sum, mean) => sum + mean ** 2, 0));
    expect(norm).toBeLessThan(1e-3 * (1 - 0.9 ** 4) * 1.0001);
    expect(norm).toBeGreaterThan(1e-4);
  });

  test("evaluates held-out documents every so many steps and at the end, and what else is measured", async () => {
    const held = packOnce(DOCUMENTS.slice(0, 7), PACKING);
    const reports: EvaluationReport[] = [];
    const options = await optionsOf({ steps: 5 });
    await train({
      ...options,
      evaluation: {
        everySteps: 2,
        batches: held,
        measure: async (model, step) => {
          const logits = await model.forward({ tokens: [3, 4, 5] });
          return { next: logits.data.indexOf(Math.max(...logits.data)), twice: 2 * step };
        },
      },
      onEvaluation: (report) => void reports.push(report),
    });
    expect(reports.map(({ step }) => step)).toEqual([2, 4, 5]);
    expect(reports.map(({ measures }) => measures.twice)).toEqual([4, 8, 10]);
    expect(reports[2].loss).toBe(await heldOutLoss(options.model, held, 16));
    expect(reports[2].loss).toBeLessThan(reports[0].loss);
  });

  test("QK-clip scales heads beyond its limit and nothing else", async () => {
    const tight = await optionsOf({ steps: 5, qkClip: 1e-4 });
    expect((await reportsOf(tight)).every(({ clippedHeads = 0 }) => clippedHeads > 0)).toBe(true);
    const loose = await optionsOf({ steps: 5, qkClip: 1000 });
    const reports = await reportsOf(loose);
    expect(reports.map(({ clippedHeads }) => clippedHeads)).toEqual([0, 0, 0, 0, 0]);
    for (const { largestScore = 0 } of reports) expect(largestScore > 1e-4 && largestScore < 1000).toBe(true);
    const { largestScore: largest = 0 } = reports[0];
    const oneBelow = await optionsOf({ steps: 5, qkClip: largest * (1 - 1e-6) });
    expect((await reportsOf(oneBelow))[0]).toMatchObject({ largestScore: largest, clippedHeads: 1 });
    const [recorded] = await reportsOf(await optionsOf({ steps: 5, qkClip: Infinity }));
    expect(recorded).toMatchObject({ largestScore: largest, clippedHeads: 0 });
    const without = await optionsOf({ steps: 5 });
    await train(without);
    expect(loose.model.parameters.weights.data).toEqual(without.model.parameters.weights.data);
    expect(tight.model.parameters.weights.data).not.toEqual(without.model.parameters.weights.data);
  });
});

describe("checkpoints", () => {
  test("a run that stopped goes on to the bit", async () => {
    const whole = await optionsOf();
    const want = numbersOf(await reportsOf(whole));

    const store = memoryStore();
    const controller = new AbortController();
    const stopped: StepReport[] = [];
    const { step } = await train({
      ...(await optionsOf()),
      checkpoint: { store, everySteps: 100 },
      signal: controller.signal,
      onStep: (report) => {
        stopped.push(report);
        if (report.step === 5) controller.abort();
      },
    });
    expect(step).toBe(5);

    const resumed = await optionsOf({ checkpoint: { store, everySteps: 100, resume: true } });
    const rest = await reportsOf(resumed);
    expect(rest[0].totalTokens).toBe(stopped[4].totalTokens + rest[0].tokens);
    expect(numbersOf([...stopped, ...rest])).toEqual(want);
    expect(resumed.model.parameters.weights.data).toEqual(whole.model.parameters.weights.data);
  });

  test("are written every so many steps and at the end, and a finished run does nothing more", async () => {
    const store = memoryStore();
    await train(await optionsOf({ checkpoint: { store, everySteps: 5 } }));
    expect(store.writes).toBe(3);
    const options = await optionsOf({ checkpoint: { store, everySteps: 5, resume: true } });
    expect(await train(options)).toEqual({ step: 12, loss: undefined });
    expect(store.writes).toBe(3);
  });

  test("are not overwritten, and not taken for those of another run", async () => {
    const store = memoryStore();
    await train(await optionsOf({ steps: 2, schedule: { type: "constant" }, checkpoint: { store, everySteps: 1 } }));
    await expect(train(await optionsOf({ checkpoint: { store, everySteps: 1 } }))).rejects.toThrow(
      "train: no checkpoint where the run's is to go. Resume it, take it away, or name another.",
    );
    const changes = {
      steps: 3,
      schedule: { type: "constant" },
      checkpoint: { store, everySteps: 1, resume: true },
    } as const;
    await expect(train(await optionsOf(changes))).rejects.toThrow(
      "checkpoint: steps as the run began with; got steps=3, checkpoint=2. Repeat the same options, or begin a new run.",
    );
  });

  test("that are damaged are refused and change nothing", async () => {
    const store = memoryStore();
    await train(await optionsOf({ checkpoint: { store, everySteps: 5 } }));
    const whole = store.bytes as Uint8Array;
    for (const length of [0, 7, 500, whole.length - 1]) {
      store.bytes = whole.slice(0, length);
      const options = await optionsOf({ checkpoint: { store, everySteps: 5, resume: true } });
      const before = options.model.parameters.weights.data.slice();
      await expect(train(options)).rejects.toThrow(/^checkpoint: /);
      expect(options.model.parameters.weights.data).toEqual(before);
    }
  });
});

describe("refusals", () => {
  test("a loss that is no number ends the run before the weights are spoiled", async () => {
    const options = await optionsOf({ steps: 40, optimizer: { learningRate: 1e30, clip: Infinity } });
    await expect(train(options)).rejects.toThrow(
      /^train: a finite loss and gradient; got step=\d+, loss=.*\. Lower the learning rate, or warm up longer\.$/,
    );
  });

  test.each([
    [{ steps: 0 }, "steps must be a positive integer; got steps=0."],
    [{ optimizer: { learningRate: 0 } }, "learningRate must be above 0; got learningRate=0."],
    [{ optimizer: { learningRate: 1, beta2: 1 } }, "beta2 must be from 0 to below 1; got beta2=1."],
    [
      { data: packDocuments(DOCUMENTS, { contextTokens: 33, batchTokens: 33 }) },
      "a context that the model is made for; got contextTokens=33, max_position_embeddings=32. " +
        "Raise max_position_embeddings, or extend the context with a scaled rotary schedule.",
    ],
  ])("%j", async (changes, message) => {
    await expect(train(await optionsOf(changes))).rejects.toThrow(`train: ${message}`);
  });

  test("QK-clip where norms bound the scores", async () => {
    const model = await newModel({ ...CONFIG, model_type: "qwen3" });
    await expect(train(await optionsOf({ model, qkClip: 50 }))).rejects.toThrow(
      "train: qkClip needs queries and keys without norms. " +
        "Normalised queries and keys bound the scores already; leave qkClip out.",
    );
  });
});

describe("models", () => {
  test.each([
    ["f32", 0],
    ["f16", 2e-3],
    ["bf16", 2e-2],
  ] as [ExportDType, number][])("written as %s run as they do in training", async (dtype, tolerance) => {
    const options = await optionsOf({ steps: 30 });
    await train(options);
    const { model } = options;
    const files = await model.toFiles(dtype);
    expect(JSON.parse(files.get("config.json") as string).torch_dtype).toBe(
      { f32: "float32", f16: "float16", bf16: "bfloat16" }[dtype],
    );
    const loaded = await loadModel(createMemoryFiles(files), { backend: await reference() });
    expect(loaded.stopTokenIds).toEqual([2]);
    const input = { tokens: [3, 4, 5, 6], logits: "all" } as const;
    const want = await model.asModel().forward(input);
    const got = await loaded.forward(input);
    const off = got.data.map((logit, i) => Math.abs(logit - want.data[i]) / (1 + Math.abs(want.data[i])));
    expect(Math.max(...off)).toBeLessThanOrEqual(tolerance);
  });

  test("that were written can be trained further, from the same weights", async () => {
    const { model } = await optionsOf();
    const files = createMemoryFiles(await model.toFiles("f32"));
    const loaded = await loadTrainable(files, { backend: await reference() });
    expect(loaded.parameters.weights.data).toEqual(model.parameters.weights.data);
    const reports = await reportsOf(await optionsOf({ model: loaded, steps: 4 }));
    expect(numbersOf(reports)).toEqual(numbersOf(await reportsOf(await optionsOf({ steps: 4 }))));
  });

  test("are not made on a backend that does not train", async () => {
    const making = { backend: createReferenceBackend() as TrainingBackend, seed: 1 };
    const message = 'a backend that trains; got backend="reference". createTrainingBackend makes one.';
    await expect(createTrainable(filesOf(CONFIG), making)).rejects.toThrow(`createTrainable: ${message}`);
    const { model } = await optionsOf();
    const files = createMemoryFiles(await model.toFiles("f32"));
    await expect(loadTrainable(files, making)).rejects.toThrow(`loadTrainable: ${message}`);
  });

  test("begin with seeded weights: small, smaller into the residual stream, gains of 1", async () => {
    const config = { ...CONFIG, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 8, attention_bias: true };
    const [a, b] = [await newModel(config), await newModel(config)];
    expect(a.parameters.weights.data).toEqual(b.parameters.weights.data);
    const deviation = ({ data }: { data: ArrayLike<number> }): number =>
      Math.sqrt(Array.from(data).reduce((sum, value) => sum + value * value, 0) / data.length);
    const { down, gate, query, feedForwardNorm } = a.weights.layers[3];
    // Cut off at two standard deviations, a normal distribution keeps 0.88 of its own.
    expect(deviation(gate.weight) / 0.02).toBeCloseTo(0.88, 1);
    expect(deviation(down.weight) / 0.005).toBeCloseTo(0.88, 1);
    expect(new Set(feedForwardNorm.data)).toEqual(new Set([1]));
    expect(new Set(query.bias?.data)).toEqual(new Set([0]));
    const other = await createTrainable(filesOf(config), { backend: await reference(), seed: 6 });
    expect(other.parameters.weights.data).not.toEqual(a.parameters.weights.data);
  });
});
