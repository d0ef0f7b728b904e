import { describe, expect, it } from "vitest";
import { describeModel } from "../load.ts";
import { createMemoryFiles } from "../weights/memory-source.ts";

const CONFIG = {
  ...{ model_type: "llama", hidden_size: 8, num_attention_heads: 2, intermediate_size: 8, num_hidden_layers: 1 },
  ...{ vocab_size: 8, max_position_embeddings: 8 },
};

const describeConfig = (json: object) =>
  describeModel(createMemoryFiles(new Map([["config.json", JSON.stringify({ ...CONFIG, ...json })]])));

describe("hidden_act", () => {
  it.each([
    [undefined, "silu"],
    ["silu", "silu"],
    ["gelu", "gelu"],
    ["gelu_new", "geluTanh"],
    ["gelu_pytorch_tanh", "geluTanh"],
  ])("%s is %s", async (hidden_act, want) => {
    const { config } = await describeConfig(hidden_act === undefined ? {} : { hidden_act });
    expect(config.layers[0].activation).toBe(want);
  });

  it.each(["relu", "toString"])("%s is refused", async (hidden_act) => {
    await expect(describeConfig({ hidden_act })).rejects.toThrow(
      `hidden_act must be one of silu, gelu, gelu_new, gelu_pytorch_tanh; got hidden_act="${hidden_act}".`,
    );
  });
});
