import { describe, expect, it } from "vitest";
import { axialLayer, visionLayer } from "./axial.ts";
import { mropePairAxes } from "./mrope.ts";
import { llama4GridPositions } from "./positions.ts";
import { frequencies } from "./schedule.ts";
import { rotaryTable } from "./table.ts";

const omegas = (layer: ReturnType<typeof axialLayer>): number[] => [
  ...frequencies(layer.schedule, 1).inverseFrequencies,
];

describe("axialLayer", () => {
  it("Flux.1: every axis has the frequencies of its own width", () => {
    const layer = axialLayer([16, 56, 56], 10000);
    expect(layer.headDim).toBe(128);
    expect(layer.pairing).toBe("interleaved");
    const w = omegas(layer);
    expect([w[0], w[8], w[36]]).toEqual([1, 1, 1]);
    expect(w[1]).toBeCloseTo(10000 ** (-2 / 16), 12);
    expect(w[9]).toBeCloseTo(10000 ** (-2 / 56), 12);
    expect(layer.pairAxes?.filter((axis) => axis === 0).length).toBe(8);
    expect(layer.pairAxes?.[36]).toBe(2);
  });

  it("refuses odd widths", () => {
    expect(() => axialLayer([16, 5], 10)).toThrow(
      "axialLayer: axesDim must be even numbers greater than 0; got axesDim=[16,5].",
    );
  });
});

describe("visionLayer", () => {
  it("Qwen-VL: rows then columns, each with the frequencies of half the head, half-split", () => {
    const layer = visionLayer("qwen-vl", 16);
    expect(omegas(layer)).toEqual([1, 0.1, 0.01, 0.001, 1, 0.1, 0.01, 0.001].map((w) => expect.closeTo(w, 12)));
    expect(layer.pairAxes).toEqual([0, 0, 0, 0, 1, 1, 1, 1]);
    expect(layer.pairing).toBe("half");
  });

  it("Pixtral: even frequencies for rows, odd ones for columns", () => {
    const layer = visionLayer("pixtral", 8);
    expect(omegas(layer)).toEqual([1, 0.01, 0.1, 0.001].map((w) => expect.closeTo(w, 12)));
    expect(layer.pairAxes).toEqual([0, 0, 1, 1]);
  });

  it("DINOv3: coordinates turn by 2π·100^(−4i/D)", () => {
    expect(omegas(visionLayer("dinov3", 16))).toEqual(
      [1, 100 ** -0.25, 0.1, 100 ** -0.75, 1, 100 ** -0.25, 0.1, 100 ** -0.75].map((w) =>
        expect.closeTo(2 * Math.PI * w, 12),
      ),
    );
  });

  it("Llama 4: angles of a patch in row 1 and column 2, and of the class token", () => {
    // Llama4VisionRotaryEmbedding of transformers 5.18, head 8, 3 x 3 patches: [3, 0.03, 2, 0.02] and zeros
    const table = rotaryTable(visionLayer("llama4", 8), llama4GridPositions(3, 3));
    const sines = [3, 0.03, 2, 0.02].map((angle) => expect.closeTo(Math.sin(angle), 6));
    expect(Array.from(table.sin.slice(5 * 4, 6 * 4))).toEqual(sines);
    expect(Array.from(table.sin.slice(9 * 4))).toEqual([0, 0, 0, 0]);
  });

  it("refuses a head that four does not divide", () => {
    expect(() => visionLayer("pixtral", 10)).toThrow("visionLayer: headDim must be a multiple of 4; got headDim=10.");
  });
});

describe("mropePairAxes", () => {
  it("chunked: section after section", () => {
    expect(mropePairAxes([2, 3, 1], "chunked", 6)).toEqual([0, 0, 1, 1, 1, 2]);
    expect(mropePairAxes([1, 1, 1, 2], "chunked", 5)).toEqual([0, 1, 2, 0, 0]);
  });

  it("interleaved: t h w in turn while h and w last, then t", () => {
    expect(mropePairAxes([4, 2, 1], "interleaved", 7)).toEqual([0, 1, 2, 0, 1, 0, 0]);
  });

  it("Qwen3.5: 11 pairs of t, 11 of h, 10 of w", () => {
    const axes = mropePairAxes([11, 11, 10], "interleaved", 32);
    expect([0, 1, 2].map((axis) => axes.filter((a) => a === axis).length)).toEqual([11, 11, 10]);
    expect(axes.slice(-4)).toEqual([1, 2, 0, 1]);
  });

  it("ERNIE: h and w alternate, the last pairs are t", () => {
    expect(mropePairAxes([2, 2, 3], "ernie", 7)).toEqual([1, 2, 1, 2, 0, 0, 0]);
  });

  it("refuses sections that do not sum to the pairs", () => {
    expect(() => mropePairAxes([16, 24, 23], "chunked", 64)).toThrow(
      'mropePairAxes: mrope_section must be counts of pairs that sum to 64; got mrope_section=[16,24,23], layout="chunked".',
    );
    expect(() => mropePairAxes([5, 1], "interleaved", 6)).toThrow("must be counts of pairs that sum to 6");
  });
});
