import { describe, expect, it } from "vitest";
import { type ConfigLayerOptions, positionsFromConfig } from "./from-config.ts";
import { frequencies } from "./schedule.ts";

const base = { hidden_size: 320, num_attention_heads: 5, num_hidden_layers: 8, max_position_embeddings: 8192 };

function read(config: Record<string, unknown>, options: ConfigLayerOptions = {}) {
  return positionsFromConfig({ ...base, ...config }, options);
}
function rotaryOf(config: Record<string, unknown>, options: ConfigLayerOptions = {}) {
  const { rotary } = read(config, options);
  if (rotary === null) throw new Error("the layer has no rotation");
  return rotary;
}
const scheduleOf = (config: Record<string, unknown>, options: ConfigLayerOptions = {}) =>
  rotaryOf(config, options).schedule;
const rotates = (config: Record<string, unknown>): boolean[] =>
  Array.from({ length: 8 }, (_, layerIndex) => read(config, { layerIndex }).rotary !== null);

describe("plain configs", () => {
  it("Llama with no rope key: base 10000, whole head, half-split, width from the sizes", () => {
    expect(read({ model_type: "llama" })).toEqual({
      rotary: {
        headDim: 64,
        rotaryDim: 64,
        rotaryOffset: 0,
        pairing: "half",
        schedule: { type: "default", dim: 64, theta: 10000 },
      },
      queryTemperature: null,
      softmaxScaleFactor: 1,
    });
  });

  it.each([
    ["old form", { rope_theta: 5e5, rope_scaling: null }],
    ["new form", { rope_parameters: { rope_type: "default", rope_theta: 5e5 } }],
    ["an empty rope_scaling beside the new form", { rope_scaling: {}, rope_parameters: { rope_theta: 5e5 } }],
  ])("base in the %s", (_, config) => {
    expect(scheduleOf({ model_type: "llama", ...config })).toEqual({ type: "default", dim: 64, theta: 5e5 });
  });

  it("head_dim of the config comes before the sizes, that of the caller before both", () => {
    expect(rotaryOf({ model_type: "llama", head_dim: 48 }).headDim).toBe(48);
    expect(rotaryOf({ model_type: "llama", head_dim: 48 }, { headDim: 32 }).headDim).toBe(32);
    expect(rotaryOf({ model_type: "gemma2" }).headDim).toBe(256);
  });

  it("rope_scaling replaces rope_parameters", () => {
    const config = {
      model_type: "qwen2",
      rope_scaling: { type: "linear", factor: 2 },
      rope_parameters: { rope_type: "yarn", factor: 9, rope_theta: 7 },
    };
    expect(scheduleOf(config)).toEqual({ type: "linear", dim: 64, theta: 10000, factor: 2 });
  });

  it("the text part of a multimodal config is read", () => {
    const config = { model_type: "gemma3", text_config: { ...base, model_type: "gemma3_text", head_dim: 32 } };
    expect(positionsFromConfig(config, { layerIndex: 5 }).rotary?.schedule).toMatchObject({ dim: 32, theta: 1e6 });
  });

  it.each([
    ["cohere", 500000],
    ["gpt_oss", 150000],
    ["mixtral", 1e6],
    ["apertus", 12e6],
    ["phimoe", 1e6],
    ["minimax_m2", 5e6],
  ])("%s has its own default base", (model_type, theta) => {
    expect(scheduleOf({ model_type })).toMatchObject({ theta });
  });
});

