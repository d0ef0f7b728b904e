/**
 * Backends that train, by name.
 */

import { type BackendOptions, wasmOptions } from "./create-backend.ts";
import { createReferenceTrainingBackend } from "./reference/training-backend.ts";
import type { TrainingBackend } from "./training-backend.ts";
import { createWasmTrainingBackend } from "./wasm/training-backend.ts";

/**
 * Starts a backend that can train.
 *
 * @throws CapabilityError when there is no backend of that name, or the runtime cannot run it
 * @throws ConfigError when an option is out of range, or does not belong to the backend that was asked for
 */
export async function createTrainingBackend(options: BackendOptions = {}): Promise<TrainingBackend> {
  const wasm = wasmOptions("createTrainingBackend", options);
  return wasm ? createWasmTrainingBackend(wasm) : createReferenceTrainingBackend();
}
