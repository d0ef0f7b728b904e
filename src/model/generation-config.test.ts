import { expect, it } from "vitest";
import { ConfigReader } from "../config-reader.ts";
import { readGenerationConfig } from "./generation-config.ts";

const config = new ConfigReader("config.json", { eos_token_id: 2 });

it("takes stop tokens from generation_config.json, or else from config.json", () => {
  expect(readGenerationConfig(config, { eos_token_id: [1, 5] }).stopTokenIds).toEqual([1, 5]);
  expect(readGenerationConfig(config, {}).stopTokenIds).toEqual([2]);
  expect(readGenerationConfig(config).stopTokenIds).toEqual([2]);
  expect(readGenerationConfig(new ConfigReader("config.json", {})).stopTokenIds).toEqual([]);
});

it("samples at temperature 1 when sampling is on and no temperature is given", () => {
  expect(readGenerationConfig(config, { do_sample: true, top_k: 40 }).sampling).toEqual({ temperature: 1, topK: 40 });
});

it("ignores sampling values when sampling is off, but not the repetition penalty", () => {
  const json = { do_sample: false, temperature: 0.6, top_p: 0.9, repetition_penalty: 1.1 };
  expect(readGenerationConfig(config, json).sampling).toEqual({ repetitionPenalty: 1.1 });
});

it("refuses stop tokens that are no token ids", () => {
  expect(() => readGenerationConfig(config, { eos_token_id: [1, "x"] })).toThrow(
    'generation_config.json: eos_token_id must be a token id or a list of them; got eos_token_id=[1,"x"].',
  );
});
