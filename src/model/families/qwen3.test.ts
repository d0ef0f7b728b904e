import { expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { tinyLlama } from "../../../test/support/tiny-llama.ts";
import { F32_COMPUTED } from "../../../test/support/tolerances.ts";
import { createReferenceBackend } from "../../engine/index.ts";
import { f32 } from "../../tensor.ts";
import { describeModel, loadModel } from "../load.ts";
import type { ModelFiles } from "../weights/index.ts";

const TOKENS = [1, 5, 36, 0, 17, 17, 3, 29, 11, 2, 8];

/** A Qwen3 with the weights of the tiny Llama and gains of its own for every head dim. */
function tinyQwen3(config: Record<string, unknown> = {}, gain = (d: number): number => 1 + d / 7): ModelFiles {
  return tinyLlama({ ...config, model_type: "qwen3" }, (tensors) => {
    for (let layer = 0; layer < 3; layer++) {
      const gains = f32(
        [10],
        Array.from({ length: 10 }, (_, d) => gain(d)),
      );
      tensors[`model.layers.${layer}.self_attn.q_norm.weight`] = gains;
      tensors[`model.layers.${layer}.self_attn.k_norm.weight`] = gains;
    }
  });
}

it("queries and keys have the length of their gains, whatever the projections give", async () => {
  const model = await loadModel(
    tinyQwen3({}, () => 3),
    { backend: createReferenceBackend() },
  );
  const cache = model.createCache();
  await model.forward({ tokens: TOKENS, cache });
  const view = cache.view(1);
  if (view.layout !== undefined) throw new Error("expected a contiguous layer");
  const keys = view.keys.data as Float32Array;
  for (let row = 0; row < keys.length; row += 10) {
    const length = Math.hypot(...keys.subarray(row, row + 10));
    expect(length).toBeCloseTo(3 * Math.sqrt(10), 3);
  }
});

it("steps give what a single pass gives, with windows too", async () => {
  const windows = { use_sliding_window: true, sliding_window: 4, max_window_layers: 1 };
  for (const config of [{}, windows]) {
    const model = await loadModel(tinyQwen3(config), { backend: createReferenceBackend() });
    const whole = await model.forward({ tokens: TOKENS });
    const cache = model.createCache();
    for (const token of TOKENS.slice(0, -1)) await model.forward({ tokens: [token], cache, logits: "none" });
    expectClose((await model.forward({ tokens: TOKENS.slice(-1), cache })).data, whole.data, F32_COMPUTED);
  }
});

it("windowed layers lie in rings, and forget by age alone", async () => {
  const model = await loadModel(
    tinyQwen3({ use_sliding_window: true, sliding_window: 8, max_window_layers: 2, max_position_embeddings: 2048 }),
    { backend: createReferenceBackend() },
  );
  const cache = model.createCache();
  const long = Array.from({ length: 600 }, (_, t) => (t * t) % 37);
  const whole = await model.forward({ tokens: long });
  await model.prefill(cache, long.slice(0, 590));
  expectClose((await model.forward({ tokens: long.slice(590), cache })).data, whole.data, 1e-4);
  expect([0, 1, 2].map((layer) => cache.length(layer))).toEqual([600, 600, 519]); // 8 + 512 − 1 rows
  expect(cache.report().layers[2][0].dropped).toEqual([[0, 81]]);
  expect(cache.report().forgotten).toEqual([]);
});

it.each([
  [{ use_sliding_window: true, sliding_window: 16, max_window_layers: 1 }, [undefined, 16, 16]],
  [{ use_sliding_window: false, sliding_window: 16, max_window_layers: 1 }, [undefined, undefined, undefined]],
  [
    {
      use_sliding_window: true,
      sliding_window: 16,
      layer_types: ["sliding_attention", "full_attention", "full_attention"],
    },
    [16, undefined, undefined],
  ],
])("windows of %j", async (config, windows) => {
  const { layers } = (await describeModel(tinyQwen3(config))).config;
  expect(layers.map((layer) => layer.slidingWindow)).toEqual(windows);
  expect(layers.map((layer) => layer.mask.toString().includes("slidingWindow"))).toEqual(
    windows.map((w) => w !== undefined),
  );
});

it("the head width is 128 when the config names none", async () => {
  const { config } = await describeModel(tinyQwen3({ head_dim: null }));
  expect(config.layers[0].headDim).toBe(128);
});

it.each([
  [
    { layer_types: ["full_attention", "sliding_attention", "full_attention"], sliding_window: 9 },
    "config.json: sliding_attention needs use_sliding_window and a sliding_window; got use_sliding_window=false, sliding_window=9, layer=1. The config contradicts itself; set layer_types to full_attention, or give the window.",
  ],
  [
    { layer_types: ["full_attention"] },
    "config.json: layer_types must have an entry for every layer; got layer_types=1, num_hidden_layers=3.",
  ],
])("refuses %j", async (config, message) => {
  await expect(describeModel(tinyQwen3(config))).rejects.toThrow(message);
});
