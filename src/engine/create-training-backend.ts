/**
 * Backends that train, by name.
 */

import { CapabilityError } from "../errors.ts";
import { type BackendOptions, DECODER_BACKENDS } from "./create-backend.ts";
import { createReferenceTrainingBackend } from "./reference/training-backend.ts";
import type { TrainingBackend } from "./training-backend.ts";
import { createWasmTrainingBackend } from "./wasm/training-backend.ts";

/**
 * Starts a backend that can train.
 *
 * @throws CapabilityError when there is no backend of that name, or the runtime cannot run it
 * @throws ConfigError when an option is out of range
 */
export async function createTrainingBackend(options: BackendOptions = {}): Promise<TrainingBackend> {
  const { backend = "wasm", threads, maxBytes } = options;
  if (backend === "wasm") {
    return createWasmTrainingBackend({
      ...(threads !== undefined && { threads }),
      ...(maxBytes !== undefined && { maxBytes }),
    });
  }
  if (backend === "reference") return createReferenceTrainingBackend();
  throw new CapabilityError("createTrainingBackend", `backend must be one of ${DECODER_BACKENDS.join(", ")}`, {
    backend,
  });
}
