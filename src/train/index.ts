/** Training: gradients, data, the loop, checkpoints, and back to a model folder. */

import type { CheckpointStore } from "./checkpoint.ts";

export type { CheckpointStore, RunState } from "./checkpoint.ts";
export { DecoderGradients, type GradientModel, type GradientOptions } from "./decoder-gradients.ts";
export { type ContextExtension, EXTENSIONS, extendContext, parseExtension } from "./extend-context.ts";
export { type LearningRateSchedule, learningRateFactor, SCHEDULES } from "./learning-rate.ts";
export { type LossPoint, lossCurve } from "./loss-curve.ts";
export type { PackedBatch } from "./packed-batch.ts";
export {
  type PackingOptions,
  packDocuments,
  packOnce,
  type TokenDocument,
  type TrainingData,
} from "./packed-batches.ts";
export type { Parameters } from "./parameters.ts";
export { heldOutLoss, train } from "./train.ts";
export type {
  CheckpointOptions,
  EvaluationOptions,
  EvaluationReport,
  OptimizerOptions,
  StepReport,
  TrainOptions,
  TrainResult,
} from "./train-options.ts";
export {
  createTrainable,
  EXPORT_DTYPES,
  type ExportDType,
  loadTrainable,
  type ModelJson,
  TrainableModel,
  type TrainableOptions,
} from "./trainable-model.ts";

/** The checkpoint of a run in one file on disk, replaced in one piece. */
export async function openCheckpointFile(path: string): Promise<CheckpointStore> {
  // Imported when needed: the file system is not there in browsers.
  const disk = await import("./files-on-disk.ts");
  return disk.createCheckpointFile(path);
}

/** Writes the files of a model, as `TrainableModel.toFiles` gives them, into a folder on disk. */
export async function saveModelFolder(path: string, files: ReadonlyMap<string, string | Uint8Array>): Promise<void> {
  const disk = await import("./files-on-disk.ts");
  await disk.writeModelFolder(path, files);
}
