import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { continueText, text } from "../../test/support/model-texts.ts";
import { tinyLlama } from "../../test/support/tiny-llama.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { crc32 } from "../cache/crc32.ts";
import {
  adaptiveHeads,
  expectedAttention,
  keyDiff,
  knorm,
  observedAttention,
  snapKV,
  tova,
} from "../compress/index.ts";
import { createReferenceBackend, createWasmBackend } from "../engine/index.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { DecoderModel } from "./language-model.ts";
import { loadModel } from "./load.ts";
import type { ModelCache } from "./model-cache.ts";

let model: DecoderModel;
beforeAll(async () => {
  model = await loadModel(tinyLlama(), { backend: await createWasmBackend({ threads: 0, maxBytes: 2 ** 28 }) });
});
afterAll(() => model.dispose());

describe("snapshots", () => {
  it.each<[string, ModelCacheOptions]>([
    ["nothing forgotten", {}],
    ["by age, moved", { budget: 18, prefillChunk: 9 }],
    ["by the last query", { policy: snapKV({ window: 4 }), budget: 18, rerotate: true, prefillChunk: 9 }],
    ["by queries expected", { policy: expectedAttention(), budget: 18, prefillChunk: 9 }],
    ["by unequal heads, in pages of int8", { policy: adaptiveHeads(knorm()), maxBytes: 30_000, elements: "int8" }],
    ["with attention mass", { policy: observedAttention(), budget: 18, prefillChunk: 9 }],
  ])("restoring and going on gives the same tokens as never having stopped: %s", async (_, options) => {
    const cache = model.createCache(options);
    await model.prefill(cache, text(70));
    await continueText(model, cache, text(3, 2), 5);
    const saved: Uint8Array[] = [];
    for await (const chunk of cache.snapshot()) saved.push(chunk);
    const restored = model.createCache(options);
    await restored.restore(saved);
    expect(restored.report().layers).toEqual(cache.report().layers);
    const tokens = text(25, 4);
    expect(await continueText(model, restored, tokens, 40)).toEqual(await continueText(model, cache, tokens, 40));
    expect(restored.report().forgotten).toEqual(cache.report().forgotten);
  });

  const savedOf = async (cache: ModelCache): Promise<Uint8Array[]> => {
    const saved: Uint8Array[] = [];
    for await (const chunk of cache.snapshot()) saved.push(chunk);
    return saved;
  };

  it.each<[string, ModelCacheOptions]>([
    ["a smaller budget", { policy: keyDiff(), budget: 9, prefillChunk: 12 }],
    ["fewer bytes, heads apart", { policy: keyDiff(), maxBytes: 12_500, prefillChunk: 12 }],
    ["fewer bytes, in one pool of pages", { policy: adaptiveHeads(keyDiff()), maxBytes: 26_000, prefillChunk: 9 }],
  ])("are restored by a cache with %s, which forgets the rest at its next step", async (_, options) => {
    const cache = model.createCache({ policy: keyDiff(), budget: 20, prefillChunk: 9 });
    await model.prefill(cache, text(70));
    const saved = await savedOf(cache);
    const smaller = model.createCache(options);
    await smaller.restore(saved);
    const { budget = 0, compressions } = smaller.report();
    expect(budget).toBeLessThan(20);
    expect(smaller.report().layers).toEqual(cache.report().layers);
    for (let layer = 0; layer < 3; layer++) {
      for (const head of [0, 1]) expect(smaller.positions(layer, head)).toEqual(cache.positions(layer, head));
    }
    await model.forward({ tokens: [3], cache: smaller });
    expect(smaller.report().compressions).toBe(compressions + 1);
    const rows = smaller.report().layers.flat();
    expect(rows.reduce((sum, head) => sum + head.rows, 0)).toBeLessThanOrEqual(6 * (budget + 1));
    if (options.maxBytes) expect(smaller.peakAllocatedBytes).toBeLessThanOrEqual(options.maxBytes);
  });

  it.each<[string, ModelCacheOptions]>([
    ["the last query, for what was generated", { policy: tova(), rerotate: true }],
    ["the last queries, for a prompt", { policy: snapKV({ window: 4 }) }],
    ["queries expected", { policy: expectedAttention() }],
  ])("without queries lose their oldest in a smaller cache whose policy looks from %s", async (_, options) => {
    const cache = model.createCache({ policy: keyDiff(), budget: 20, prefillChunk: 9, rerotate: true });
    await model.prefill(cache, text(20));
    const smaller = model.createCache({ ...options, budget: 9, prefillChunk: 12 });
    await smaller.restore(await savedOf(cache));
    await model.forward({ tokens: [3], cache: smaller });
    expect([...smaller.sources(1, 1)]).toEqual([0, 1, 2, 3, 15, 16, 17, 18, 19, 20]);
    await model.prefill(smaller, text(30, 2));
    expect([smaller.length(), smaller.tokensSeen]).toEqual([9, 51]);
  });

  it("keep what they know of attention where heads come apart", async () => {
    const cache = model.createCache({ policy: observedAttention(), budget: 18, prefillChunk: 9 });
    await model.prefill(cache, text(70));
    const saved = await savedOf(cache);
    const apart = model.createCache({ policy: observedAttention(), maxBytes: 60_000, prefillChunk: 9 });
    await apart.restore(saved);
    expect(apart.kv.isRagged(1)).toBe(true);
    for (let layer = 0; layer < 3; layer++) expect(apart.records.mass(layer)).toEqual(cache.records.mass(layer));
    const tokens = text(7, 4);
    const [one, other] = [cache, apart].map((each) => model.forward({ tokens, cache: each }));
    expectClose((await one).data, (await other).data, F32_COMPUTED);
  });

  it("of more rows than a cache has room for are refused with all numbers, and the cache is as it was", async () => {
    const cache = model.createCache({ policy: keyDiff(), budget: 40, maxBytes: 40_000 });
    await model.prefill(cache, text(70));
    const saved = await savedOf(cache);
    const small = model.createCache({ policy: keyDiff(), budget: 9, prefillChunk: 9 });
    await model.prefill(small, text(7));
    await expect(small.restore(saved, "document.kv")).rejects.toThrow(
      "document.kv: a cache with room for the rows that were saved; got savedRows=40, savedBudget=40, savedMaxBytes=40000, " +
        "capacity=18, budget=9, prefillChunk=9, maxBytes=undefined. Restore it with the budget or maxBytes that it was saved " +
        "with, or with a larger prefillChunk: rows beyond the budget then go at the next step.",
    );
    expect(small.tokensSeen).toBe(7);
    expect(small.length()).toBe(7);
    const bytes = model.createCache({ policy: adaptiveHeads(keyDiff()), maxBytes: 24_000, prefillChunk: 4 });
    await expect(bytes.restore(saved)).rejects.toThrow(
      "got savedRows=40, savedBudget=40, savedMaxBytes=40000, capacity=",
    );
  });

  it("of another model are refused, and the cache is as it was", async () => {
    const other = await loadModel(tinyLlama({ rms_norm_eps: 1e-3 }), { backend: createReferenceBackend() });
    const saved: Uint8Array[] = [];
    const cache = model.createCache();
    await model.prefill(cache, text(9));
    for await (const chunk of cache.snapshot()) saved.push(chunk);
    const theirs = other.createCache();
    await other.prefill(theirs, text(4));
    await expect(theirs.restore(saved)).rejects.toThrow("a snapshot made with the same config");
    expect(theirs.length()).toBe(4);
  });

  it("that contradict themselves are refused, and leave a filled cache empty", async () => {
    const cache = model.createCache({ budget: 8, prefillChunk: 8 });
    await model.prefill(cache, text(40));
    const pieces: Uint8Array[] = [];
    for await (const chunk of cache.snapshot()) pieces.push(chunk.slice());
    // Magic, version and length; header; tokens; then the sources of the first layer, whose rows are 8.
    const sources = pieces.findIndex((piece, n) => n > 2 && piece.length === 8 * 4);
    new DataView(pieces[sources].buffer).setInt32(0, 39, true);
    const checksum = pieces.findIndex((piece, n) => n > sources && piece.length === 4);
    const crc = pieces.slice(0, checksum).reduce((sum, piece) => crc32(piece, sum), 0);
    new DataView(pieces[checksum].buffer).setUint32(0, crc, true);
    await expect(cache.restore(pieces)).rejects.toThrow("sources that ascend");
    expect(cache.length()).toBe(0);
    expect(cache.tokensSeen).toBe(0);
  });

  it("damaged anywhere are refused, and leave the cache as it was or empty", async () => {
    const cache = model.createCache({ budget: 8, prefillChunk: 8 });
    await model.prefill(cache, text(40));
    const pieces: Uint8Array[] = [];
    for await (const chunk of cache.snapshot()) pieces.push(chunk);
    const whole = new Uint8Array(await new Blob(pieces as BlobPart[]).arrayBuffer());
    const target = model.createCache({ budget: 8, prefillChunk: 8 });
    for (let at = 0; at < whole.length; at += 97) {
      const damaged = whole.slice();
      damaged[at] ^= 1 + (at % 255);
      await expect(target.restore([damaged]), `byte ${at}`).rejects.toMatchObject({ code: "PHASOR_FORMAT" });
      await expect(target.restore([whole.subarray(0, at)])).rejects.toMatchObject({ code: "PHASOR_FORMAT" });
      expect(target.length()).toBe(0);
      expect(target.tokensSeen).toBe(0);
    }
    await target.restore([whole]);
    expect(target.length()).toBe(8);
  });
});
