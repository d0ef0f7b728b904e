import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { values } from "../../../test/support/values.ts";
import {
  type AttentionGradients,
  type DenseAttentionRequest,
  quantizeKv,
  referenceAttention,
  referenceAttentionGradients,
  scoreModifier,
} from "../../attention/index.ts";
import { causal, full, type Mask, sameSegment, slidingWindow, table } from "../../mask/index.ts";
import { f32, tensor } from "../../tensor.ts";
import { wasmAttentionGradients } from "./attention-gradients.ts";
import { createWasmRuntime } from "./backend.ts";
import { detectFeatures } from "./features.ts";
import type { WasmRuntime } from "./runtime.ts";

/**
 * f32 against f64, relative to 1 + |wanted|. A gradient sums up to 225 products below 2 in magnitude, most of them far
 * below, each off by a few ulps.
 */
const TOLERANCE = 2e-5;

type Options = { B: number; Tq: number; Tk: number; Hk: number; G: number; D: number; Dv: number } & {
  mask: Mask;
  salt: number;
  workers: number;
  sinks: boolean;
  softcap: boolean;
  alibi: boolean;
  /** Axes B, H, Tq and Tk of the bias that are not broadcast. */
  bias: readonly boolean[] | undefined;
  dropout: boolean;
  moba: boolean;
};

function requestOf(options: Options): DenseAttentionRequest {
  const { B, Tq, Tk, Hk, G, D, Dv, mask, salt, sinks, softcap, alibi, bias, dropout, moba } = options;
  const H = Hk * G;
  const shape = [B, H, Tq, Tk].map((extent, axis) => (bias?.[axis] ? extent : 1));
  /** Documents of 29 tokens with padding here and there; queries are the last tokens. */
  const segments = (length: number) =>
    Int32Array.from({ length: B * length }, (_, n) => {
      const token = Tk - length + (n % length);
      return token % 13 === 5 ? -1 : Math.max(0, Math.floor(token / 29));
    });
  return {
    q: f32(
      [B, Tq, H, D],
      values([B, Tq, H, D], salt).data.map((x) => 2 * x),
    ),
    k: values([B, Tk, Hk, D], salt + 1),
    v: values([B, Tk, Hk, Dv], salt + 2),
    mask,
    querySegments: segments(Tq),
    keySegments: segments(Tk),
    ...(sinks && { sinks: Float32Array.from({ length: H }, (_, h) => Math.cos(h)) }),
    ...(softcap && { softcap: 3 }),
    ...(alibi && { alibiSlopes: Array.from({ length: H }, (_, h) => 0.5 ** (h + 2)) }),
    ...(bias && { bias: values(shape, salt + 4) }),
    ...(dropout && { dropout: { rate: 0.3, seed: 0xfffffff0 + (salt % 16) } }),
    ...(moba && { select: { kind: "moba", chunk: 16, topk: 2 } }),
    tables: { t: Uint8Array.from({ length: B * Tq * Tk }, (_, n) => Number((n * 11 + salt) % 7 > 2)) },
  };
}

function dOutOf({ B, Tq, Hk, G, Dv, salt }: Options) {
  return values([B, Tq, Hk * G, Dv], salt + 3);
}

function expectGradients(got: AttentionGradients, wanted: AttentionGradients, tolerance: number): void {
  expect(Object.keys(got).sort()).toEqual(Object.keys(wanted).sort());
  for (const name of Object.keys(wanted) as (keyof AttentionGradients)[]) {
    expect(got[name]?.shape, name).toEqual(wanted[name]?.shape);
    expectClose(got[name]?.data ?? [], wanted[name]?.data ?? [], tolerance);
  }
}

const MASKS = [full(), causal(), causal().and(slidingWindow(5)), slidingWindow({ left: 3, right: 70 }), table("t")];