describe("scaled schedules", () => {
  it("YaRN: defaults, and the original context of the config", () => {
    const config = { model_type: "qwen2", rope_theta: 1e6, rope_scaling: { type: "yarn", factor: 4 } };
    expect(scheduleOf(config)).toEqual({
      type: "yarn",
      dim: 64,
      theta: 1e6,
      factor: 4,
      originalLength: 8192,
      betaFast: 32,
      betaSlow: 1,
      truncate: true,
    });
  });

  it("YaRN with a null factor takes the ratio of the contexts", () => {
    const rope_scaling = { rope_type: "yarn", factor: null, original_max_position_embeddings: 2048 };
    expect(scheduleOf({ model_type: "llama", rope_scaling })).toMatchObject({ factor: 4, originalLength: 2048 });
  });

  it("an original context at top level comes before that of the parameters", () => {
    const rope_scaling = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 2048 };
    const config = { model_type: "llama", original_max_position_embeddings: 1024, rope_scaling };
    expect(scheduleOf(config)).toMatchObject({ originalLength: 1024 });
  });

  it("Llama 3", () => {
    const rope_scaling = {
      rope_type: "llama3",
      factor: 32,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 4096,
    };
    expect(scheduleOf({ model_type: "llama", rope_theta: 5e5, rope_scaling })).toEqual({
      type: "llama3",
      dim: 64,
      theta: 5e5,
      factor: 32,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalLength: 4096,
    });
  });

  const lists = { short_factor: new Array(32).fill(1), long_factor: new Array(32).fill(3) };

  it.each(["longrope", "su", "yarn"])("Phi-3's %s is LongRoPE, with its factor from the contexts", (type) => {
    const config = { model_type: "phi3", original_max_position_embeddings: 2048, rope_scaling: { type, ...lists } };
    expect(scheduleOf(config)).toMatchObject({ type: "longrope", originalLength: 2048, factor: 4 });
  });

  it("PhiMoE always uses the short list; its mscale switches", () => {
    const rope_scaling = { type: "longrope", ...lists, short_mscale: 1.25, long_mscale: 1.5 };
    const schedule = scheduleOf({ model_type: "phimoe", original_max_position_embeddings: 4096, rope_scaling });
    expect(frequencies(schedule, 5000).inverseFrequencies[0]).toBe(1);
    expect([4096, 4097].map((s) => frequencies(schedule, s).attentionFactor)).toEqual([1.25, 1.5]);
  });

  it("Hunyuan's alpha is static NTK up to the context", () => {
    const rope_scaling = { type: "dynamic", alpha: 1000, factor: 1, beta_fast: 32, mscale: 1 };
    const expected = { type: "dynamic", dim: 64, theta: 10000, factor: 1, maxLength: 8192, alpha: 1000 };
    expect(scheduleOf({ model_type: "hunyuan_v1_dense", rope_scaling })).toEqual(expected);
  });

  it("gpt-oss without rope keys has YaRN with an unrounded ramp", () => {
    expect(scheduleOf({ model_type: "gpt_oss" })).toMatchObject({ type: "yarn", factor: 32, truncate: false });
  });

  it("truncate counts beside layer types, not inside them, as in transformers", () => {
    const entry = { rope_type: "yarn", factor: 4, rope_theta: 5e5, truncate: false };
    const inside = { model_type: "olmo3", rope_parameters: { full_attention: entry } };
    const beside = { model_type: "olmo3", rope_parameters: { full_attention: entry, truncate: false } };
    expect(scheduleOf(inside, { layerType: "full_attention" })).toMatchObject({ truncate: true });
    expect(scheduleOf(beside, { layerType: "full_attention" })).toMatchObject({ truncate: false });
  });
});

describe("part of the head", () => {
  it.each([
    ["GPT-NeoX's own names", { model_type: "gpt_neox", rotary_pct: 0.5, rotary_emb_base: 500 }, 32, 500],
    ["GPT-NeoX's default of a quarter", { model_type: "gpt_neox" }, 16, 10000],
    [
      "GPT-NeoX ignoring the common names",
      { model_type: "gpt_neox", rope_theta: 7, partial_rotary_factor: 1 },
      16,
      10000,
    ],
    ["Phi", { model_type: "phi", partial_rotary_factor: 0.25 }, 16, 10000],
    ["Phi's default of a half", { model_type: "phi" }, 32, 10000],
    ["StableLM's default of a quarter", { model_type: "stablelm" }, 16, 10000],
    [
      "the new form",
      { model_type: "qwen3_next", rope_parameters: { partial_rotary_factor: 0.5 }, head_dim: 64 },
      32,
      10000,
    ],
    ["a number of dims (GPT-J)", { model_type: "gptj", rotary_dim: 24 }, 24, 10000],
  ])("%s", (_, config, rotaryDim, theta) => {
    const rotary = rotaryOf(config);
    expect(rotary.rotaryDim).toBe(rotaryDim);
    expect(rotary.schedule).toMatchObject({ dim: rotaryDim, theta });
  });

  it("an odd number of dims is rounded up, its exponents keep it", () => {
    const rotary = rotaryOf({ model_type: "glm4_moe", head_dim: 50 });
    expect(rotary.rotaryDim).toBe(26);
    expect(rotary.schedule).toEqual({ type: "default", dim: 25, theta: 10000 });
  });

  it("a whole odd head cannot be paired", () => {
    expect(() => read({ model_type: "llama", head_dim: 25 })).toThrow(
      "config.json: the rotated dims must fit into the head; got headDim=25, rotaryDim=26.",
    );
  });
});

