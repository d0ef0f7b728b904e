import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { continueText, text } from "../../test/support/model-texts.ts";
import { tinyLlama } from "../../test/support/tiny-llama.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import {
  adaptiveHeads,
  chunkKV,
  expectedAttention,
  finch,
  keyDiff,
  knorm,
  observedAttention,
  type Policy,
  pyramidKV,
  scorePolicy,
  snapKV,
  tova,
} from "../compress/index.ts";
import { createReferenceBackend, createWasmBackend } from "../engine/index.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { DecoderModel } from "./language-model.ts";
import { loadModel } from "./load.ts";

let model: DecoderModel;
beforeAll(async () => {
  model = await loadModel(tinyLlama(), { backend: await createWasmBackend({ threads: 0, maxBytes: 2 ** 28 }) });
});
afterAll(() => model.dispose());

describe("prefill", () => {
  it("in chunks, without compression, gives what a single pass gives", async () => {
    const tokens = text(53);
    const whole = await model.forward({ tokens });
    for (const layout of ["contiguous", "paged"] as const) {
      const cache = model.createCache({ prefillChunk: 7, layout });
      await model.prefill(cache, tokens.slice(0, -1));
      expectClose((await model.forward({ tokens: tokens.slice(-1), cache })).data, whole.data, F32_COMPUTED);
      expect(cache.nextPosition).toBe(53);
    }
  });

  it("with compression, never holds more rows than budget and one chunk, and ends at the budget", async () => {
    const cache = model.createCache({ policy: snapKV({ window: 4 }), budget: 20, prefillChunk: 11 });
    const progress: number[] = [];
    const { tokens, compressions } = await model.prefill(cache, text(300), {
      onProgress: ({ readTokens }) => progress.push(readTokens),
    });
    const rowBytes = 3 * 2 * 2 * 10 * 4;
    expect(tokens).toBe(300);
    expect(compressions).toBeGreaterThan(20);
    expect(progress.at(-1)).toBe(300);
    expect(cache.bytes).toBe(20 * rowBytes);
    expect(cache.peakBytes).toBe(31 * rowBytes);
    expect(cache.nextPosition).toBe(300);
  });

  it("stops between two chunks when the signal fires", async () => {
    const cache = model.createCache({ budget: 20, prefillChunk: 10 });
    const controller = new AbortController();
    const onProgress = (): void => controller.abort();
    await expect(model.prefill(cache, text(90), { signal: controller.signal, onProgress })).rejects.toThrow("aborted");
    expect(cache.tokensSeen).toBe(10);
  });

  it("looks from a question that is forgotten again: another question keeps other tokens", async () => {
    const tokens = text(80);
    const kept = await Promise.all(
      [text(5, 3), text(5, 8)].map(async (question) => {
        const cache = model.createCache({ policy: finch(), budget: 16, rerotate: true, prefillChunk: 20 });
        await model.prefill(cache, tokens, { question });
        expect(cache.tokensSeen).toBe(80);
        expect(cache.length()).toBe(16);
        expect(cache.nextPosition).toBe(16);
        return Array.from({ length: 3 }, (_, layer) => [...cache.sources(layer, 0)]);
      }),
    );
    expect(kept[0]).not.toEqual(kept[1]);
  });

  it.each([
    ["snapKV", snapKV({ window: 4 })],
    ["pyramidKV", pyramidKV({ window: 4, beta: 4 })],
    ["tova", tova()],
    ["expectedAttention", expectedAttention()],
    ["observedAttention", observedAttention()],
    ["chunkKV", chunkKV(snapKV({ window: 4 }), { chunkTokens: 1 })],
  ])("ends at the budget in every head after a question longer than the window: %s", async (_, policy) => {
    const cache = model.createCache({ policy, budget: 16, rerotate: true, prefillChunk: 20 });
    await model.prefill(cache, text(150), { question: text(13, 3) });
    const rows = cache.report().layers.map((layer) => layer.map((head) => head.rows));
    expect(rows.map((layer) => new Set(layer).size)).toEqual([1, 1, 1]);
    expect(rows.reduce((sum, [first]) => sum + first, 0)).toBeLessThanOrEqual(3 * 16);
    expect(rows.reduce((sum, [first]) => sum + first, 0)).toBeGreaterThanOrEqual(3 * 15);
    expect(cache.tokensSeen).toBe(150);
  });

  it("shares the budget among heads that compete, whatever the length of the question", async () => {
    const cache = model.createCache({ policy: adaptiveHeads(snapKV({ window: 4 })), budget: 16, prefillChunk: 20 });
    await model.prefill(cache, text(150), { question: text(13, 3) });
    const rows = cache.report().layers.map((layer) => layer.reduce((sum, head) => sum + head.rows, 0));
    expect(rows).toEqual([32, 32, 32]);
  });

  it("reads on where what was generated left no room for the question", async () => {
    const cache = model.createCache({ policy: finch(), budget: 48, rerotate: true, prefillChunk: 20 });
    await model.prefill(cache, text(60), { question: text(5, 3) });
    await continueText(model, cache, text(1), 6);
    const question = text(17, 4);
    expect(cache.length()).toBeGreaterThan(48 + 20 - 17);
    await model.prefill(cache, text(50, 7), { question });
    expect([cache.length(), cache.tokensSeen]).toEqual([48, 60 + 7 + 50]);
  });

  it("goes by age where heads hold unequal numbers of tokens, which its policy does not take", async () => {
    const cache = model.createCache({ policy: keyDiff(), budget: 16, prefillChunk: 20, decoding: { policy: tova() } });
    await model.prefill(cache, text(60));
    cache.erase(20, 30);
    expect(cache.length(0, 0)).not.toBe(cache.length(0, 1));
    await continueText(model, cache, [3], 16);
    expect([cache.length(0, 0), cache.length(0, 1), cache.tokensSeen]).toEqual([17, 17, 77]);

    const asked = model.createCache({ policy: pyramidKV({ window: 4, beta: 4 }), budget: 16, prefillChunk: 20 });
    await model.prefill(asked, text(60));
    asked.erase(0, 50);
    expect(asked.length(0, 0)).not.toBe(asked.length(0, 1));
    await model.prefill(asked, text(30), { question: text(5, 3) });
    expect([asked.length(0, 0), asked.length(0, 1), asked.tokensSeen]).toEqual([28, 28, 90]); // 2 · 16 − 16 / beta
  });

  it("keeps the question where it shall stay", async () => {
    const cache = model.createCache({ policy: finch(), budget: 16, prefillChunk: 20 });
    const { tokens } = await model.prefill(cache, text(80), { question: text(5, 3), keepQuestion: true });
    expect(tokens).toBe(85);
    expect([...cache.sources(1, 1).slice(-5)]).toEqual([80, 81, 82, 83, 84]);
    expect(cache.nextPosition).toBe(85);
  });

  it.each<[ModelCacheOptions, string]>([
    [
      { policy: finch(), budget: 9 },
      'compress: a question, for a policy that looks from one; got policy="finch". Feed the text with model.prefill(cache, text, { question }).',
    ],
  ])("refuses %j without a question", async (options, message) => {
    await expect(model.prefill(model.createCache(options), text(60))).rejects.toThrow(message);
  });

  it("refuses an empty text, and text without a tokenizer", async () => {
    const cache = model.createCache();
    await expect(model.prefill(cache, [])).rejects.toThrow("prefill: at least one token.");
    await expect(model.prefill(cache, "text")).rejects.toThrow(
      "prefill: text needs a model with a tokenizer. Give token ids instead.",
    );
  });

  it("refuses packed texts where tokens are forgotten", async () => {
    const cache = model.createCache({ budget: 9 });
    await expect(model.forward({ tokens: [1, 2], segments: Int32Array.of(0, 1), cache })).rejects.toThrow(
      'forward: one text without padding in a cache that forgets; got forgetsBy="policy".',
    );
  });
});

