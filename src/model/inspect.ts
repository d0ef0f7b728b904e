/**
 * What a model folder holds, without loading its weights.
 */

import { bytesPerElement } from "../dtype.ts";
import { type WeightType, weightMatrixBytes } from "../engine/index.ts";
import { frequencies, type LayerPositions, type RopeSchedule, type RotaryLayer } from "../rope/index.ts";
import { sizeOf } from "../tensor.ts";
import type { DecoderConfig, LayerConfig } from "./config.ts";
import { describeModel, openModelFolder } from "./load.ts";
import { AS_STORED, checkWeightChoice, keptType, type WeightChoice, type WeightKeeping } from "./weight-choice.ts";
import { type ModelFiles, openCheckpoint, type TensorInfo } from "./weights/index.ts";

/** Parameters of one element type. */
export type StoredParameters = {
  /** As the file calls it ("BF16"), or as `loadModel` does ("q8_0"). */
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
  /** Bytes of the parameters when loaded with the `weights` asked for. */
  readonly loadedBytes: number;
  readonly loaded: readonly StoredParameters[];
  /** Matrices that keep the type of the file since their rows are not whole blocks of the type asked for. */
  readonly fallbackMatrices: number;
  /** Bytes of keys and values of all layers for one token, as f32. */
  readonly cacheBytesPerToken: number;
  readonly layerGroups: readonly LayerGroup[];
};

/** Options of {@link inspectModel}. */
export type InspectOptions = {
  /** As `loadModel` would be told; "stored" when absent. */
  weights?: WeightChoice;
};

/** What is known of a tensor. */
export type InspectedTensor = Pick<TensorInfo, "dtype" | "storedDType" | "shape" | "byteLength"> & {
  readonly name: string;
};

/**
 * Examines a model folder; of the weight files only the headers are read.
 *
 * @param folder - a path (Node, Deno, Bun), or the files themselves (anywhere)
 * @throws ConfigError for a missing file, an unknown architecture or a bad config value
 * @throws FormatError for a damaged weight file
 */
export async function inspectModel(folder: string | ModelFiles, options: InspectOptions = {}): Promise<ModelReport> {
  const weights = checkWeightChoice("inspectModel", options.weights ?? "stored");
  const files = typeof folder === "string" ? await openModelFolder(folder) : folder;
  const { config, generation, family } = await describeModel(files);
  const checkpoint = await openCheckpoint(files);
  const tensors = checkpoint.names().map((name) => ({ name, ...checkpoint.info(name) }));
  return reportModel(config, generation.stopTokenIds, tensors, { weights, headTensor: family.headTensor(config) });
}

/**
 * The report of a decoder.
 *
 * @param config - the decoder
 * @param stopTokenIds - token ids that end a text
 * @param tensors - its weights as they are stored
 * @param keeping - how they are loaded; as stored when absent
 */
export function reportModel(
  config: DecoderConfig,
  stopTokenIds: readonly number[],
  tensors: readonly InspectedTensor[],
  keeping: WeightKeeping = AS_STORED,
): ModelReport {
  const { modelType, vocabSize, hiddenSize, maxPositions, tiedEmbeddings, layers } = config;
  const stored = byDType(
    tensors.map(({ storedDType, shape, byteLength }) => ({ dtype: storedDType, shape, bytes: byteLength })),
  );
  const kept = tensors.map((tensor) => keptType(keeping, tensor.name, tensor));
  const loaded = byDType(
    tensors.map(({ shape }, n) => ({ dtype: kept[n].type, shape, bytes: loadedBytes(kept[n].type, shape) })),
  );
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
    loadedBytes: sum(loaded.map(({ bytes }) => bytes)),
    loaded,
    fallbackMatrices: kept.filter(({ fallback }) => fallback).length,
    cacheBytesPerToken: cacheRowValues * bytesPerElement("f32"),
    layerGroups: groupLayers(layers, maxPositions),
  };
}

/** What the WASM backend needs for a tensor; anything but matrices is kept as f32. */
function loadedBytes(type: WeightType, shape: readonly number[]): number {
  return shape.length === 2 ? weightMatrixBytes(type, shape) : sizeOf(shape) * bytesPerElement("f32");
}

/** Parameters by element type, the most bytes first. */
function byDType(tensors: readonly { dtype: string; shape: readonly number[]; bytes: number }[]): StoredParameters[] {
  const found = new Map<string, StoredParameters>();
  for (const { dtype, shape, bytes } of tensors) {
    const earlier = found.get(dtype) ?? { count: 0, bytes: 0 };
    found.set(dtype, { dtype, count: earlier.count + sizeOf(shape), bytes: earlier.bytes + bytes });
  }
  return [...found.values()].sort((a, b) => b.bytes - a.bytes);
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
