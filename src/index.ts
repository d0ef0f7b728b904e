/**
 * Phasor: rotary attention for TypeScript.
 *
 * The folders, in the order data flows: rope, mask, attention, engine, cache, compress, nn, model, generate, train,
 * evaluate. Each is also a subpath export of its own (`phasor/rope`, `phasor/model`, …), and nn, train and evaluate are
 * that only.
 */

export * from "./attention/index.ts";
export * from "./cache/index.ts";
export * from "./compress/index.ts";
export * from "./config-reader.ts";
export * from "./dtype.ts";
export * from "./engine/index.ts";
export * from "./errors.ts";
export * from "./generate/index.ts";
export * from "./mask/index.ts";
export * from "./model/index.ts";
export * from "./rope/index.ts";
export * from "./tensor.ts";
