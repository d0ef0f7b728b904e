import { describe, expect, test } from "vitest";
import { causal, slidingWindow } from "../mask/index.ts";
import type { LayerPositions, RopeSchedule } from "../rope/index.ts";
import type { DecoderConfig, LayerConfig } from "./config.ts";
import { reportModel } from "./inspect.ts";
import type { WeightChoice } from "./weight-choice.ts";

function positions(schedule: RopeSchedule | null): LayerPositions {
  const rotary = schedule && { headDim: 6, rotaryDim: 4, rotaryOffset: 2, pairing: "half" as const, schedule };
  return { rotary, queryTemperature: null, softmaxScaleFactor: 1 };
}

function layer(changes: Partial<LayerConfig>): LayerConfig {
  return {
    heads: 15,
    kvHeads: 5,
    headDim: 6,
    positions: positions({ type: "default", dim: 4, theta: 100 }),
    mask: causal(),
    scale: 1,
    intermediateSize: 7,
    activation: "silu",
    ...changes,
  };
}

function decoder(layers: LayerConfig[]): DecoderConfig {
  return {
    modelType: "llama",
    vocabSize: 11,
    hiddenSize: 13,
    maxPositions: 17,
    normEps: 1e-5,
    tiedEmbeddings: true,
    layers,
  };
}

describe("reportModel", () => {
  test("equal layers make one group, wherever they stand", () => {
    const windowed = layer({ mask: causal().and(slidingWindow(3)) });
    const { layerGroups, layers } = reportModel(decoder([layer({}), windowed, layer({}), layer({})]), [], []);
    expect(layers).toBe(4);
    expect(layerGroups.map((group) => [group.layers, group.mask])).toEqual([
      [[0, 2, 3], "causal()"],
      [[1], "causal().and(slidingWindow(3))"],
    ]);
  });

  test("wavelengths are 2π/ω and are counted against the context", () => {
    // theta 100, R 4: ω = 1 and 0.1
    const [group] = reportModel(decoder([layer({})]), [], []).layerGroups;
    expect(group.rotary).toMatchObject({
      pairing: "half",
      rotaryDim: 4,
      rotaryOffset: 2,
      length: 17,
      attentionFactor: 1,
      pairs: 2,
      standingPairs: 0,
      pairsBeyondContext: 1,
      shortestWavelength: expect.closeTo(6.283185307, 8),
      longestWavelength: expect.closeTo(62.83185307, 7),
    });
  });

  test("pairs that stand still have no wavelength", () => {
    const standing = positions({ type: "p-rope", dim: 4, theta: 100, fraction: 0.5 });
    const still = positions({ type: "p-rope", dim: 4, theta: 100, fraction: 0 });
    const { layerGroups } = reportModel(decoder([layer({ positions: standing }), layer({ positions: still })]), [], []);
    expect(layerGroups[0].rotary).toMatchObject({ standingPairs: 1, longestWavelength: expect.closeTo(6.2832, 4) });
    expect(layerGroups[1].rotary).toMatchObject({
      standingPairs: 2,
      shortestWavelength: null,
      longestWavelength: null,
    });
  });

  test("a layer without rotation has no rotary report", () => {
    const [group] = reportModel(decoder([layer({ positions: positions(null) })]), [], []).layerGroups;
    expect(group.rotary).toBeNull();
  });

  test("cache bytes count keys and values of every layer as f32", () => {
    const report = reportModel(decoder([layer({}), layer({ kvHeads: 3 })]), [], []);
    expect(report.cacheBytesPerToken).toBe(2 * 5 * 6 * 4 + 2 * 3 * 6 * 4);
  });

  test("parameters are counted by stored type, the largest first", () => {
    const report = reportModel(
      decoder([layer({})]),
      [2],
      [
        { name: "a", dtype: "f32", storedDType: "F32", shape: [3], byteLength: 12 },
        { name: "b", dtype: "bf16", storedDType: "BF16", shape: [5, 7], byteLength: 70 },
        { name: "c", dtype: "bf16", storedDType: "BF16", shape: [2], byteLength: 4 },
        { name: "d", dtype: "f32", storedDType: "F32", shape: [], byteLength: 4 },
      ],
    );
    expect(report).toMatchObject({
      stopTokenIds: [2],
      parameters: 41,
      storedBytes: 90,
      loadedBytes: 3 * 4 + 70 + 2 * 4 + 4, // matrices keep 16 bits
      stored: [
        { dtype: "BF16", count: 37, bytes: 74 },
        { dtype: "F32", count: 4, bytes: 16 },
      ],
      loaded: [
        { dtype: "bf16", count: 35, bytes: 70 },
        { dtype: "f32", count: 6, bytes: 24 },
      ],
      fallbackMatrices: 0,
    });
  });

  test("loaded bytes are those of the type asked for; q8_0 for the head of q4_0, the file's where blocks are not whole", () => {
    const matrix = (name: string, shape: number[]) => {
      const byteLength = 2 * shape[0] * shape[1];
      return { name, dtype: "bf16", storedDType: "BF16", shape, byteLength } as const;
    };
    const tensors = [matrix("embedding", [11, 64]), matrix("head", [11, 64]), matrix("odd", [5, 33])];
    const loaded = (weights: WeightChoice) => {
      const report = reportModel(decoder([layer({})]), [], tensors, { weights, headTensor: "head" });
      return [Object.fromEntries(report.loaded.map(({ dtype, bytes }) => [dtype, bytes])), report.fallbackMatrices];
    };
    expect(loaded("stored")).toEqual([{ bf16: 2 * 11 * 64 * 2 + 5 * 33 * 2 }, 0]);
    expect(loaded("f32")).toEqual([{ f32: 2 * 11 * 64 * 4 + 5 * 33 * 4 }, 0]);
    expect(loaded("int8")).toEqual([{ int8: 2 * 11 * (64 + 4) + 5 * (33 + 4) }, 0]);
    expect(loaded("q8_0")).toEqual([{ q8_0: 2 * 11 * 2 * 34, bf16: 5 * 33 * 2 }, 1]);
    expect(loaded("q4_0")).toEqual([{ q8_0: 11 * 2 * 34, q4_0: 11 * 2 * 18, bf16: 5 * 33 * 2 }, 1]);
  });
});