describe("a cache with a budget", () => {
  it("keeps its bytes over 2,000 tokens, far beyond the model's context", async () => {
    const cache = model.createCache({ budget: 24, prefillChunk: 8 });
    expect(cache.closesGaps).toBe(true);
    await continueText(model, cache, text(30), 200);
    const { allocatedBytes, peakBytes } = cache;
    const made = await continueText(model, cache, [1], 2000);
    expect(made.length).toBe(2000);
    expect(cache.allocatedBytes).toBe(allocatedBytes);
    expect(cache.peakBytes).toBe(peakBytes);
    expect(cache.nextPosition).toBeLessThanOrEqual(32);
    expect(cache.tokensSeen).toBe(2231);
  });

  it("compresses generated tokens by its own policy where it can, else by TOVA, or by age where heads differ", () => {
    const decodingOf = (options: ModelCacheOptions): string | undefined =>
      model.createCache(options).report().decodingPolicy;
    expect(decodingOf({ policy: keyDiff(), budget: 16 })).toBe("keyDiff");
    expect(decodingOf({ policy: snapKV({ window: 4 }), budget: 16 })).toBe("tova");
    expect(decodingOf({ policy: snapKV({ window: 4 }), budget: 16, rerotate: true })).toBe("rerotated(tova)");
    expect(decodingOf({ policy: adaptiveHeads(snapKV({ window: 4 })), budget: 16 })).toBe("streamingLLM");
    expect(decodingOf({ policy: snapKV(), compressionRatio: 0.5 })).toBe(undefined);
    expect(decodingOf({ budget: 16 })).toBe("rerotated(streamingLLM)");
  });

  it("several questions over forks of one cache get what they get over caches of their own", async () => {
    const options: ModelCacheOptions = { policy: snapKV({ window: 4 }), budget: 20, rerotate: true, prefillChunk: 10 };
    const document = text(120);
    const shared = model.createCache(options);
    await model.prefill(shared, document);
    for (const seed of [2, 3, 4]) {
      const question = text(6, seed);
      const branch = shared.fork();
      const own = model.createCache(options);
      await model.prefill(own, document);
      expect(await continueText(model, branch, question, 25)).toEqual(await continueText(model, own, question, 25));
      branch.dispose();
      own.dispose();
    }
    expect(shared.length()).toBe(20);
    expect(shared.tokensSeen).toBe(120);
  });

  it("keeps attention mass with the slots it belongs to", async () => {
    const reference = await loadModel(tinyLlama(), { backend: createReferenceBackend() });
    const tokens = text(40);
    const kept = await Promise.all(
      [[40], [13, 20, 7]].map(async (chunks) => {
        const cache = reference.createCache({ policy: observedAttention(), compressionRatio: 0.5 });
        let at = 0;
        for (const length of chunks) {
          const part = tokens.slice(at, at + length);
          await reference.forward({ tokens: part, cache, sequenceLength: 40, logits: "none" });
          at += length;
        }
        return Array.from({ length: 3 }, (_, layer) => [...cache.sources(layer, 1)]);
      }),
    );
    expect(kept[0].map((slots) => slots.length)).toEqual([20, 20, 20]);
    expect(kept[1]).toEqual(kept[0]);
  });
});

