/**
 * What a model folder holds, without loading its weights.
 */

import { bytesPerElement } from "../dtype.ts";
import { frequencies, type LayerPositions, type RopeSchedule, type RotaryLayer } from "../rope/index.ts";
import { sizeOf } from "../tensor.ts";
import type { DecoderConfig, LayerConfig } from "./config.ts";
import { describeModel, openModelFolder } from "./load.ts";
import { type ModelFiles, openCheckpoint, type TensorInfo } from "./weights/index.ts";

/** Parameters of one stored element type. */
export type StoredParameters = {
  /** As the file calls it ("BF16"). */
  readonly dtype: string;
  readonly count: number;
  readonly bytes: number;
};

/** A rotary schedule in numbers. A wavelength is 2π/ω, the tokens of one turn. */
export type RotaryReport = {
  readonly schedule: RopeSchedule;
  readonly pairing: RotaryLayer["pairing"];
  /** R, rotated dims. */
  readonly rotaryDim: number;
  /** First rotated dim. */
  readonly rotaryOffset: number;
  /** Tokens that length-dependent frequencies were computed for: the model's context. */
  readonly length: number;
  readonly attentionFactor: number;
  /** Pairs of dims. */
  readonly pairs: number;
  /** Pairs that do not turn at all. */
  readonly standingPairs: number;
  /** Turning pairs whose wavelength is longer than the context. */
  readonly pairsBeyondContext: number;
  /** Tokens; null when no pair turns. */
  readonly shortestWavelength: number | null;
  /** Tokens; null when no pair turns. */
  readonly longestWavelength: number | null;
};

/** Layers that are equal in everything but their weights. */
export type LayerGroup = {
  /** Their indices, ascending. */
  readonly layers: readonly number[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly activation: string;
  /** The mask as code. */
  readonly mask: string;
  /** null: these layers do not rotate. */
  readonly rotary: RotaryReport | null;
  readonly queryTemperature: LayerPositions["queryTemperature"];
};

/** A model folder in numbers. */
export type ModelReport = {
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  /** Longest context the checkpoint was made for, in tokens. */
  readonly maxPositions: number;
  readonly tiedEmbeddings: boolean;
  readonly stopTokenIds: readonly number[];
  readonly parameters: number;
  /** Bytes of the parameters in the weight files. */
  readonly storedBytes: number;
  readonly stored: readonly StoredParameters[];
  /** Bytes of the parameters when loaded: matrices of 16-bit floats as they are, everything else as f32. */
  readonly loadedBytes: number;
  /** Bytes of keys and values of all layers for one token, as f32. */
  readonly cacheBytesPerToken: number;
  readonly layerGroups: readonly LayerGroup[];
};

/**
 * Examines a model folder; of the weight files only the headers are read.
 *
 * @param folder - a path (Node, Deno, Bun), or the files themselves (anywhere)
 * @throws ConfigError for a missing file, an unknown architecture or a bad config value
 * @throws FormatError for a damaged weight file
 */
export async function inspectModel(folder: string | ModelFiles): Promise<ModelReport> {
  const files = typeof folder === "string" ? await openModelFolder(folder) : folder;
  const { config, generation } = await describeModel(files);
  const checkpoint = await openCheckpoint(files);
  const tensors = checkpoint.names().map((name) => checkpoint.info(name));
  return reportModel(config, generation.stopTokenIds, tensors);
}

/**
 * The report of a decoder.
 *
 * @param config - the decoder
 * @param stopTokenIds - token ids that end a text
 * @param tensors - its weights as they are stored
 */
export function reportModel(
  config: DecoderConfig,
  stopTokenIds: readonly number[],
  tensors: readonly Pick<TensorInfo, "storedDType" | "shape" | "byteLength">[],
): ModelReport {
  const { modelType, vocabSize, hiddenSize, maxPositions, tiedEmbeddings, layers } = config;
  const stored = storedByDType(tensors);
  const parameters = sum(stored.map(({ count }) => count));
  const cacheRowValues = sum(layers.map(({ kvHeads, headDim }) => 2 * kvHeads * headDim));
  return {
    modelType,
    vocabSize,
    hiddenSize,
    layers: layers.length,
    maxPositions,
    tiedEmbeddings,
    stopTokenIds,
    parameters,
    storedBytes: sum(stored.map(({ bytes }) => bytes)),
    stored,
    loadedBytes: sum(tensors.map(loadedBytes)),
    cacheBytesPerToken: cacheRowValues * bytesPerElement("f32"),
    layerGroups: groupLayers(layers, maxPositions),
  };
}

/** What the WASM backend keeps of a tensor. */
function loadedBytes({
  storedDType,
  shape,
  byteLength,
}: Pick<TensorInfo, "storedDType" | "shape" | "byteLength">): number {
  const isHalf = storedDType === "F16" || storedDType === "BF16";
  return isHalf && shape.length === 2 ? byteLength : sizeOf(shape) * bytesPerElement("f32");
}

function storedByDType(
  tensors: readonly Pick<TensorInfo, "storedDType" | "shape" | "byteLength">[],
): StoredParameters[] {
  const byDType = new Map<string, StoredParameters>();
  for (const { storedDType: dtype, shape, byteLength } of tensors) {
    const { count, bytes } = byDType.get(dtype) ?? { count: 0, bytes: 0 };
    byDType.set(dtype, { dtype, count: count + sizeOf(shape), bytes: bytes + byteLength });
  }
  return [...byDType.values()].sort((a, b) => b.bytes - a.bytes);
}

function groupLayers(layers: readonly LayerConfig[], maxPositions: number): LayerGroup[] {
  const groups = new Map<string, LayerGroup>();
  for (const [index, { heads, kvHeads, headDim, intermediateSize, activation, mask, positions }] of layers.entries()) {
    const { rotary, queryTemperature } = positions;
    const alike = { heads, kvHeads, headDim, intermediateSize, activation, mask: mask.toString(), queryTemperature };
    const key = JSON.stringify([alike, rotary]);
    const earlier = groups.get(key);
    groups.set(key, {
      ...alike,
      layers: [...(earlier?.layers ?? []), index],
      rotary: earlier ? earlier.rotary : rotary && reportRotary(rotary, maxPositions),
    });
  }
  return [...groups.values()];
}

function reportRotary({ schedule, pairing, rotaryDim, rotaryOffset }: RotaryLayer, length: number): RotaryReport {
  const { inverseFrequencies, attentionFactor } = frequencies(schedule, length);
  const wavelengths = Array.from(
    inverseFrequencies.filter((w) => w > 0),
    (w) => (2 * Math.PI) / w,
  );
  wavelengths.sort((a, b) => a - b);
  return {
    schedule,
    pairing,
    rotaryDim,
    rotaryOffset,
    length,
    attentionFactor,
    pairs: inverseFrequencies.length,
    standingPairs: inverseFrequencies.length - wavelengths.length,
    pairsBeyondContext: wavelengths.filter((wavelength) => wavelength > length).length,
    shortestWavelength: wavelengths[0] ?? null,
    longestWavelength: wavelengths.at(-1) ?? null,
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