describe("pairing by model type", () => {
  it.each([
    ["llama", "half"],
    ["glm4", "interleaved"],
    ["glm4_moe", "half"],
    ["cohere", "interleaved"],
    ["ernie4_5", "interleaved"],
    ["gptj", "interleaved"],
    ["helium", "interleaved"],
    ["gpt_neox", "half"],
  ] as const)("%s is %s", (model_type, pairing) => {
    expect(rotaryOf({ model_type }).pairing).toBe(pairing);
  });

  it("rope_interleave false makes DeepSeek half-split", () => {
    expect(rotaryOf({ model_type: "deepseek_v3", rope_interleave: false }).pairing).toBe("half");
    expect(rotaryOf({ model_type: "deepseek_v3" }).pairing).toBe("interleaved");
  });
});

describe("layers that differ", () => {
  const gemma3 = {
    model_type: "gemma3_text",
    rope_theta: 1e6,
    rope_local_base_freq: 1e4,
    sliding_window_pattern: 6,
    rope_scaling: { rope_type: "linear", factor: 8 },
  };

  it("Gemma 3: every sixth layer is global and scaled, the others are local and plain", () => {
    expect(scheduleOf(gemma3, { layerIndex: 5 })).toMatchObject({ type: "linear", theta: 1e6, factor: 8 });
    expect(scheduleOf(gemma3, { layerIndex: 6 })).toMatchObject({ type: "default", theta: 1e4 });
    expect(scheduleOf(gemma3, { layerType: "full_attention" })).toMatchObject({ type: "linear" });
  });

  it("Gemma 3 does not read flat rope_parameters, as in transformers", () => {
    const config = { model_type: "gemma3_text", rope_parameters: { rope_type: "linear", factor: 8, rope_theta: 7 } };
    expect(scheduleOf(config, { layerIndex: 5 })).toMatchObject({ type: "default", theta: 1e6 });
  });

  it("Gemma 3 with a fraction at top level turns a part of the head in both kinds of layers", () => {
    const config = { model_type: "gemma3_text", partial_rotary_factor: 0.5 };
    expect(scheduleOf(config, { layerIndex: 4 })).toMatchObject({ dim: 128, theta: 1e4 });
    expect(scheduleOf(config, { layerIndex: 5 })).toMatchObject({ dim: 128, theta: 1e6 });
  });

  it("OLMo 3: old-form scaling and base belong to the full layers; sliding ones have base 500000", () => {
    const config = { model_type: "olmo3", rope_theta: 9e5, rope_scaling: { rope_type: "linear", factor: 2 } };
    expect(scheduleOf(config, { layerIndex: 3 })).toMatchObject({ type: "linear", theta: 9e5 });
    expect(scheduleOf(config, { layerIndex: 4 })).toMatchObject({ type: "default", theta: 5e5 });
  });

  it("ModernBERT: layers 0, 3, 6 are global", () => {
    const config = { model_type: "modernbert", global_rope_theta: 2e5, local_rope_theta: 3e4 };
    const thetas = [0, 1, 2, 3].map((layerIndex) => scheduleOf(config, { layerIndex }));
    expect(thetas).toMatchObject([{ theta: 2e5 }, { theta: 3e4 }, { theta: 3e4 }, { theta: 2e5 }]);
  });

  it("Gemma 4: global layers have a wider head and turn a quarter of it", () => {
    const config = { model_type: "gemma4_text", head_dim: 64, global_head_dim: 96 };
    expect(rotaryOf(config, { layerIndex: 5 })).toMatchObject({
      headDim: 96,
      rotaryDim: 96,
      schedule: { type: "proportional", dim: 96, theta: 1e6, fraction: 0.25 },
    });
    expect(rotaryOf(config, { layerIndex: 7 })).toMatchObject({ headDim: 96 }); // the last layer is global
    expect(rotaryOf(config, { layerIndex: 0 })).toMatchObject({ headDim: 64, schedule: { theta: 1e4 } });
  });

  it("MiMo-V2 as published: swa_rope_theta, and layers by hybrid_layer_pattern", () => {
    const config = {
      model_type: "mimo_v2_flash",
      head_dim: 192,
      rope_theta: 4e6,
      swa_rope_theta: 2e4,
      hybrid_layer_pattern: [0, 1, 1, 0, 1, 1, 1, 0],
    };
    expect(rotaryOf(config, { layerIndex: 3 })).toMatchObject({ rotaryDim: 64, schedule: { theta: 4e6 } });
    expect(scheduleOf(config, { layerIndex: 1 })).toMatchObject({ theta: 2e4 });
  });

  it("Step-3.5: lists by layer, scaling for the types named", () => {
    const config = {
      model_type: "step3p5",
      head_dim: 128,
      layer_types: ["full_attention", "sliding_attention"],
      num_hidden_layers: 2,
      rope_theta: [5e6, 1e4],
      partial_rotary_factors: [0.5, 1],
      yarn_only_types: ["full_attention"],
      rope_scaling: { rope_type: "linear", factor: 2 },
    };
    expect(scheduleOf(config, { layerIndex: 0 })).toEqual({ type: "linear", dim: 64, theta: 5e6, factor: 2 });
    expect(scheduleOf(config, { layerType: "sliding_attention" })).toEqual({ type: "default", dim: 128, theta: 1e4 });
  });

  it("a null entry for a layer type means no rotation", () => {
    const config = {
      model_type: "llama",
      layer_types: new Array(8).fill("full_attention"),
      rope_parameters: { full_attention: null, sliding_attention: { rope_theta: 5 } },
    };
    expect(read(config, { layerIndex: 0 }).rotary).toBeNull();
    expect(scheduleOf(config, { layerType: "sliding_attention" })).toMatchObject({ theta: 5 });
  });

  it("a layer must be named where it matters", () => {
    expect(() => read(gemma3)).toThrow(
      'config.json: the layers of this model differ, so a layer must be named; got model_type="gemma3_text", layerIndex=undefined, layerType=undefined. Pass layerIndex or layerType.',
    );
    expect(() => read(gemma3, { layerIndex: 8 })).toThrow(
      "positionsFromConfig: layerIndex must be the index of a layer; got layerIndex=8, num_hidden_layers=8.",
    );
  });
});

