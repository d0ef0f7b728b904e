/** Generation over caches that forget. */

import { afterAll, beforeAll, expect, it } from "vitest";
import { tinyLlama } from "../../test/support/tiny-llama.ts";
import { keyDiff } from "../compress/index.ts";
import { createWasmBackend } from "../engine/index.ts";
import { type DecoderModel, loadModel } from "../model/index.ts";
import { generate } from "./generate.ts";

/** The model's context is 64. */
let model: DecoderModel;
beforeAll(async () => {
  model = await loadModel(tinyLlama(), { backend: await createWasmBackend({ threads: 0, maxBytes: 2 ** 28 }) });
});
afterAll(() => model.dispose());

const PROMPT = Array.from({ length: 30 }, (_, t) => (t * 7 + 3) % 37);
const LONG = Array.from({ length: 200 }, (_, t) => (t * t + 3) % 37);

it("goes on beyond the model's context where what stays moves together, with prompts longer than it", async () => {
  const cache = model.createCache({ budget: 24, prefillChunk: 8 });
  const { stopReason, newTokens } = await generate(model, LONG, { cache, stopTokens: [], maxNewTokens: 300 }).finish();
  expect([stopReason, newTokens]).toEqual(["max-new-tokens", 300]);
  expect(cache.tokensSeen).toBe(500);
  expect(cache.length()).toBeLessThanOrEqual(32);
});

it("ends at the model's context where positions stay, however little the cache holds", async () => {
  const cache = model.createCache({ policy: keyDiff(), budget: 16, prefillChunk: 8 });
  const { stopReason } = await generate(model, PROMPT, { cache, stopTokens: [] }).finish();
  expect(stopReason).toBe("context-full");
  expect(cache.nextPosition).toBe(64);
  expect(cache.length()).toBeLessThanOrEqual(24);
  expect(() => generate(model, LONG, { cache })).toThrow("the prompt must fit the context of 64 positions");
});

it("a prompt in small chunks is compressed as it comes", async () => {
  const cache = model.createCache({ budget: 20, prefillChunk: 10 });
  await generate(model, LONG, { cache, prefillChunk: 7, maxNewTokens: 0 }).finish();
  expect(cache.peakBytes).toBeLessThanOrEqual((30 * cache.bytes) / cache.length());
  expect(cache.report().compressions).toBeGreaterThan(10);
});
