import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "../errors.ts";
import { positionsFromConfig } from "./from-config.ts";
import { frequencies } from "./schedule.ts";

const base = { hidden_size: 320, num_attention_heads: 5, num_hidden_layers: 8, max_position_embeddings: 8192 };

describe("refusals", () => {
  it.each<[string, Record<string, unknown>, string]>([
    ["no model type", {}, "config.json: model_type must be a string; got model_type=undefined."],
    [
      "an unknown model type",
      { model_type: "nautilus" },
      'config.json: model_type must be one whose rotary pairing is known; got model_type="nautilus". Build the RotaryLayer by hand if you know its pairing.',
    ],
    [
      "an unknown rope type",
      { model_type: "llama", rope_scaling: { type: "spiral", factor: 2 } },
      'config.json: rope_scaling: type must be one of default, linear, dynamic, yarn, longrope, llama3, proportional; got type="spiral".',
    ],
    [
      "an unknown key",
      { model_type: "llama", rope_scaling: { type: "linear", factor: 2, warp: 3 } },
      "config.json: rope_scaling: warp is not a known rope parameter of this model type; got warp=3. Remove it if it has no effect on positions.",
    ],
    [
      "a key of another model",
      { model_type: "llama", rope_scaling: { type: "dynamic", factor: 2, alpha: 3 } },
      "config.json: rope_scaling: alpha is not a known rope parameter of this model type; got alpha=3. Remove it if it has no effect on positions.",
    ],
    [
      "an unknown key at top level",
      { model_type: "llama", rope_ratio: 8 },
      "config.json: rope_ratio is not a known key about rotation; got rope_ratio=8.",
    ],
    [
      "ALiBi",
      { model_type: "falcon", alibi: true },
      "config.json: alibi is not a known key about rotation; got alibi=true.",
    ],
    [
      "a missing factor",
      { model_type: "llama", rope_scaling: { type: "linear" } },
      "config.json: rope_scaling: factor is required.",
    ],
    [
      "a list of the wrong length",
      { model_type: "phi3", rope_scaling: { type: "su", short_factor: [1], long_factor: [2] } },
      "rope schedule longrope: shortFactors must be 32 numbers greater than 0; got length=1, shortFactors=[1].",
    ],
    [
      "a fraction above 1",
      { model_type: "phi", partial_rotary_factor: 1.5 },
      "config.json: rope_parameters: partial_rotary_factor must be a number from 0 to 1; got partial_rotary_factor=1.5.",
    ],
    [
      "rope_scaling that is no object",
      { model_type: "llama", rope_scaling: 2 },
      "config.json: rope_scaling must be an object or null; got rope_scaling=2.",
    ],
    [
      "a base where transformers would not look",
      { model_type: "gemma4_text", rope_theta: 5, layer_types: ["full_attention"] },
      "config.json: rope_theta must stand in rope_parameters, by layer type, for this model type; got rope_theta=5.",
    ],
  ])("%s", (_, config, message) => {
    expect(() => positionsFromConfig({ ...base, ...config }, { layerIndex: 0 })).toThrow(
      expect.objectContaining({ code: "PHASOR_CONFIG", message }),
    );
  });

  it("configs that are no objects", () => {
    for (const config of [null, undefined, 3, "{}", []]) {
      expect(() => positionsFromConfig(config)).toThrow(ConfigError);
    }
  });
});

describe("arbitrary configs", () => {
  const junk = fc.oneof(
    fc.constantFrom(null, true, false, 0, 1, -1, 0.5, 1e308, "yarn", "x", [], {}, [1, 2], 64, 4096),
    fc.jsonValue({ maxDepth: 2 }),
  );
  const parameters = fc.dictionary(
    fc.constantFrom(
      ..."rope_type type rope_theta factor partial_rotary_factor original_max_position_embeddings beta_fast truncate mscale mscale_all_dim short_factor long_factor mrope_section attention_factor alpha full_attention sliding_attention main compress low_freq_factor high_freq_factor __proto__".split(
        " ",
      ),
    ),
    fc.oneof(junk, fc.constantFrom("linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su")),
    { maxKeys: 7 },
  );
  const config = fc.record(
    {
      model_type: fc.oneof(
        fc.constantFrom(
          ..."llama gemma3_text gemma4_text olmo3 deepseek_v3 deepseek_v4 step3p5 phi3 phimoe qwen2_vl qwen3_5_text llama4_text smollm3 exaone4 mimo_v2_flash hunyuan_v1_dense mistral4 gpt_neox constructor".split(
            " ",
          ),
        ),
        junk,
      ),
      rope_scaling: fc.oneof(parameters, junk),
      rope_parameters: fc.oneof(parameters, junk),
      rope_theta: fc.oneof(fc.constant(10000), junk),
      head_dim: fc.oneof(fc.constantFrom(64, 2 ** 40), junk),
      layer_types: fc.oneof(fc.constant(["full_attention", "sliding_attention"]), junk),
      no_rope_layers: junk,
      partial_rotary_factors: junk,
      sliding_window_pattern: junk,
      hybrid_layer_pattern: junk,
      compress_ratios: junk,
      qk_rope_head_dim: fc.oneof(fc.constant(64), junk),
      num_hidden_layers: fc.oneof(fc.constant(2), junk),
      max_position_embeddings: fc.oneof(fc.constant(4096), junk),
    },
    { requiredKeys: ["model_type"] },
  );

  it("give positions whose frequencies can be computed, or a ConfigError, never anything else", () => {
    let read = 0;
    fc.assert(
      fc.property(config, fc.nat(2), fc.option(fc.constantFrom("full_attention", "main")), (json, layerIndex, type) => {
        try {
          const options = type === null ? { layerIndex } : { layerIndex, layerType: type };
          const { rotary } = positionsFromConfig({ hidden_size: 64, num_attention_heads: 1, ...json }, options);
          if (rotary !== null) frequencies(rotary.schedule, 5000);
          read++;
        } catch (error) {
          if (!(error instanceof ConfigError)) throw error;
        }
      }),
      { numRuns: 3000 },
    );
    expect(read).toBeGreaterThan(0);
  });
});