describe("maxBytes", () => {
  it.each<[string, ModelCacheOptions]>([
    ["f32", { policy: knorm() }],
    ["int8", { policy: knorm(), elements: "int8" }],
    ["int4 with pristine keys", { policy: tova(), elements: "int4", pristineKeys: true }],
    ["paged", { policy: knorm(), layout: "paged" }],
    ["unequal heads", { policy: adaptiveHeads(knorm()) }],
    ["attention mass", { policy: observedAttention() }],
    ["by default", {}],
  ])("is never passed, and mostly used: %s", async (_, options) => {
    const maxBytes = 40_000;
    const cache = model.createCache({ ...options, maxBytes });
    await model.prefill(cache, text(400));
    await continueText(model, cache, text(9, 2), 50);
    expect(cache.peakAllocatedBytes).toBeLessThanOrEqual(maxBytes);
    expect(cache.peakAllocatedBytes).toBeGreaterThan(0.8 * maxBytes);
    expect(cache.report().budget).toBeGreaterThan(20);
  });

  it.each([true, false])("takes no memory that the model has no positions for (re-rotated: %s)", async (rerotate) => {
    const cache = model.createCache({ policy: knorm(), rerotate, maxBytes: 2 ** 50 });
    await model.prefill(cache, text(7));
    expect(cache.plan.capacity).toBeLessThanOrEqual(model.maxPositions + 512);
    expect(cache.allocatedBytes).toBeLessThan(2 ** 22);
  });

  it.each(["f32", "int4"] as const)(
    "is never passed by heads that grow in turn, nor by a fork: %s",
    async (elements) => {
      for (const maxBytes of [24_000, 31_000, 40_000]) {
        let calls = 0;
        const inTurn = scorePolicy({
          name: "inTurn",
          score: ({ keys: { lengths } }) => {
            calls++;
            return Array.from(lengths, (T, head) => new Float64Array(T).fill((calls >> 4) % 2 === head ? 1 : 0));
          },
        });
        const cache = model.createCache({ policy: adaptiveHeads(inTurn), maxBytes, elements });
        for (const seed of [1, 2, 3, 4]) {
          await model.prefill(cache, text(211, seed));
          await continueText(model, cache, text(9, seed), 40);
        }
        const branch = cache.fork();
        await model.prefill(branch, text(97, 5));
        expect(cache.peakAllocatedBytes).toBeLessThanOrEqual(maxBytes);
        expect(branch.peakAllocatedBytes).toBeLessThanOrEqual(maxBytes);
      }
    },
  );

  it("is refused before anything is allocated where it cannot hold", () => {
    expect(() => model.createCache({ maxBytes: 900 })).toThrow(
      "createCache: maxBytes must hold the budget and one chunk in every layer; got maxBytes=900, neededBytes=1104, tokens=2. " +
        "Raise maxBytes, lower budget or prefillChunk, or choose int8 or int4 elements.",
    );
    expect(() => model.createCache({ maxBytes: 20_000, budget: 200, rerotate: false })).toThrow(
      "got maxBytes=20000, neededBytes=110952",
    );
    expect(() => model.createCache({ budget: 64 })).toThrow(
      "createCache: the budget must leave room in the model's context, where what stays moves together; got budget=64, maxPositions=64.",
    );
    expect(() => model.createCache({ policy: snapKV(), budget: 40 })).toThrow(
      'createCache: the budget must exceed the policy\'s window, which always stays; got budget=40, window=64, policy="snapKV".',
    );
  });
});

