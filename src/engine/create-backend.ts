/**
 * Backends by name.
 */

import { CapabilityError, ConfigError } from "../errors.ts";
import type { Backend } from "./backend.ts";
import { createReferenceBackend } from "./reference/backend.ts";
import { createWasmRuntime, WasmBackend, type WasmOptions } from "./wasm/backend.ts";

/** The backends a decoder can run on. */
export const DECODER_BACKENDS = ["wasm", "reference"] as const;

/** One of them. */
export type DecoderBackendName = (typeof DECODER_BACKENDS)[number];

/** How a backend is made. */
export type BackendOptions = {
  /** "wasm" when absent. */
  backend?: DecoderBackendName;
  /** Worker threads of the WASM backend; 0 runs on the caller's thread, as the reference does, all cores when absent. */
  threads?: number;
  /** The most memory of the WASM backend, in bytes. */
  maxBytes?: number;
};

/**
 * Starts a backend.
 *
 * @throws CapabilityError when there is no backend of that name, or the runtime cannot run it
 * @throws ConfigError when an option is out of range, or does not belong to the backend that was asked for
 */
export async function createBackend(options: BackendOptions = {}): Promise<Backend> {
  const wasm = wasmOptions("createBackend", options);
  return wasm ? new WasmBackend(await createWasmRuntime("createBackend", wasm)) : createReferenceBackend();
}

/** The options of the WASM backend, if that is the one. */
export function wasmOptions(where: string, options: BackendOptions): WasmOptions | undefined {
  const { backend = "wasm", threads, maxBytes } = options;
  if (backend === "wasm") {
    return { ...(threads !== undefined && { threads }), ...(maxBytes !== undefined && { maxBytes }) };
  }
  if (backend !== "reference") {
    throw new CapabilityError(where, `backend must be one of ${DECODER_BACKENDS.join(", ")}`, { backend });
  }
  if (threads) throw new ConfigError(where, 'threads must be 0 or absent with backend "reference"', { threads });
  if (maxBytes !== undefined)
    throw new ConfigError(where, 'maxBytes must be absent with backend "reference"', { maxBytes });
  return undefined;
}
