/**
 * What a run is asked to do and what it tells.
 */

import { ConfigError } from "../errors.ts";
import type { DecoderModel } from "../model/index.ts";
import type { CheckpointStore, Recipe } from "./checkpoint.ts";
import { checkSchedule, type LearningRateSchedule } from "./learning-rate.ts";
import type { PackedBatch } from "./packed-batch.ts";
import type { TrainingData } from "./packed-batches.ts";
import { checkQkClip } from "./qk-clip.ts";
import type { TrainableModel } from "./trainable-model.ts";

/** AdamW and the limit of gradients. */
export type OptimizerOptions = {
  /** Its largest value; the schedule takes a fraction of it. */
  readonly learningRate: number;
  /** Decay of the mean of gradients; 0.9 when absent. */
  readonly beta1?: number;
  /** Decay of the mean of squared gradients; 0.95 when absent. */
  readonly beta2?: number;
  /** 1e-8 when absent. */
  readonly epsilon?: number;
  /** Of matrices; norms and biases do not decay. 0.1 when absent. */
  readonly weightDecay?: number;
  /** Largest norm of all gradients together; 1 when absent, Infinity for none. */
  readonly clip?: number;
};

/** What a run does. */
export type TrainOptions = {
  readonly model: TrainableModel;
  readonly data: TrainingData;
  /** Steps of the whole run, those before a checkpoint included. */
  readonly steps: number;
  readonly optimizer: OptimizerOptions;
  /** Constant without warm-up when absent. */
  readonly schedule?: LearningRateSchedule;
  /** Batches per step; 1 when absent. */
  readonly accumulate?: number;
  /** Keep only layer inputs and compute the rest again: less memory, a quarter more arithmetic. */
  readonly recompute?: boolean;
  /** Heads whose largest score passes this are scaled down after the step; Infinity records the scores only. */
  readonly qkClip?: number;
  readonly evaluation?: EvaluationOptions;
  readonly checkpoint?: CheckpointOptions;
  /** Called after every step; awaited. */
  readonly onStep?: (report: StepReport) => void | Promise<void>;
  /** Called after every evaluation; awaited. */
  readonly onEvaluation?: (report: EvaluationReport) => void | Promise<void>;
  /** Ends the run after the step at hand, with a checkpoint. */
  readonly signal?: AbortSignal;
};

/** Held-out loss and what else is to be measured. */
export type EvaluationOptions = {
  readonly everySteps: number;
  /** Held-out batches, of the size of the training data's: see `packOnce`. */
  readonly batches: readonly PackedBatch[];
  /** Anything else, by name; the model is the one in training and must not be kept. */
  readonly measure?: (model: DecoderModel, step: number) => Promise<Readonly<Record<string, number>>>;
};

/** When and where a run is saved. */
export type CheckpointOptions = {
  readonly store: CheckpointStore;
  readonly everySteps: number;
  /** Go on from the stored checkpoint if there is one; false unless told, and one that is there is an error then. */
  readonly resume?: boolean;
};

/** What a step did. */
export type StepReport = {
  readonly step: number;
  /** Mean over the step's predictions by weight, in nats, before the step. */
  readonly loss: number;
  readonly learningRate: number;
  /** Norm of all gradients before clipping. */
  readonly gradientNorm: number;
  /** Predictions that counted in the step. */
  readonly tokens: number;
  /** Predictions of all steps so far. */
  readonly totalTokens: number;
  readonly seconds: number;
  /** Of `seconds`, waiting for the backend. */
  readonly computeSeconds: number;
  /** Of all steps so far, earlier runs included. */
  readonly totalSeconds: number;
  /** Largest score of any head in the step, before heads were scaled down; with `qkClip`. */
  readonly largestScore?: number;
  /** Heads scaled down by `qkClip`. */
  readonly clippedHeads?: number;
};

/** What an evaluation found. */
export type EvaluationReport = {
  readonly step: number;
  /** Mean over all held-out predictions by weight, in nats. */
  readonly loss: number;
  /** What `measure` returned. */
  readonly measures: Readonly<Record<string, number>>;
};

/** How a run ended. */
export type TrainResult = {
  /** Steps done, earlier runs included; fewer than asked for when the signal ended it. */
  readonly step: number;
  /** Loss of the last step of this run; undefined when there was none. */
  readonly loss: number | undefined;
};

/**
 * Refuses options that contradict each other or the model.
 *
 * @throws ConfigError
 * @throws CapabilityError for QK-clip on a model whose scores are bounded by norms
 */
export function checkOptions({ model, data, steps, accumulate = 1, optimizer, schedule, ...rest }: TrainOptions): void {
  const { evaluation, checkpoint, qkClip } = rest;
  const counts = { steps, accumulate, evaluateEvery: evaluation?.everySteps, checkpointEvery: checkpoint?.everySteps };
  for (const [name, value] of Object.entries(counts)) {
    if (value === undefined || (Number.isSafeInteger(value) && value > 0)) continue;
    throw new ConfigError("train", `${name} must be a positive integer`, { [name]: value });
  }
  const { learningRate, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weightDecay = 0.1, clip = 1 } = optimizer;
  for (const [name, value] of Object.entries({
    learningRate,
    epsilon,
    clip,
    ...(qkClip !== undefined && { qkClip }),
  })) {
    if (!(value > 0)) throw new ConfigError("train", `${name} must be above 0`, { [name]: value });
  }
  if (!(weightDecay >= 0)) throw new ConfigError("train", "weightDecay must be 0 or more", { weightDecay });
  for (const [name, value] of Object.entries({ beta1, beta2 })) {
    if (!(value >= 0 && value < 1))
      throw new ConfigError("train", `${name} must be from 0 to below 1`, { [name]: value });
  }
  if (schedule) checkSchedule(schedule, steps);
  for (const [index, { tokens }] of (evaluation?.batches ?? []).entries()) {
    if (tokens.length === data.batchTokens) continue;
    const got = { batch: index, tokens: tokens.length, batchTokens: data.batchTokens };
    throw new ConfigError("train", "held-out batches of the size of the training data's", got);
  }
  if (evaluation?.batches.length === 0) throw new ConfigError("train", "at least one held-out batch");
  if (qkClip !== undefined) checkQkClip(model);
  if (data.contextTokens > model.config.maxPositions) {
    throw new ConfigError(
      "train",
      "a context that the model is made for",
      { contextTokens: data.contextTokens, max_position_embeddings: model.config.maxPositions },
      "Raise max_position_embeddings, or extend the context with a scaled rotary schedule.",
    );
  }
}

/** What decides the run's numbers. */
export function recipeOf({ model, data, steps, optimizer, schedule, accumulate = 1, qkClip }: TrainOptions): Recipe {
  const config = model.json;
  return {
    config,
    data: data.identity,
    steps,
    optimizer,
    schedule: schedule ?? null,
    accumulate,
    qkClip: qkClip ?? null,
  };
}