describe("layers without rotation", () => {
  it("SmolLM3: every fourth, or as listed (1 means that the layer rotates)", () => {
    expect(rotates({ model_type: "smollm3" })).toEqual([true, true, true, false, true, true, true, false]);
    const no_rope_layers = [0, 1, 1, 1, 1, 1, 1, 0];
    expect(rotates({ model_type: "smollm3", no_rope_layers })).toEqual(no_rope_layers.map(Boolean));
    expect(rotates({ model_type: "smollm3", no_rope_layer_interval: 2 })[1]).toBe(false);
  });

  it("Cohere 2: full layers", () => {
    expect(rotates({ model_type: "cohere2" })).toEqual([true, true, true, false, true, true, true, false]);
    const config = { model_type: "cohere2", sliding_window_pattern: 2 };
    expect(rotates(config).slice(0, 4)).toEqual([true, false, true, false]);
  });

  it("EXAONE 4: full layers, unless there is no window at all", () => {
    expect(rotates({ model_type: "exaone4", sliding_window_pattern: "LLLG" })[3]).toBe(false);
    expect(rotates({ model_type: "exaone4", sliding_window: null })).toEqual(new Array(8).fill(true));
  });

  it("Llama 4: every fourth, whose queries have a temperature", () => {
    const config = { model_type: "llama4_text", floor_scale: 4096, attn_scale: 0.2 };
    expect(read(config, { layerIndex: 3 })).toEqual({
      rotary: null,
      queryTemperature: { beta: 0.2, length: 4096, offset: 1 },
      softmaxScaleFactor: 1,
    });
    expect(read(config, { layerIndex: 2 })).toMatchObject({ rotary: {}, queryTemperature: null });
    const without = { ...config, attn_temperature_tuning: false };
    expect(read(without, { layerIndex: 3 }).queryTemperature).toBeNull();
  });

  it("Granite hybrid: only with rope embeddings", () => {
    expect(read({ model_type: "granitemoehybrid" }).rotary).toBeNull();
    expect(read({ model_type: "granitemoehybrid", position_embedding_type: "rope" }).rotary).not.toBeNull();
  });
});

