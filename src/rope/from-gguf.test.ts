import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "../errors.ts";
import { type GgufLayerOptions, positionsFromGguf } from "./from-gguf.ts";
import { frequencies } from "./schedule.ts";

/** Metadata of an architecture, its keys without prefix. */
function metadata(architecture: string, keys: Record<string, unknown> = {}): Record<string, unknown> {
  const own = { embedding_length: 320, "attention.head_count": 5, context_length: 8192, ...keys };
  const entries = Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value]);
  return { "general.architecture": architecture, ...Object.fromEntries(entries) };
}
const read = (architecture: string, keys: Record<string, unknown> = {}, options: GgufLayerOptions = {}) =>
  positionsFromGguf(metadata(architecture, keys), options);
function rotaryOf(architecture: string, keys: Record<string, unknown> = {}, options: GgufLayerOptions = {}) {
  const { rotary } = read(architecture, keys, options);
  if (rotary === null) throw new Error("the layer has no rotation");
  return rotary;
}

describe("positionsFromGguf", () => {
  it("llama: interleaved, since its converter permutes; 64-bit integers may be bigint", () => {
    expect(read("llama", { "rope.freq_base": 5e5, "rope.dimension_count": 64n })).toEqual({
      rotary: {
        headDim: 64,
        rotaryDim: 64,
        rotaryOffset: 0,
        pairing: "interleaved",
        schedule: { type: "default", dim: 64, theta: 5e5 },
      },
      queryTemperature: null,
      softmaxScaleFactor: 1,
    });
  });

  it.each([
    ["qwen2", "half"],
    ["smollm3", "interleaved"],
    ["gptneox", "half"],
    ["granite", "interleaved"],
    ["gpt-oss", "half"],
    ["phi3", "half"],
  ] as const)("%s is %s", (architecture, pairing) => {
    expect(rotaryOf(architecture, {}, { layerIndex: 0 }).pairing).toBe(pairing);
  });

  it("rotates the dims that the file counts", () => {
    const rotary = rotaryOf("gptneox", { "rope.dimension_count": 16, "attention.key_length": 80 });
    expect(rotary).toMatchObject({ headDim: 80, rotaryDim: 16, rotaryOffset: 0 });
  });

  it.each<[string, Record<string, unknown>, object]>([
    ["linear", { "rope.scaling.type": "linear", "rope.scaling.factor": 4 }, { type: "linear", factor: 4 }],
    ["linear without a type", { "rope.scaling.factor": 4 }, { type: "linear", factor: 4 }],
    ["the old key", { "rope.scale_linear": 2 }, { type: "linear", factor: 2 }],
    ["none", { "rope.scaling.type": "none", "rope.scaling.factor": 4 }, { type: "default" }],
    [
      "yarn",
      { "rope.scaling.type": "yarn", "rope.scaling.factor": 4, "rope.scaling.original_context_length": 2048 },
      { type: "yarn", factor: 4, originalLength: 2048, truncate: true },
    ],
  ])("scaling: %s", (_, keys, expected) => {
    expect(rotaryOf("qwen2", keys).schedule).toMatchObject(expected);
  });

  it("YaRN's attention factor is derived and multiplied by the file's", () => {
    const keys = { "rope.scaling.type": "yarn", "rope.scaling.factor": 4, "rope.scaling.attn_factor": 2 };
    const schedule = rotaryOf("qwen2", keys).schedule;
    expect(frequencies(schedule, 1).attentionFactor).toBeCloseTo(2 * (1 + 0.1 * Math.log(4)), 14);
  });

  it("gpt-oss keeps its unrounded ramp", () => {
    const keys = { "rope.scaling.type": "yarn", "rope.scaling.factor": 32 };
    expect(rotaryOf("gpt-oss", keys).schedule).toMatchObject({ truncate: false });
  });

  it("DeepSeek-2: a tenth of the log multiplier is stored; softmax scaled, cos and sin not; last dims of the key", () => {
    const keys = {
      "rope.dimension_count": 64,
      "rope.scaling.type": "yarn",
      "rope.scaling.factor": 40,
      "rope.scaling.original_context_length": 4096,
      "rope.scaling.yarn_log_multiplier": 0.1,
    };
    const { rotary, softmaxScaleFactor } = read("deepseek2", keys, { headDim: 192 });
    expect(softmaxScaleFactor).toBeCloseTo(1.8738542070926265, 14);
    expect(rotary).toMatchObject({ rotaryDim: 64, rotaryOffset: 128, pairing: "interleaved" });
    expect(rotary && frequencies(rotary.schedule, 1).attentionFactor).toBe(1);
  });

  it("rope_freqs are divisors of the frequencies, with linear scaling on top", () => {
    const ropeFreqs = new Float32Array(32).fill(2);
    const schedule = rotaryOf("llama", { "rope.scaling.factor": 4 }, { ropeFreqs }).schedule;
    expect(schedule).toMatchObject({ type: "divisors", dim: 64 });
    expect(frequencies(schedule, 1).inverseFrequencies[0]).toBe(1 / 8);
  });

  it("two lists are LongRoPE, switched at the original context", () => {
    const options = { ropeFactorsShort: new Float32Array(32).fill(1), ropeFactorsLong: new Float32Array(32).fill(8) };
    const keys = { "rope.scaling.original_context_length": 4096, "rope.scaling.attn_factor": 1.25 };
    const { schedule } = rotaryOf("phi3", keys, options);
    expect(frequencies(schedule, 4096)).toMatchObject({ attentionFactor: 1.25 });
    expect(frequencies(schedule, 4096).inverseFrequencies[0]).toBe(1);
    expect(frequencies(schedule, 4097).inverseFrequencies[0]).toBe(1 / 8);
  });

  it("Gemma 3: sliding layers have base 10000 and no scaling", () => {
    const keys = { "attention.sliding_window": 512, "rope.freq_base": 1e6, "rope.scaling.factor": 8 };
    expect(rotaryOf("gemma3", keys, { layerIndex: 5 }).schedule).toMatchObject({ type: "linear", theta: 1e6 });
    expect(rotaryOf("gemma3", keys, { layerIndex: 4 }).schedule).toMatchObject({ type: "default", theta: 10000 });
    const listed = { ...keys, "attention.sliding_window_pattern": [false, true], "rope.freq_base_swa": 3e4 };
    expect(rotaryOf("gemma3", listed, { layerIndex: 0 }).schedule).toMatchObject({ theta: 1e6 });
    expect(rotaryOf("gemma3", listed, { layerIndex: 1 }).schedule).toMatchObject({ theta: 3e4 });
  });

  it("layers without rotation come with the architecture", () => {
    expect(read("smollm3", {}, { layerIndex: 3 }).rotary).toBeNull();
    expect(read("llama4", {}, { layerIndex: 7 })).toEqual({
      rotary: null,
      queryTemperature: { beta: 0.1, length: 8192, offset: 1 },
      softmaxScaleFactor: 1,
    });
    expect(read("cohere2", { "attention.sliding_window": 99 }, { layerIndex: 3 }).rotary).toBeNull();
    expect(read("exaone4", {}, { layerIndex: 3 }).rotary).not.toBeNull(); // no window
  });

  it("Ministral 3's temperature", () => {
    const keys = { "attention.temperature_scale": 0.1, "rope.scaling.original_context_length": 16384 };
    expect(read("mistral3", keys).queryTemperature).toEqual({ beta: 0.1, length: 16384, offset: 0 });
  });

  it("M-RoPE sections, of which the file holds four", () => {
    const keys = { "rope.dimension_sections": Int32Array.of(8, 12, 12, 0) };
    expect(rotaryOf("qwen2vl", keys).pairAxes?.join("")).toBe("0".repeat(8) + "1".repeat(12) + "2".repeat(12));
  });

  it.each<[string, Record<string, unknown>, GgufLayerOptions, string]>([
    [
      "an unknown architecture",
      metadata("nautilus"),
      {},
      'gguf metadata: general.architecture must be one whose rotary pairing is known; got general.architecture="nautilus".',
    ],
    [
      "an unknown rope key",
      metadata("llama", { "rope.warp": 2 }),
      {},
      "gguf metadata: rope.warp is not a known rope key; got rope.warp=2.",
    ],
    [
      "an unknown scaling type",
      metadata("llama", { "rope.scaling.type": "spiral" }),
      {},
      'gguf metadata: rope.scaling.type must be one of none, linear, yarn, longrope; got rope.scaling.type="spiral".',
    ],
    [
      "LongRoPE without its lists",
      metadata("phi3", { "rope.scaling.type": "longrope" }),
      {},
      "gguf metadata: longrope needs the tensors rope_factors_long and rope_factors_short only; got rope_factors_long=undefined, rope_factors_short=undefined, rope_freqs=undefined.",
    ],
    [
      "an unnamed layer where layers differ",
      metadata("smollm3"),
      {},
      "gguf metadata: the layers of this model differ, so layerIndex is required; got layerIndex=undefined.",
    ],
    [
      "divisors of the wrong length",
      metadata("llama"),
      { ropeFreqs: Float32Array.of(1) },
      "rope schedule divisors: divisors must be 32 numbers greater than 0; got length=1, divisors=[1].",
    ],
    [
      "more rotated dims than the head has",
      metadata("llama", { "rope.dimension_count": 128 }),
      {},
      "gguf metadata: rope.dimension_count must be even and at most the head width; got dim=128, headDim=64.",
    ],
  ])("%s is a ConfigError", (_, keys, options, message) => {
    expect(() => positionsFromGguf(keys, options)).toThrow(expect.objectContaining({ code: "PHASOR_CONFIG", message }));
  });

  it("arbitrary metadata gives positions or a ConfigError, never anything else", () => {
    const keys = fc.dictionary(
      fc.constantFrom(
        ..."rope.freq_base rope.dimension_count rope.dimension_count_swa rope.freq_base_swa rope.scaling.type rope.scaling.factor rope.scaling.attn_factor rope.scaling.yarn_ext_factor rope.scaling.yarn_log_multiplier rope.scaling.original_context_length rope.dimension_sections attention.sliding_window attention.sliding_window_pattern attention.key_length attention.head_count".split(
          " ",
        ),
      ),
      fc.oneof(
        fc.constantFrom(0, 1, -1, 64, "yarn", "linear", "longrope", 1e300, 2n, [1, 2], true),
        fc.jsonValue({ maxDepth: 1 }),
      ),
      { maxKeys: 6 },
    );
    const architectures = fc.constantFrom(
      "llama",
      "gemma3",
      "deepseek2",
      "cohere2",
      "llama4",
      "qwen2vl",
      "constructor",
    );
    fc.assert(
      fc.property(architectures, keys, fc.option(fc.nat(5)), (architecture, own, layerIndex) => {
        try {
          const { rotary } = read(architecture, own, layerIndex === null ? {} : { layerIndex });
          if (rotary !== null) frequencies(rotary.schedule, 5000);
        } catch (error) {
          if (!(error instanceof ConfigError)) throw error;
        }
      }),
      { numRuns: 1500 },
    );
  });
});
