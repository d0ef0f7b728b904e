/**
 * The training loop: batches in, gradients accumulated, clipped and taken, with evaluation and checkpoints between steps.
 *
 * A step depends on the weights and moments before it and on its number, and on nothing else; a run that resumes from a
 * checkpoint therefore goes on to the bit (with the same backend and number of threads).
 */

import type { TrainingBackend } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import type { DecoderModel } from "../model/index.ts";
import { rows, type Tensor } from "../tensor.ts";
import { type RunState, restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { DecoderGradients } from "./decoder-gradients.ts";
import { learningRateFactor } from "./learning-rate.ts";
import { type PackedBatch, totalWeight } from "./packed-batch.ts";
import { clipHeads, collectScores } from "./qk-clip.ts";
import {
  checkOptions,
  type EvaluationOptions,
  type EvaluationReport,
  recipeOf,
  type StepReport,
  type TrainOptions,
  type TrainResult,
} from "./train-options.ts";
import type { TrainableModel } from "./trainable-model.ts";

/**
 * Trains a model.
 *
 * @param options - see {@link TrainOptions}
 * @throws ConfigError for options that contradict each other, a checkpoint that would be overwritten or belongs to another
 * run, and a loss that is not a number any more (the last checkpoint is still good then)
 * @throws CapabilityError when the model has parts that cannot be trained
 * @throws BudgetError when the backend's memory does not hold the activations
 * @see https://arxiv.org/abs/1711.05101 (AdamW)
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  checkOptions(options);
  const { model, steps, checkpoint, evaluation, signal } = options;
  const recipe = recipeOf(options);
  let state: RunState = { step: 0, tokens: 0, seconds: 0 };
  await model.backend.flush();
  const stored = await checkpoint?.store.read();
  if (stored && !checkpoint?.resume) {
    const hint = "Resume it, take it away, or name another.";
    const { name } = checkpoint?.store ?? {};
    throw new ConfigError("train", "no checkpoint where the run's is to go", name === undefined ? {} : { name }, hint);
  }
  if (stored) state = await restoreCheckpoint(stored, model.parameters, recipe, checkpoint?.store.name);

  const run = new Run(options);
  let loss: number | undefined;
  let saved = state.step;
  const save = async (): Promise<void> => {
    if (!checkpoint || saved === state.step) return;
    await saveCheckpoint(checkpoint.store, model.backend, model.parameters, recipe, state);
    saved = state.step;
  };
  try {
    while (state.step < steps && !signal?.aborted) {
      const done = await run.step(state.step + 1);
      loss = done.loss;
      state = {
        step: done.step,
        tokens: state.tokens + done.tokens,
        seconds: state.seconds + done.seconds,
      };
      await options.onStep?.({ ...done, totalTokens: state.tokens, totalSeconds: state.seconds });
      const isLast = state.step === steps;
      if (evaluation && (isLast || state.step % evaluation.everySteps === 0)) {
        await options.onEvaluation?.(await run.evaluate(state.step, evaluation));
      }
      if (checkpoint && (isLast || state.step % checkpoint.everySteps === 0)) await save();
    }
    await save();
    await model.backend.flush();
  } finally {
    run.release();
  }
  return { step: state.step, loss };
}

/**
 * The loss of a model on held-out batches.
 *
 * @param batches - all of one size, as `packOnce` gives them
 * @param contextTokens - positions are below
 * @returns mean over all predictions by weight, in nats
 * @throws ConfigError when there are no batches
 * @throws CapabilityError when the model has parts that cannot be trained
 */
export async function heldOutLoss(
  model: TrainableModel,
  batches: readonly PackedBatch[],
  contextTokens: number,
): Promise<number> {
  if (batches.length === 0) throw new ConfigError("heldOutLoss", "at least one batch");
  const gradients = new DecoderGradients(model, { tokens: batches[0].tokens.length, contextTokens, recompute: true });
  try {
    return await meanLoss(gradients, model.backend, batches);
  } finally {
    gradients.release();
  }
}

/** The moving parts of one run. */
class Run {
  readonly #options: TrainOptions;
  readonly #gradients: DecoderGradients;
  /** f32 [1]. */
  readonly #squaredNorm: Tensor<"f32">;
  /** Largest scores [H] of every layer in a step. */
  readonly #largest: readonly Float64Array[];
  /** Matrices, then vectors. */
  readonly #parts: readonly { readonly range: readonly [number, number]; readonly weightDecay: number }[];
  #running: DecoderModel | undefined;

  constructor(options: TrainOptions) {
    const { model, data, recompute = false, qkClip, optimizer } = options;
    this.#options = options;
    this.#gradients = new DecoderGradients(model, {
      tokens: data.batchTokens,
      contextTokens: data.contextTokens,
      recompute,
      recordScores: qkClip !== undefined,
    });
    this.#squaredNorm = model.backend.allocate([1]);
    this.#largest = model.config.layers.map(({ heads }) => new Float64Array(heads));
    const { decaying, weights } = model.parameters;
    this.#parts = [
      { range: [0, decaying] as const, weightDecay: optimizer.weightDecay ?? 0.1 },
      { range: [decaying, weights.data.length] as const, weightDecay: 0 },
    ].filter(({ range: [from, to] }) => to > from);
    model.backend.fill(model.parameters.gradients, 0);
  }

  async step(step: number): Promise<Omit<StepReport, "totalTokens" | "totalSeconds">> {
    const began = performance.now();
    const { model, data, steps, accumulate = 1, optimizer, schedule = { type: "constant" }, qkClip } = this.#options;
    const { backend, parameters } = model;
    for (const scores of this.#largest) scores.fill(-Infinity);
    let [loss, weight, tokens, computed] = [0, 0, 0, 0];
    for (let n = 0; n < accumulate; n++) {
      const batch = data.batch((step - 1) * accumulate + n);
      this.#gradients.accumulate(batch);
      if (n === accumulate - 1) {
        backend.fill(this.#squaredNorm, 0);
        backend.addSquaredNorm(this.#squaredNorm, parameters.gradients);
      }
      const issued = performance.now();
      await backend.flush();
      computed += performance.now() - issued;
      loss += weightedSum(this.#gradients.losses.data, batch.weights);
      weight += totalWeight(batch);
      for (const target of batch.targets) if (target >= 0) tokens++;
      if (qkClip !== undefined) this.#collectScores();
    }
    const gradientNorm = Math.sqrt(this.#squaredNorm.data[0]) / weight;
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      const hint = weight === 0 ? "Its batches predict nothing." : "Lower the learning rate, or warm up longer.";
      throw new ConfigError("train", "a finite loss and gradient", { step, loss: loss / weight, gradientNorm }, hint);
    }
    const learningRate = optimizer.learningRate * learningRateFactor(schedule, step, steps);
    const { clip = 1 } = optimizer;
    const gradientScale = Math.min(1, gradientNorm > 0 ? clip / gradientNorm : 1) / weight;
    this.#update(step, learningRate, gradientScale);
    // The update itself runs with the next batch, unless somebody looks at the weights before.
    const largestScore = Math.max(...this.#largest.map((scores) => Math.max(...scores)));
    const clippedHeads = qkClip === undefined ? undefined : await this.#clipHeads(qkClip);
    return {
      step,
      loss: loss / weight,
      learningRate,
      gradientNorm,
      tokens,
      seconds: (performance.now() - began) / 1000,
      computeSeconds: computed / 1000,
      ...(clippedHeads !== undefined && { largestScore, clippedHeads }),
    };
  }

  async evaluate(step: number, { batches, measure }: EvaluationOptions): Promise<EvaluationReport> {
    const { model } = this.#options;
    const loss = await meanLoss(this.#gradients, model.backend, batches);
    if (measure === undefined) return { step, loss, measures: {} };
    this.#running ??= model.asModel();
    return { step, loss, measures: await measure(this.#running, step) };
  }

  release(): void {
    this.#gradients.release();
    this.#options.model.backend.release(this.#squaredNorm);
  }

  #update(step: number, learningRate: number, gradientScale: number): void {
    const { backend, parameters } = this.#options.model;
    const { beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8 } = this.#options.optimizer;
    for (const { range, weightDecay } of this.#parts) {
      backend.adamW({
        weight: rows(parameters.weights, ...range),
        gradient: rows(parameters.gradients, ...range),
        mean: rows(parameters.means, ...range),
        square: rows(parameters.squares, ...range),
        gradientScale,
        learningRate,
        beta1,
        beta2,
        epsilon,
        weightDecay,
        step,
      });
    }
    backend.fill(parameters.gradients, 0);
  }

  #collectScores(): void {
    for (const [layer, largest] of this.#largest.entries()) {
      collectScores(largest, this.#gradients.scores(layer).data);
    }
  }

  async #clipHeads(limit: number): Promise<number> {
    const { model } = this.#options;
    await model.backend.flush();
    return clipHeads(model, this.#largest, limit);
  }
}

async function meanLoss(
  gradients: DecoderGradients,
  backend: TrainingBackend,
  batches: readonly PackedBatch[],
): Promise<number> {
  let [loss, weight] = [0, 0];
  for (const batch of batches) {
    gradients.evaluate(batch);
    await backend.flush();
    loss += weightedSum(gradients.losses.data, batch.weights);
    weight += totalWeight(batch);
  }
  return loss / weight;
}

function weightedSum(values: Float32Array, weights: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * weights[i];
  return sum;
}
