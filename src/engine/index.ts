/** Where attention and the operations around it run. */

export type { Activation, AttendCall, Backend, RotationTable } from "./backend.ts";
export {
  type AttentionResult,
  type BackendName,
  createEngine,
  type Engine,
  type EngineOptions,
  type EnginePlanOptions,
} from "./engine.ts";
export { createReferenceBackend } from "./reference/backend.ts";
