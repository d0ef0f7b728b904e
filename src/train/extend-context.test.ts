import { describe, expect, test } from "vitest";
import { positionsFromConfig } from "../rope/index.ts";
import { extendContext, parseExtension } from "./extend-context.ts";

const CONFIG = {
  model_type: "llama",
  hidden_size: 32,
  num_attention_heads: 4,
  num_hidden_layers: 1,
  max_position_embeddings: 512,
  rope_theta: 5000,
};

describe("extendContext", () => {
  test("writes what the rotary schedules are read from", () => {
    const scheduleOf = (text: string): unknown => {
      const json = extendContext(CONFIG, parseExtension(text));
      expect(json.max_position_embeddings).toBe(2048);
      return positionsFromConfig(json).rotary?.schedule;
    };
    expect(scheduleOf("linear:4")).toEqual({ type: "linear", dim: 8, theta: 5000, factor: 4 });
    expect(scheduleOf("yarn:4")).toMatchObject({ type: "yarn", dim: 8, theta: 5000, factor: 4, originalLength: 512 });
    expect(scheduleOf("llama3:4")).toMatchObject({ type: "llama3", factor: 4, originalLength: 512, highFreqFactor: 4 });
    // 5000 · 4^(8/6): the slowest pair, 5000^(−6/8), is divided by 4.
    expect(scheduleOf("ntk:4")).toEqual({ type: "default", dim: 8, theta: 5000 * 4 ** (4 / 3) });
  });

  test("keeps the newer form of the keys", () => {
    const { rope_theta: _, ...rest } = CONFIG;
    const newer = { ...rest, rope_parameters: { rope_type: "default", rope_theta: 5000 } };
    expect(extendContext(newer, { type: "yarn", factor: 2 })).toEqual({
      ...rest,
      max_position_embeddings: 1024,
      rope_parameters: { rope_type: "yarn", rope_theta: 5000, factor: 2, original_max_position_embeddings: 512 },
    });
    expect(extendContext(newer, { type: "ntk", factor: 2 })).toMatchObject({
      rope_parameters: { rope_type: "default", rope_theta: 5000 * 2 ** (4 / 3) },
    });
  });

  test("refuses a larger base for a single pair, which no base slows down", () => {
    expect(() => extendContext({ ...CONFIG, head_dim: 2 }, { type: "ntk", factor: 4 })).toThrow(
      "extendContext: more than one rotary pair for ntk; got rotaryDim=2. " +
        "Its only pair is the fastest and stays as it is; use linear or yarn.",
    );
  });

  test("refuses what is scaled already", () => {
    const scaled = { ...CONFIG, rope_scaling: { type: "linear", factor: 2 } };
    expect(() => extendContext(scaled, { type: "yarn", factor: 2 })).toThrow(
      'extendContext: a model whose layers share one unscaled schedule; got rope_type="linear".',
    );
  });
});

describe("parseExtension", () => {
  test("refuses frequencies that change with every text", () => {
    expect(() => parseExtension("dynamic-ntk:2")).toThrow(
      'extendContext: a schedule that is the same at every length; got type="dynamic-ntk". ' +
        "Its frequencies change with the length of every text; fine-tune with yarn or ntk instead.",
    );
  });

  test.each(["yarn", "yarn:", "yarn:4:5", "yarn:1", "longrope:2", "yarn:x"])("refuses %s", (text) => {
    expect(() => parseExtension(text)).toThrow(
      `extendContext: one of linear, yarn, ntk, llama3, a colon and a factor above 1; got ropeScaling="${text}".`,
    );
  });
});