it.each<[ModelCacheOptions, string]>([
  [{ policy: knorm() }, 'createCache: a policy needs to know how much stays; got policy="knorm".'],
  [{ budget: 0 }, "createCache: budget must be a positive integer; got budget=0."],
  [{ compressionRatio: 0.5, budget: 9 }, "createCache: either compressionRatio or a budget; got"],
  [{ compressionRatio: 1 }, "createCache: compressionRatio must lie in [0, 1); got compressionRatio=1."],
  [
    { policy: "snapkv" as unknown as Policy, budget: 9 },
    'createCache: policy must be a policy; got policy="snapkv". Make one with a function of phasor/compress',
  ],
  [
    { budget: 9, decoding: { policy: {} as unknown as Policy } },
    'createCache: decoding.policy must be a policy; got decoding.policy="object".',
  ],
  [{ layout: "ring" }, "createCache: a ring is for layers with a sliding window; got layer=0."],
  [
    { budget: 9, prefillChunk: 4, decoding: { interval: 5 } },
    "createCache: decoding.interval must not exceed prefillChunk",
  ],
  [{ decoding: {} }, 'createCache: decoding needs to know how much stays; got policy="tova".'],
  [
    { budget: 9, onFrequencyChange: "reprefill" },
    'createCache: onFrequencyChange "pin" or "rerotate" where the cache forgets',
  ],
  [
    { policy: adaptiveHeads(knorm()), budget: 9, decoding: { policy: tova() } },
    "createCache: a policy for decoding that takes heads of unequal length",
  ],
])("refuses %j", (options, message) => {
  expect(() => model.createCache(options)).toThrow(message);
});

describe("the report", () => {
  it("tells for every head which tokens stayed, with the text of what no head holds", async () => {
    const cache = model.createCache({ budget: 10, prefillChunk: 8 });
    await model.prefill(cache, text(50));
    const report = cache.report({ decode: (ids) => `<${Array.from(ids).join(" ")}>` });
    expect(report).toMatchObject({ tokensSeen: 50, nextPosition: 10, rows: 10, budget: 10 });
    expect(report.layers.flat()).toEqual(
      Array.from({ length: 6 }, () => ({
        rows: 10,
        kept: [
          [0, 4],
          [44, 50],
        ],
        dropped: [[4, 44]],
      })),
    );
    expect(report.forgotten).toEqual([{ range: [4, 44], text: `<${text(50).slice(4, 44).join(" ")}>` }]);
    expect(JSON.parse(JSON.stringify(report))).toEqual(report);
  });
});

describe("operations", () => {
  it("keep the source of every slot", async () => {
    const cache = model.createCache();
    await model.prefill(cache, text(20));
    cache.erase(3, 5, { closeGap: true });
    cache.compact(1, [Int32Array.of(0, 4, 9), Int32Array.of(1, 2, 17)]);
    cache.crop(16);
    expect([...cache.sources(0)]).toEqual([0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    expect([...cache.sources(1, 0)]).toEqual([0, 6, 11]);
    expect([...cache.sources(1, 1)]).toEqual([1, 2]);
    await model.forward({ tokens: [3], cache });
    expect(cache.sources(1, 1).at(-1)).toBe(18);
    cache.shiftContext({ sinks: 2, drop: 3 });
    expect([...cache.sources(0)].slice(0, 4)).toEqual([0, 1, 7, 8]);
  });

  it("merge gives two texts, each with its tokens", async () => {
    const [first, second] = [model.createCache(), model.createCache()];
    await model.prefill(first, text(7));
    await model.prefill(second, text(5, 9));
    first.merge(second);
    expect(first.length()).toBe(12);
    expect([...first.sources(2, 1)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(first.tokensSeen).toBe(12);
  });

  it("clear leaves a cache that gives what a new one gives", async () => {
    const cache = model.createCache({ maxBytes: 30_000 });
    await model.prefill(cache, text(90));
    cache.clear();
    expect([cache.length(), cache.nextPosition, cache.tokensSeen, cache.bytes]).toEqual([0, 0, 0, 0]);
    const fresh = model.createCache({ maxBytes: 30_000 });
    for (const one of [cache, fresh]) await model.prefill(one, text(60, 5));
    expect(await continueText(model, cache, [4], 12)).toEqual(await continueText(model, fresh, [4], 12));
  });
});
