import { describe, expect, it } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { dequantizeKv, quantizeKv, referenceAttention } from "../../../attention/index.ts";
import { full } from "../../../mask/index.ts";
import { f32, tensor } from "../../../tensor.ts";
import { emitDecode } from "./attention-decode.ts";
import { DECODE_ITEM, DECODE_ITEM_WORDS, type DecodeSpec, decodeScratch } from "./attention-decode-rows.ts";
import { OPTIONS, OPTIONS_BYTES } from "./attention-tile.ts";

const [Hk, G, D, Dv] = [3, 4, 20, 12];

/** f32 against f64, for scores below 20 in magnitude. */
const TOLERANCE = 5e-6;

const f32Spec = (relaxed: boolean): DecodeSpec => ({
  ...{ relaxed, heads: Hk * G, group: G, keyDim: D, valueDim: Dv },
  keys: { type: "f32", stride: Hk * D * 4, scaleStride: 0, scaleHead: 0 },
  values: { type: "f32", stride: Hk * Dv * 4, scaleStride: 0, scaleHead: 0 },
});

const int8Spec = (relaxed: boolean): DecodeSpec => ({
  ...f32Spec(relaxed),
  keys: { type: "int8", stride: Hk * D, scaleStride: Hk * 4, scaleHead: 4 },
  values: { type: "int8", stride: Hk * Dv, scaleStride: Hk * 4, scaleHead: 4 },
});

/** One item with one entry of all keys. */
function placeItem(kernel: KernelUnderTest, keys: number): number {
  const entries = kernel.put(Int32Array.of(0, keys, 0, 0));
  const item = new Int32Array(DECODE_ITEM_WORDS);
  item[DECODE_ITEM.entries] = entries;
  item[DECODE_ITEM.entriesEnd] = entries + 16;
  return kernel.put(item);
}

describe.each(MODES)("the decode kernel with relaxed SIMD $relaxed", ({ relaxed }) => {
  // What reads ahead must not read behind the end of memory.
  it.each(["keys", "values"])("reads %s that end where memory ends", (last) => {
    for (const T of [1, 2, 7, 64, 67]) {
      const spec = f32Spec(relaxed);
      const kernel = new KernelUnderTest((module) => emitDecode(module, spec), { pages: 2 });
      const q = randomNumbers(Hk * G * D, 1);
      const k = randomNumbers(T * Hk * D, 2);
      const v = randomNumbers(T * Hk * Dv, 3);
      const place = (name: string, data: Float32Array): number =>
        name === last ? kernel.putLast(data) : kernel.put(data);
      const items = placeItem(kernel, T);
      const out = kernel.reserve(Hk * G * Dv * 4);
      const scratch = kernel.reserve(decodeScratch(spec).end);
      const operands = [kernel.put(q), place("keys", k), place("values", v), out];
      kernel.call("attendOne", 0, 1, items, ...operands, 0, 0, 1 / Math.sqrt(D), 0, scratch);
      const request = { q: f32([1, Hk * G, D], q), k: f32([T, Hk, D], k), v: f32([T, Hk, Dv], v), mask: full() };
      expectClose(kernel.f32(out, Hk * G * Dv), referenceAttention(request).out.data, TOLERANCE);
    }
  });

  it("uses codes of 8 bits at any scale as exactly as the numbers they stand for", () => {
    const T = 131;
    for (const [keyGain, valueGain] of [
      [1, 1],
      [2 ** 40, 2 ** -60],
      [2 ** -60, 2 ** 60],
    ]) {
      const spec = int8Spec(relaxed);
      const kernel = new KernelUnderTest((module) => emitDecode(module, spec), { pages: 2 });
      // A channel of the queries is far larger than the rest.
      const q = randomNumbers(Hk * G * D, 4).map((x, i) => ((i % D === 7 ? 40 : 1) * x) / keyGain);
      const quantized = (width: number, seed: number, gain: number) =>
        quantizeKv(
          tensor(
            "f32",
            [T, Hk, width],
            randomNumbers(T * Hk * width, seed).map((x) => x * gain),
          ),
          { bits: 8 },
        );
      const [k, v] = [quantized(D, 5, keyGain), quantized(Dv, 6, valueGain)];
      const items = placeItem(kernel, T);
      const out = kernel.reserve(Hk * G * Dv * 4);
      const scratch = kernel.reserve(decodeScratch(spec).end);
      const options = new Int32Array(OPTIONS_BYTES / 4);
      options[OPTIONS.keyScales / 4] = kernel.put(k.scales.data);
      options[OPTIONS.valueScales / 4] = kernel.put(v.scales.data);
      const codes = [k, v].map((one) => kernel.put(one.codes.data as Int8Array));
      const operands = [kernel.put(q), ...codes, out, 0, 0, 1 / Math.sqrt(D), kernel.put(options), scratch];
      kernel.call("attendOne", 0, 1, items, ...operands);
      const numbers = { k: dequantizeKv(k), v: dequantizeKv(v) };
      const wanted = referenceAttention({ q: f32([1, Hk * G, D], q), ...numbers, mask: full() });
      const got = kernel.f32(out, Hk * G * Dv);
      expectClose(
        got.map((x) => x / valueGain),
        wanted.out.data.map((x) => x / valueGain),
        TOLERANCE,
      );
    }
  });
});

/** For review: what is generated, in words. `npx vitest run -u` writes it anew. */
it("the listing of the decode kernel with int8 keys and f32 values", async () => {
  const spec = { ...f32Spec(true), keys: int8Spec(true).keys };
  await expect(listingOf((module) => emitDecode(module, spec))).toMatchFileSnapshot("listings/attention-decode.txt");
});
