/** Where attention and the operations around it run. */

export type {
  Activation,
  AttendCall,
  AttendedKv,
  Backend,
  ColumnMassCall,
  EngineMemory,
  RotationTable,
} from "./backend.ts";
export { type BackendOptions, createBackend, DECODER_BACKENDS, type DecoderBackendName } from "./create-backend.ts";
export { createTrainingBackend } from "./create-training-backend.ts";
export {
  type AttentionResult,
  type BackendName,
  createEngine,
  type Engine,
  type EngineOptions,
  type EnginePlanOptions,
} from "./engine.ts";
export { createReferenceBackend } from "./reference/backend.ts";
export type { AdamWCall, AttendBackwardCall, AttendGradients, TrainingBackend } from "./training-backend.ts";
export { createWasmBackend, type WasmBackend, type WasmOptions } from "./wasm/backend.ts";
export type { WasmFeatures } from "./wasm/features.ts";
export { createWasmTrainingBackend } from "./wasm/training-backend.ts";
export {
  holdsWidth,
  type MatrixSource,
  type QuantizedMatrix,
  storedType,
  WEIGHT_TYPES,
  type WeightMatrix,
  type WeightType,
  weightMatrixBytes,
  weightsToF32,
} from "./weight-matrix.ts";
