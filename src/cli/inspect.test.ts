import { describe, expect, test } from "vitest";
import type { LayerGroup, ModelReport, RotaryReport } from "../model/index.ts";
import { formatReport, tokensThatFit } from "./inspect.ts";

const ROTARY: RotaryReport = {
  schedule: { type: "linear", dim: 8, theta: 500000, factor: 2.5 },
  pairing: "half",
  rotaryDim: 8,
  rotaryOffset: 0,
  length: 4096,
  attentionFactor: 1,
  pairs: 4,
  standingPairs: 0,
  pairsBeyondContext: 2,
  shortestWavelength: 6.283185,
  longestWavelength: 292_857.7,
};

const GROUP: LayerGroup = {
  layers: [0, 1, 2, 5],
  heads: 9,
  kvHeads: 1,
  headDim: 8,
  intermediateSize: 1536,
  activation: "silu",
  mask: "causal()",
  rotary: ROTARY,
  queryTemperature: null,
};

const REPORT: ModelReport = {
  modelType: "llama",
  vocabSize: 49152,
  hiddenSize: 576,
  layers: 7,
  maxPositions: 4096,
  tiedEmbeddings: true,
  stopTokenIds: [1, 2],
  parameters: 1_234_567,
  storedBytes: 2_469_134,
  stored: [{ dtype: "BF16", count: 1_234_567, bytes: 2_469_134 }],
  loadedBytes: 4_938_268,
  loaded: [
    { dtype: "q8_0", count: 1_230_000, bytes: 4_900_000 },
    { dtype: "f32", count: 4567, bytes: 38_268 },
  ],
  fallbackMatrices: 0,
  cacheBytesPerToken: 640,
  layerGroups: [
    GROUP,
    {
      ...GROUP,
      layers: [3],
      rotary: {
        ...ROTARY,
        schedule: { type: "p-rope", dim: 4, theta: 10000, fraction: 0.5 },
        rotaryDim: 4,
        rotaryOffset: 2,
        attentionFactor: 1.13863,
        pairs: 2,
        standingPairs: 1,
        pairsBeyondContext: 0,
        longestWavelength: 6.283185,
      },
      queryTemperature: { beta: 0.1, length: 8192, offset: 1 },
    },
    { ...GROUP, layers: [4, 6], rotary: null },
  ],
};

describe("formatReport", () => {
  test("tells everything, layer groups one after the other", () => {
    expect(formatReport(REPORT)).toEqual([
      "llama: 7 layers, 1,234,567 parameters",
      "  weights      2.35 MiB stored as BF16, 4.71 MiB loaded as q8_0, f32",
      "  vocabulary   49,152 tokens, tied to the output head, stop at 1, 2",
      "  width        576",
      "  context      4,096 tokens",
      "  cache        640 B per token as f32, 2.50 MiB for the context",
      "",
      "layers 0-2, 5",
      "  attention    9 heads, 1 key-value head, 8 wide, causal()",
      "  feedforward  1,536 wide, silu",
      "  rotary       linear, theta 500,000, factor 2.5, all dims in half pairs",
      "  wavelengths  6.283 to 292,858 tokens, 2 of 4 pairs longer than 4,096",
      "",
      "layer 3",
      "  attention    9 heads, 1 key-value head, 8 wide, causal()",
      "  feedforward  1,536 wide, silu",
      "  rotary       p-rope, theta 10,000, fraction 0.5, dims 2 to 5 in half pairs, attention factor 1.139",
      "  wavelengths  6.283 to 6.283 tokens, 0 of 2 pairs longer than 4,096",
      "               1 of 2 pairs do not turn",
      "  queries      scaled with their position, beta 0.1, every 8,192 tokens",
      "",
      "layers 4, 6",
      "  attention    9 heads, 1 key-value head, 8 wide, causal()",
      "  feedforward  1,536 wide, silu",
      "  rotary       none",
    ]);
  });

  test.each([
    [1, "  fallback     1 matrix stays as stored: its rows are not whole blocks of 32"],
    [12, "  fallback     12 matrices stay as stored: their rows are not whole blocks of 32"],
  ])("%d matrices that cannot have the type asked for", (fallbackMatrices, line) => {
    expect(formatReport({ ...REPORT, fallbackMatrices })[2]).toBe(line);
  });

  test.each([
    [4_938_268 + 640 * 100, "  memory       4.77 MiB holds the weights and 100 tokens of cache"],
    [
      4_938_268 + 640 * 5000 + 639,
      "  memory       7.76 MiB holds the weights and 5,000 tokens of cache, more than the context",
    ],
    [4_938_267, "  memory       4.71 MiB cannot hold the weights (4.71 MiB)"],
  ])("memory of %d bytes", (memory, line) => {
    expect(formatReport(REPORT, memory)[6]).toBe(line);
  });
});

describe("tokensThatFit", () => {
  test("is 0 where the weights alone need more", () => {
    expect(tokensThatFit(REPORT, 1000)).toBe(0);
  });
});
