/**
 * Backends by name.
 */

import { CapabilityError } from "../errors.ts";
import type { Backend } from "./backend.ts";
import { createReferenceBackend } from "./reference/backend.ts";
import { createWasmBackend } from "./wasm/backend.ts";

/** The backends a decoder can run on. */
export const DECODER_BACKENDS = ["wasm", "reference"] as const;

/** One of them. */
export type DecoderBackendName = (typeof DECODER_BACKENDS)[number];

/** How a backend is made. */
export type BackendOptions = {
  /** "wasm" when absent. */
  backend?: DecoderBackendName;
  /** Worker threads of the WASM backend; 0 runs on the caller's thread, all cores when absent. */
  threads?: number;
  /** The most memory of the WASM backend, in bytes. */
  maxBytes?: number;
};

/**
 * Starts a backend.
 *
 * @throws CapabilityError when there is no backend of that name, or the runtime cannot run it
 * @throws ConfigError when an option is out of range
 */
export async function createBackend(options: BackendOptions = {}): Promise<Backend> {
  const { backend = "wasm", threads, maxBytes } = options;
  if (backend === "wasm") {
    return createWasmBackend({
      ...(threads !== undefined && { threads }),
      ...(maxBytes !== undefined && { maxBytes }),
    });
  }
  if (backend === "reference") return createReferenceBackend();
  throw new CapabilityError("createBackend", `backend must be one of ${DECODER_BACKENDS.join(", ")}`, { backend });
}