describe("latent attention", () => {
  const yarn = { type: "yarn", factor: 40, mscale: 1, mscale_all_dim: 1, original_max_position_embeddings: 4096 };
  const deepseek = { model_type: "deepseek_v3", qk_rope_head_dim: 64, qk_nope_head_dim: 128 };

  it("DeepSeek-V3 scales the softmax with YaRN", () => {
    const { rotary, softmaxScaleFactor } = read({ ...deepseek, rope_scaling: yarn });
    expect(softmaxScaleFactor).toBeCloseTo(1.8738542070926265, 14);
    expect(rotary).toMatchObject({ headDim: 64, rotaryDim: 64, rotaryOffset: 0, pairing: "interleaved" });
    expect(read(deepseek).softmaxScaleFactor).toBe(1);
  });

  it("within a whole key the rotated dims are the last", () => {
    expect(rotaryOf(deepseek, { headDim: 192 })).toMatchObject({ rotaryDim: 64, rotaryOffset: 128 });
  });

  it("Mistral 4: the fraction of the whole key agrees with the rope part; queries have a temperature", () => {
    const config = { model_type: "mistral4", qk_rope_head_dim: 32, qk_nope_head_dim: 96 };
    const rope_parameters = {
      ...yarn,
      rope_theta: 1e4,
      partial_rotary_factor: 0.25,
      llama_4_scaling_beta: 0.1,
    };
    const { rotary, queryTemperature } = read({ ...config, rope_parameters });
    expect(rotary?.rotaryDim).toBe(32);
    expect(queryTemperature).toEqual({ beta: 0.1, length: 4096, offset: 0 });
    expect(() => read({ ...config, rope_parameters: { ...rope_parameters, partial_rotary_factor: 0.5 } })).toThrow(
      "config.json: rope_parameters: partial_rotary_factor must agree with qk_rope_head_dim; got partial_rotary_factor=0.5, qk_rope_head_dim=32, qk_nope_head_dim=96.",
    );
  });

  it("DeepSeek-V4: last dims; plain on sliding layers, YaRN with factor 1 on the others", () => {
    const config = {
      model_type: "deepseek_v4",
      head_dim: 256,
      qk_rope_head_dim: 32,
      compress_ratios: [0, 4, 128, 4, 128, 4, 128, 4],
      rope_scaling: { type: "yarn", factor: 16, original_max_position_embeddings: 4096 },
    };
    expect(rotaryOf(config, { layerIndex: 0 })).toMatchObject({
      rotaryDim: 32,
      rotaryOffset: 224,
      schedule: { type: "default", theta: 10000 },
    });
    expect(scheduleOf(config, { layerIndex: 1 })).toMatchObject({ type: "yarn", theta: 160000, attentionFactor: 1 });
    expect(scheduleOf(config, { layerType: "main" })).toMatchObject({ type: "default" });
  });
});

describe("M-RoPE", () => {
  const axes = (config: Record<string, unknown>) => rotaryOf(config).pairAxes?.join("");

  it("Qwen2-VL: chunks", () => {
    const config = { model_type: "qwen2_vl", rope_scaling: { type: "mrope", mrope_section: [8, 12, 12] } };
    expect(axes(config)).toBe("0".repeat(8) + "1".repeat(12) + "2".repeat(12));
    expect(scheduleOf(config)).toMatchObject({ type: "default", theta: 1e6 });
  });

  it("Qwen3-VL: interleaved, also where the flag is missing", () => {
    const rope_parameters = { rope_type: "default", mrope_section: [12, 10, 10] };
    const expected = `${"012".repeat(10)}00`;
    expect(axes({ model_type: "qwen3_vl_text", head_dim: 64, rope_parameters })).toBe(expected);
  });

  it("ERNIE-4.5-VL: h and w alternate, then t", () => {
    const rope_parameters = { mrope_section: [11, 11, 10] };
    expect(axes({ model_type: "ernie4_5_vl_moe_text", rope_parameters })).toBe("12".repeat(11) + "0".repeat(10));
  });

  it("a section in any model counts, with the flag for its layout", () => {
    const rope_scaling = { mrope_section: [12, 10, 10], mrope_interleaved: true };
    expect(axes({ model_type: "qwen2", rope_scaling })).toBe(`${"012".repeat(10)}00`);
    expect(axes({ model_type: "qwen2" })).toBeUndefined();
  });
});
