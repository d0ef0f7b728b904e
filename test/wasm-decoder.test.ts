import { beforeAll, describe, expect, it } from "vitest";
import { createReferenceBackend, createWasmBackend, type WasmBackend } from "../src/engine/index.ts";
import { type DecoderModel, loadModel } from "../src/model/index.ts";
import { expectClose } from "./support/expect-close.ts";
import { tinyLlama } from "./support/tiny-llama.ts";

/** Logits of three f32 layers against the reference, which sums in f64. */
const TOLERANCE = 2e-5;
const TOKENS = [1, 5, 36, 0, 17, 17, 3, 29, 11, 2, 8];

describe.each([
  ["llama", tinyLlama()],
  ["llama with one kv head", tinyLlama({ num_key_value_heads: 1, head_dim: 8 })],
  ["llama with tied embeddings", tinyLlama({ tie_word_embeddings: true, num_key_value_heads: 4 })],
])("a decoder on WASM: %s", (_, files) => {
  let reference: DecoderModel;
  let wasm: DecoderModel;
  let backend: WasmBackend;
  beforeAll(async () => {
    backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 28 });
    reference = await loadModel(files, { backend: createReferenceBackend() });
    wasm = await loadModel(files, { backend });
  });

  it("gives the reference's logits for a prompt", async () => {
    const [wanted, got] = await Promise.all([reference, wasm].map((m) => m.forward({ tokens: TOKENS, logits: "all" })));
    expectClose(got.data, wanted.data, TOLERANCE);
  });

  it("gives the reference's logits step by step", async () => {
    const caches = [reference.createCache(), wasm.createCache()] as const;
    for (const token of TOKENS) {
      const wanted = await reference.forward({ tokens: [token], cache: caches[0] });
      const got = await wasm.forward({ tokens: [token], cache: caches[1] });
      expectClose(got.data, wanted.data, TOLERANCE);
    }
    expect(caches[1].bytes).toBe(caches[0].bytes);
  });

  it("gives the reference's logits for packed texts and padding", async () => {
    const input = {
      tokens: TOKENS,
      positions: Int32Array.of(0, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1),
      segments: Int32Array.of(-1, 0, 0, 0, 1, 1, 1, 1, 1, 7, 7),
      logits: "all",
    } as const;
    const [wanted, got] = await Promise.all([reference.forward(input), wasm.forward(input)]);
    expectClose(got.data, wanted.data, TOLERANCE);
  });

  it("holds no more memory after many steps than after the first few, but for the cache", async () => {
    const cache = wasm.createCache();
    await wasm.forward({ tokens: TOKENS, cache, logits: "none" });
    await wasm.forward({ tokens: [1], cache });
    await wasm.forward({ tokens: [1], cache });
    const before = backend.usedBytes;
    for (let step = 0; step < 3; step++) await wasm.forward({ tokens: [1], cache });
    expect(backend.usedBytes).toBe(before);
  });
});
