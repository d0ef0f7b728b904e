/** Where attention and the operations around it run. */

export type { Activation, AttendCall, Backend, RotationTable, WeightMatrix } from "./backend.ts";
export { type BackendOptions, createBackend, DECODER_BACKENDS, type DecoderBackendName } from "./create-backend.ts";
export {
  type AttentionResult,
  type BackendName,
  createEngine,
  type Engine,
  type EngineOptions,
  type EnginePlanOptions,
} from "./engine.ts";
export { createReferenceBackend } from "./reference/backend.ts";
export { createWasmBackend, type WasmBackend, type WasmOptions } from "./wasm/backend.ts";
export type { WasmFeatures } from "./wasm/features.ts";
