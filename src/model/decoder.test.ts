import { beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { tinyLlama } from "../../test/support/tiny-llama.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import type { KvView } from "../attention/index.ts";
import { createReferenceBackend } from "../engine/index.ts";
import type { Tensor } from "../tensor.ts";
import type { DecoderModel } from "./language-model.ts";
import { loadModel } from "./load.ts";
import type { ModelCache } from "./model-cache.ts";

const TOKENS = [1, 5, 36, 0, 17, 17, 3, 29, 11, 2, 8];

/** Row t of logits [T, V]. */
function row(logits: Tensor<"f32">, t: number): Float32Array {
  const V = logits.shape[1];
  return logits.data.subarray(t * V, (t + 1) * V);
}

/** Keys of a contiguous layer. */
function keysOf(cache: ModelCache, layer: number): Float32Array {
  return (cache.view(layer) as KvView).keys.data as Float32Array;
}

describe("a decoder", () => {
  let model: DecoderModel;
  beforeAll(async () => {
    model = await loadModel(tinyLlama(), { backend: createReferenceBackend() });
  });

  it("gives in one-token steps what a single pass gives", async () => {
    const whole = await model.forward({ tokens: TOKENS, logits: "all" });
    const cache = model.createCache();
    for (const [t, token] of TOKENS.entries()) {
      const step = await model.forward({ tokens: [token], cache });
      expectClose(step.data, row(whole, t), F32_COMPUTED);
    }
    expect(cache.nextPosition).toBe(TOKENS.length);
  });

  it("gives in uneven chunks what a single pass gives", async () => {
    const whole = await model.forward({ tokens: TOKENS, logits: "all" });
    const cache = model.createCache();
    let start = 0;
    for (const length of [3, 1, 5, 2]) {
      const logits = await model.forward({ tokens: TOKENS.slice(start, start + length), cache, logits: "all" });
      for (let t = 0; t < length; t++) expectClose(row(logits, t), row(whole, start + t), F32_COMPUTED);
      start += length;
    }
  });

  it("gives for packed texts what each gives alone", async () => {
    const texts = [TOKENS.slice(0, 3), TOKENS.slice(3, 8), TOKENS.slice(8)];
    const packed = await model.forward({
      tokens: texts.flat(),
      positions: Int32Array.from(texts.flatMap((text) => [...text.keys()])),
      segments: Int32Array.from(texts.flatMap((text, i) => text.map(() => i))),
      logits: "all",
    });
    let start = 0;
    for (const text of texts) {
      const alone = await model.forward({ tokens: text, logits: "all" });
      for (let t = 0; t < text.length; t++) expectClose(row(packed, start + t), row(alone, t), F32_COMPUTED);
      start += text.length;
    }
  });

  it("gives for packed texts in a cache, one step each, what each gives alone", async () => {
    const [first, second] = [TOKENS.slice(0, 4), TOKENS.slice(4, 6)];
    const cache = model.createCache();
    await model.forward({
      tokens: [...first, ...second],
      positions: Int32Array.of(0, 1, 2, 3, 0, 1),
      segments: Int32Array.of(7, 7, 7, 7, 9, 9),
      cache,
      logits: "none",
    });
    const step = await model.forward({
      tokens: [20, 21],
      positions: Int32Array.of(4, 2),
      segments: Int32Array.of(7, 9),
      cache,
      logits: "all",
    });
    expectClose(row(step, 0), (await model.forward({ tokens: [...first, 20] })).data, F32_COMPUTED);
    expectClose(row(step, 1), (await model.forward({ tokens: [...second, 21] })).data, F32_COMPUTED);
  });

  it("gives for a left-padded text what it gives unpadded", async () => {
    const padding = 3;
    const whole = await model.forward({ tokens: TOKENS, logits: "all" });
    const padded = await model.forward({
      tokens: [0, 0, 0, ...TOKENS],
      positions: Int32Array.from([0, 0, 0, ...TOKENS.keys()]),
      segments: Int32Array.from([-1, -1, -1, ...TOKENS.map(() => 0)]),
      logits: "all",
    });
    for (let t = 0; t < TOKENS.length; t++) expectClose(row(padded, padding + t), row(whole, t), F32_COMPUTED);
  });

  it("depends on differences of positions only", async () => {
    const whole = await model.forward({ tokens: TOKENS });
    const moved = await model.forward({ tokens: TOKENS, positions: Int32Array.from(TOKENS.keys(), (p) => p + 41) });
    expectClose(moved.data, whole.data, 1e-4); // rotated by other angles: f32 rounding of three layers
  });

  it("shows the residual stream after every layer", async () => {
    const seen: number[][] = [];
    await model.forward({ tokens: TOKENS, onLayer: (layer, hidden) => seen.push([layer, ...hidden.shape]) });
    expect(seen).toEqual([
      [0, TOKENS.length, 24],
      [1, TOKENS.length, 24],
      [2, TOKENS.length, 24],
    ]);
  });

  it("reports cache bytes: layers × tokens × kv heads × 2 × head dim × 4", async () => {
    const cache = model.createCache();
    await model.forward({ tokens: TOKENS, cache, logits: "none" });
    expect(cache.bytes).toBe(3 * TOKENS.length * 2 * 2 * 10 * 4);
  });

  it.each([
    [{ tokens: [] }, "forward: at least one token; got tokens=0."],
    [{ tokens: [1, 37] }, "forward: token ids must be integers from 0 to 36; got token=37, index=1."],
    [{ tokens: [0.5] }, "forward: token ids must be integers from 0 to 36; got token=0.5, index=0."],
    [{ tokens: [1], sequenceLength: 0 }, "forward: sequenceLength must be a positive integer; got sequenceLength=0."],
    [
      { tokens: [1, 2], positions: Int32Array.of(0) },
      "forward: positions must have one entry per token; got length=1, tokens=2.",
    ],
    [
      { tokens: [1, 2], segments: Int32Array.of(0, 0, 0) },
      "forward: segments must have one entry per token; got length=3, tokens=2.",
    ],
  ])("refuses %j", async (input, message) => {
    await expect(model.forward(input)).rejects.toThrow(message);
  });
});

describe("a schedule that changes with the length", () => {
  const LONG = Array.from({ length: 5 }, (_, i) => 2 + i);
  const SHORT = [1, 1, 1, 1, 1];
  const longrope = tinyLlama({
    rope_scaling: { type: "longrope", short_factor: SHORT, long_factor: LONG, factor: 8 },
    original_max_position_embeddings: 6,
  });
  const dynamic = tinyLlama({ rope_scaling: { type: "dynamic", factor: 2 }, max_position_embeddings: 6 });

  it.each([
    ["longrope", longrope],
    ["dynamic", dynamic],
  ])("%s, re-prefilled, gives at every step what a full pass gives", async (_, files) => {
    const model = await loadModel(files, { backend: createReferenceBackend() });
    const cache = model.createCache({ onFrequencyChange: "reprefill" });
    for (const [t, token] of TOKENS.entries()) {
      const step = await model.forward({ tokens: [token], cache });
      const whole = await model.forward({ tokens: TOKENS.slice(0, t + 1) });
      expectClose(step.data, whole.data, F32_COMPUTED);
    }
  });

  it.each([
    ["longrope", longrope],
    ["dynamic", dynamic],
  ])("%s, in chunks of a sequence of known length, gives what a single pass gives", async (_, files) => {
    const model = await loadModel(files, { backend: createReferenceBackend() });
    const whole = await model.forward({ tokens: TOKENS });
    const cache = model.createCache();
    const sequenceLength = TOKENS.length;
    await model.forward({ tokens: TOKENS.slice(0, 4), cache, sequenceLength, logits: "none" });
    const rest = await model.forward({ tokens: TOKENS.slice(4), cache, sequenceLength });
    expectClose(rest.data, whole.data, F32_COMPUTED);
  });

  it("pinned at a length, gives what a full pass with those frequencies gives", async () => {
    const model = await loadModel(longrope, { backend: createReferenceBackend() });
    const whole = await model.forward({ tokens: TOKENS, logits: "all" }); // long factors for all
    const cache = model.createCache({ onFrequencyChange: "pin", pinnedLength: TOKENS.length });
    for (const [t, token] of TOKENS.entries()) {
      expectClose((await model.forward({ tokens: [token], cache })).data, row(whole, t), F32_COMPUTED);
    }
  });

  it("re-rotated, has the keys of the first layer that a full pass has", async () => {
    const model = await loadModel(longrope, { backend: createReferenceBackend() });
    const caches = [model.createCache({ onFrequencyChange: "rerotate" }), model.createCache()];
    for (const token of TOKENS) await model.forward({ tokens: [token], cache: caches[0], logits: "none" });
    await model.forward({ tokens: TOKENS, cache: caches[1], logits: "none" });
    const [moved, fresh] = caches.map((cache) => keysOf(cache, 0));
    expectClose(moved, fresh, F32_COMPUTED);
    // Deeper layers were computed under the old frequencies; that is the price of not computing again.
    const [kept, recomputed] = caches.map((cache) => keysOf(cache, 2));
    expect(kept.some((value, i) => Math.abs(value - recomputed[i]) > 1e-3)).toBe(true);
  });

  it("without a choice, is an error when the change comes, and the cache is as before", async () => {
    const model = await loadModel(longrope, { backend: createReferenceBackend() });
    const cache = model.createCache();
    await model.forward({ tokens: TOKENS.slice(0, 6), cache });
    await expect(model.forward({ tokens: [7], cache })).rejects.toThrow("so a choice is required");
    expect(cache.length()).toBe(6);
  });

  it("refuses a pinned length without pinning", async () => {
    const model = await loadModel(longrope, { backend: createReferenceBackend() });
    expect(() => model.createCache({ pinnedLength: 9 })).toThrow(
      'createCache: pinnedLength must be a positive integer and goes with onFrequencyChange "pin"; got pinnedLength=9, onFrequencyChange=undefined.',
    );
  });
});