const all: fc.Arbitrary<Options> = fc.record({
  B: fc.integer({ min: 1, max: 2 }),
  Tq: fc.integer({ min: 1, max: 45 }),
  Tk: fc.integer({ min: 1, max: 150 }),
  Hk: fc.integer({ min: 1, max: 3 }),
  G: fc.integer({ min: 1, max: 5 }),
  D: fc.integer({ min: 1, max: 21 }),
  Dv: fc.integer({ min: 0, max: 21 }),
  mask: fc.constantFrom(...MASKS, ...MASKS.map((mask) => mask.and(sameSegment()))),
  salt: fc.nat(1000),
  workers: fc.integer({ min: 1, max: 4 }),
  sinks: fc.boolean(),
  softcap: fc.boolean(),
  alibi: fc.boolean(),
  bias: fc.option(fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), { nil: undefined }),
  dropout: fc.boolean(),
  moba: fc.boolean(),
});

const plain: fc.Arbitrary<Options> = all.map((options) => ({
  ...options,
  ...{ softcap: false, alibi: false, bias: undefined, dropout: false, moba: false },
}));

describe.each([true, false])("gradients of attention on WASM with relaxed SIMD %s", (relaxed) => {
  const skip = relaxed && !detectFeatures().relaxed;
  let runtime: WasmRuntime;
  beforeAll(async () => {
    runtime = await createWasmRuntime("test", { threads: 0, maxBytes: 2 ** 28, features: { relaxed } });
  });

  const check = async (options: Options): Promise<void> => {
    const [request, dOut] = [requestOf(options), dOutOf(options)];
    const got = await wasmAttentionGradients(runtime, request, dOut, options.workers);
    expectGradients(got, referenceAttentionGradients(request, dOut), TOLERANCE);
  };

  it.skipIf(skip)("equal the reference's for any sizes, masks and splits", async () => {
    await fc.assert(fc.asyncProperty(plain, check), { numRuns: 40 });
  });

  it.skipIf(skip)("equal the reference's with any options", async () => {
    await fc.assert(fc.asyncProperty(all, check), { numRuns: 40 });
  });

  it.skipIf(skip)("equal the reference's over several blocks of everything", async () => {
    const sizes = { B: 1, Tq: 131, Tk: 197, Hk: 1, G: 2, D: 40, Dv: 24, workers: 3, salt: 5, moba: false };
    const options = { sinks: true, softcap: true, alibi: true, bias: undefined, dropout: true };
    await check({ ...sizes, ...options, mask: causal().and(slidingWindow(70)) });
  });

  it.skipIf(skip)("equal central differences of the reference", async () => {
    const [B, Tq, Tk, H, Hk, D, Dv] = [1, 5, 7, 4, 2, 3, 6];
    const request: DenseAttentionRequest = {
      q: values([B, Tq, H, D], 1),
      k: values([B, Tk, Hk, D], 2),
      v: values([B, Tk, Hk, Dv], 3),
      bias: values([H, 1, Tk], 4),
      alibiSlopes: [0.5, 0.25, 0.125, 0.1],
      sinks: [0.3, -0.2, 0.1, 0.9],
      dropout: { rate: 0.2, seed: 7 },
      softcap: 0.9,
      scale: 1.3,
      mask: causal(),
    };
    const dOut = values([B, Tq, H, Dv], 5);
    /** The derivative of Σ dOut · out in every number of an input. */
    const differences = (input: ArrayLike<number>, change: (values: Float64Array) => object): number[] =>
      Array.from({ length: input.length }, (_, i) => {
        const loss = (by: number): number => {
          const moved = Float64Array.from(input);
          moved[i] += by;
          const { out } = referenceAttention({ ...request, ...change(moved) });
          return Array.from(out.data).reduce((sum, value, n) => sum + value * dOut.data[n], 0);
        };
        return (loss(1e-5) - loss(-1e-5)) / 2e-5;
      });
    const got = await wasmAttentionGradients(runtime, request, dOut);
    for (const name of ["q", "k", "v", "bias"] as const) {
      const { shape, data } = request[name] as typeof request.q;
      // The reference returns what it is given: numbers in f64, so that a step is not lost.
      const others = { q: tensor("f64", request.q.shape, Float64Array.from(request.q.data)) };
      const wanted = differences(data, (moved) => ({ ...others, [name]: tensor("f64", shape, moved) }));
      expectClose(got[`d${name}`]?.data ?? [], wanted, 2e-6);
    }
    const inF64 = { q: tensor("f64", request.q.shape, Float64Array.from(request.q.data)) };
    const sinks = differences(request.sinks ?? [], (moved) => ({ ...inF64, sinks: moved }));
    expectClose(got.dsinks?.data ?? [], sinks, 2e-6);
    const slopes = differences(request.alibiSlopes ?? [], (moved) => ({ ...inF64, alibiSlopes: moved }));
    expectClose(got.dslopes?.data ?? [], slopes, 2e-6);
  });

  it.skipIf(skip)("stay within 1e-4 of the largest for large scores and cotangents", async () => {
    const [T, H, D] = [129, 2, 32];
    const scaled = (salt: number, gain: number) =>
      f32(
        [T, H, D],
        values([T, H, D], salt).data.map((x) => gain * x),
      );
    const request = { q: scaled(1, 30), k: scaled(2, 1), v: scaled(3, 100), mask: causal(), softcap: 50 };
    const dOut = scaled(4, 1000);
    const got = await wasmAttentionGradients(runtime, request, dOut);
    const wanted = referenceAttentionGradients(request, dOut);
    for (const name of ["dq", "dk", "dv"] as const) {
      const largest = wanted[name].data.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      const shares = [got, wanted].map((one) => Float64Array.from(one[name].data, (x) => x / largest));
      expectClose(shares[0], shares[1], 1e-4);
    }
  });

  it.skipIf(skip)("are the same to the bit in every run", async () => {
    const options = { B: 2, Tq: 67, Tk: 71, Hk: 1, G: 3, D: 16, Dv: 8, salt: 3, workers: 3, moba: false };
    const extras = { sinks: true, softcap: false, alibi: true, bias: undefined, dropout: false };
    const all = { ...options, ...extras, mask: causal() };
    const [request, dOut] = [requestOf(all), dOutOf(all)];
    const first = await wasmAttentionGradients(runtime, request, dOut, 3);
    expect(await wasmAttentionGradients(runtime, request, dOut, 3)).toEqual(first);
  });

  it.skipIf(skip)("of a quantised view are those of its numbers, by slot", async () => {
    const [B, Tq, Tk, H, Hk, D] = [2, 5, 11, 4, 2, 8];
    const slots = {
      positions: Int32Array.from({ length: B * Tk }, (_, n) => n % Tk),
      segments: new Int32Array(B * Tk),
      lengths: Int32Array.of(11, 7),
      starts: Int32Array.of(9, 4),
    };
    const store = (salt: number) => quantizeKv(values([B, Tk + 2, Hk, D], salt), { bits: 8, axis: "dkv" });
    const request = {
      q: values([B, Tq, H, D], 1),
      kv: { layout: "ring", keys: store(2), values: store(3), ...slots } as const,
      queryPositions: Int32Array.from({ length: B * Tq }, (_, n) => 6 + (n % Tq)),
      mask: causal(),
    };
    const dOut = values([B, Tq, H, D], 4);
    const got = await wasmAttentionGradients(runtime, request, dOut);
    expectGradients(got, referenceAttentionGradients(request, dOut), TOLERANCE);
  });

  it.skipIf(skip)("are refused for custom score modifiers and other cotangents", async () => {
    const request = { q: values([3, 2, 4], 1), k: values([3, 2, 4], 2), v: values([3, 2, 5], 3) };
    const dOut = values([3, 2, 5], 4);
    const modified = { ...request, scoreModifier: scoreModifier(({ score }) => score.tanh()) };
    await expect(wasmAttentionGradients(runtime, modified, dOut)).rejects.toThrow(
      'attentionGradients: no custom score modifier; got scoreModifier="score.tanh()".',
    );
    await expect(wasmAttentionGradients(runtime, request, request.q)).rejects.toThrow(
      "attentionGradients: dOut must have the shape of the output; got dOut=[3,2,4], out=[3,2,5].",
    );
  });

  it.skipIf(skip)("give memory back after every call", () => {
    expect(runtime.memory.usedBytes).toBeLessThan(500_000); // scratch
  });
});
