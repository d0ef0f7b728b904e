/**
 * What an architecture adds to the shared block loop: how its config reads, and what its tensors are called.
 */

import type { ConfigReader } from "../../config-reader.ts";
import type { DecoderConfig } from "../config.ts";
import type { DecoderWeights, WeightLoader } from "../decoder-weights.ts";

/** One architecture. */
export type Family = {
  /** The `model_type` values it serves. */
  readonly modelTypes: readonly string[];
  /** config.json as a decoder. */
  readonly readConfig: (reader: ConfigReader, json: unknown) => DecoderConfig;
  /** The name of the tensor that the output head is made of; the embedding's when tied. */
  readonly headTensor: (config: DecoderConfig) => string;
  /** The checkpoint's tensors by role. */
  readonly loadWeights: (loader: WeightLoader, config: DecoderConfig, reader: ConfigReader) => Promise<DecoderWeights>;
};
