import { describe, expect, it } from "vitest";
import { failingBackend } from "../../test/support/failing-backend.ts";
import { tinyLlama } from "../../test/support/tiny-llama.ts";
import {
  adaptiveHeads,
  expectedAttention,
  finch,
  keyDiff,
  kvCompose,
  kvzip,
  nonCausalAttention,
  observedAttention,
  snapKV,
  think,
} from "../compress/index.ts";
import { createReferenceBackend, createWasmBackend } from "../engine/index.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import { loadModel, type ModelCache } from "./index.ts";

const TEXT = Array.from({ length: 47 }, (_, t) => (t * 11 + (t >> 2)) % 37);
const QUESTION = [5, 6, 7];
/** Failures that are tried, of all that are possible. */
const TRIED = 14;

/** Everything that can be seen of a cache but for its peaks. */
function stateOf(cache: ModelCache): unknown {
  const { peakBytes, peakAllocatedBytes, ...report } = cache.report();
  const positions = report.layers.map((heads, layer) => heads.map((_, head) => [...cache.positions(layer, head)]));
  return { ...report, positions };
}

/** Rows and what is known of them fit together, and nothing that was aside is left. */
function checkState(cache: ModelCache): void {
  const { layers } = cache.report();
  for (const [layer, heads] of layers.entries()) {
    for (const [head, { rows }] of heads.entries()) {
      expect(rows).toBe(cache.length(layer, head));
      for (const source of cache.sources(layer, head)) expect(source).toBeLessThan(cache.tokensSeen);
      for (const position of cache.positions(layer, head)) expect(position).toBeLessThan(cache.nextPosition);
    }
  }
}

type Case = {
  readonly options: ModelCacheOptions;
  /** Whether a question runs aside, so that the rest of the text is cut into other steps. */
  readonly asks?: boolean;
  readonly wasm?: boolean;
};

describe("a step that throws", () => {
  it.each<[string, Case]>([
    ["nothing forgotten", { options: { prefillChunk: 9 } }],
    ["pages of int8", { options: { prefillChunk: 9, layout: "paged", elements: "int8" }, wasm: true }],
    ["a question in sight", { options: { policy: snapKV({ window: 4 }), budget: 16, prefillChunk: 9 }, asks: true }],
    ["moved, by a question", { options: { policy: finch(), budget: 16, prefillChunk: 9, rerotate: true }, asks: true }],
    ["attention mass", { options: { policy: observedAttention(), budget: 16, prefillChunk: 9 } }],
    ["queries expected", { options: { policy: expectedAttention(), maxBytes: 40_000, prefillChunk: 9 } }],
    ["unequal heads", { options: { policy: adaptiveHeads(keyDiff()), maxBytes: 20_000, prefillChunk: 9 }, wasm: true }],
    ["a repeat in parts", { options: { policy: kvzip(), budget: 16, prefillChunk: 9, repeat: { chunkTokens: 19 } } }],
    [
      "a whole repeat within bytes",
      { options: { policy: kvCompose(), maxBytes: 150_000, prefillChunk: 9 }, wasm: true },
    ],
    ["key channels that go", { options: { policy: think({ window: 4 }), prefillChunk: 9, layout: "paged" } }],
    ["all queries", { options: { policy: nonCausalAttention({ chunkTokens: 8 }), budget: 16, prefillChunk: 9 } }],
  ])("leaves the steps before it, and the rest can be read as if it had not been: %s", async (_, one) => {
    const { options, asks = false, wasm = false } = one;
    const inner = wasm ? await createWasmBackend({ threads: 0, maxBytes: 2 ** 27 }) : createReferenceBackend();
    const failing = failingBackend(inner);
    const model = await loadModel(tinyLlama({ num_hidden_layers: 2 }), { backend: failing.backend });
    const question = asks ? { question: QUESTION } : {};
    const whole = model.createCache(options);
    const before = failing.operations;
    await model.prefill(whole, TEXT, question);
    const operations = failing.operations - before;
    const state = stateOf(whole);
    const { data: logits } = await model.forward({ tokens: [1], cache: whole });

    const seenAfter = new Set<number>();
    for (let n = 0; n < operations; n += Math.max(1, Math.floor(operations / TRIED))) {
      const cache = model.createCache(options);
      failing.failAfter(n);
      await expect(model.prefill(cache, TEXT, question)).rejects.toThrow("broken");
      checkState(cache);
      const seen = cache.tokensSeen;
      seenAfter.add(seen);
      if (seen < TEXT.length) {
        await model.prefill(cache, TEXT.slice(seen), question);
        if (!asks) expect(stateOf(cache), `after operation ${n}`).toEqual(state);
      }
      expect(cache.tokensSeen).toBe(TEXT.length);
      checkState(cache);
      const next = await model.forward({ tokens: [1], cache });
      if (!asks) expect(next.data, `after operation ${n}`).toEqual(logits);
      expect(next.data.every(Number.isFinite)).toBe(true);
      if (options.maxBytes) expect(cache.peakAllocatedBytes).toBeLessThanOrEqual(options.maxBytes);
      cache.dispose();
    }
    expect(seenAfter.size).toBeGreaterThan(3);
    model.dispose();
  });
});
