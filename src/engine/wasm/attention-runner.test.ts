import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { values } from "../../../test/support/values.ts";
import {
  type AttentionRequest,
  type KeyValues,
  type QuantizedBits,
  quantizeKv,
  referenceAttention,
  type ScoreExpression,
  type SelectRequest,
  scoreModifier,
} from "../../attention/index.ts";
import { numberToBf16, numberToF16 } from "../../dtype.ts";
import { causal, chunked, custom, full, type Mask, sameSegment, slidingWindow, table } from "../../mask/index.ts";
import { f32, type Tensor, tensor } from "../../tensor.ts";
import { createWasmRuntime } from "./backend.ts";
import { WasmRunner } from "./engine-runner.ts";
import { detectFeatures } from "./features.ts";

/**
 * f32 against f64, relative to 1 + |wanted|. Scores are below 16 in magnitude, so that one is off by at most a few ulps,
 * 2e-6; a probability by that relative to itself, an output by that relative to the largest value, which is 1.
 */
const TOLERANCE = 5e-6;

type Sizes = { B: number; Tq: number; Tk: number; Hk: number; G: number; D: number; Dv: number };
type Store = "f32" | "f16" | "bf16" | QuantizedBits;
type Layout = "tensors" | "contiguous" | "ring" | "paged";
type Options = Sizes & {
  mask: Mask;
  salt: number;
  workers: number;
  layout: Layout;
  pageSize: number;
  keyStore: Store;
  valueStore: Store;
  axis: "dkv" | "heads_and_dkv";
  sinks: boolean;
  softcap: boolean;
  alibi: boolean;
  /** Extents of the bias: axes B, H, Tq and Tk that are not broadcast. */
  bias: readonly boolean[] | undefined;
  modifier: ScoreExpression | undefined;
  dropout: boolean;
  select: "moba" | "indexer" | undefined;
};

const STORES: readonly Store[] = ["f32", "f16", "bf16", 8, 4, "fp8"];

const MODIFIERS: readonly ScoreExpression[] = [
  scoreModifier(({ score, qPosition, kvPosition }) => score.sub(qPosition.sub(kvPosition).abs().mul(0.01))),
  scoreModifier(({ score, kvPosition, qPosition }) => score.add(kvPosition.sub(qPosition).mul(0.02)).min(3)),
  scoreModifier(({ score, head, batch }) => score.tanh().mul(head.add(batch).add(1)).max(-2)),
  scoreModifier(({ score, select }) => select(slidingWindow(9).or(chunked(16)), score.mul(1.5), score.abs().sub(1))),
  scoreModifier(({ score, qSegment, kvSegment }) => score.exp().add(1).log().sub(qSegment.mul(kvSegment).div(7))),
  scoreModifier(({ score, select }) =>
    select(
      custom(({ qPosition: q, kvPosition: k }) => q.sub(k).mul(2).min(9).lt(k.mod(5))),
      0.5,
      score,
    ),
  ),
];

/** Keys or values [..., Hk, D] in some type. */
function storeOf(x: Tensor<"f32">, type: Store, axis: Options["axis"]) {
  if (type === "f32") return x;
  if (type === "f16") return tensor("f16", x.shape, Uint16Array.from(x.data, numberToF16));
  if (type === "bf16") return tensor("bf16", x.shape, Uint16Array.from(x.data, numberToBf16));
  return quantizeKv(x, { bits: type, axis });
}

/** A view with sequences of different lengths; what lies outside them is not a number. */
function viewOf(options: Options): KeyValues {
  const { B, Tk, Hk, D, Dv, salt, layout, pageSize, keyStore, valueStore, axis } = options;
  const lengths = Int32Array.from({ length: B }, (_, b) => Math.max(0, Tk - 3 * b * ((salt % 5) + 1)));
  const positions = Int32Array.from({ length: B * Tk }, (_, n) => n % Tk);
  const segments = positions.map((position) => (position % 11 === 3 ? -1 : Math.floor(position / 29)));
  const pages = Math.ceil(Tk / pageSize);
  const [outer, rows] = layout === "paged" ? [B * pages + 1, pageSize] : [B, layout === "ring" ? Tk + 3 : Tk];
  const starts = Int32Array.from({ length: B }, (_, b) => (salt + 7 * b) % rows);
  // Pages in an order of their own; those that no slot needs are absent.
  const pageTable = Int32Array.from({ length: B * pages }, (_, n) => {
    const used = (n % pages) * pageSize < lengths[Math.floor(n / pages)];
    return used ? 1 + ((n * 7 + salt) % (B * pages)) : -1;
  });
  const stored = new Set<number>();
  for (let b = 0; b < B; b++) {
    for (let slot = 0; slot < lengths[b]; slot++) {
      if (layout === "ring") stored.add(b * rows + ((starts[b] + slot) % rows));
      else if (layout === "paged") stored.add(pageTable[b * pages + Math.floor(slot / rows)] * rows + (slot % rows));
      else stored.add(b * rows + slot);
    }
  }
  const side = (width: number, type: Store, offset: number) => {
    const numbers = values([outer, rows, Hk, width], salt + offset);
    const isFloat = type === "f32" || type === "f16" || type === "bf16";
    for (let row = 0; isFloat && row < outer * rows; row++) {
      if (!stored.has(row)) numbers.data.fill(NaN, row * Hk * width, (row + 1) * Hk * width);
    }
    return storeOf(numbers, type, axis);
  };
  const common = { positions, segments, lengths, keys: side(D, keyStore, 1), values: side(Dv, valueStore, 2) };
  if (layout === "ring") return { layout, ...common, starts };
  if (layout === "paged") return { layout, ...common, pageTable: tensor("i32", [B, pages], pageTable) };
  return { layout: "contiguous", ...common };
}

function requestOf(options: Options): AttentionRequest {
  const { B, Tq, Tk, Hk, G, D, Dv, mask, salt, layout, softcap, alibi, bias, modifier, dropout } = options;
  const H = Hk * G;
  const shape = [B, H, Tq, Tk].map((extent, axis) => (bias?.[axis] ? extent : 1));
  /** Documents of 29 tokens with padding here and there; queries are the last tokens. */
  const segments = (length: number) =>
    Int32Array.from({ length: B * length }, (_, n) => {
      const token = Tk - length + (n % length);
      return token % 13 === 5 ? -1 : Math.max(0, Math.floor(token / 29));
    });
  const select: Record<string, SelectRequest> = {
    moba: { kind: "moba", chunk: 16, topk: 2 },
    indexer: {
      kind: "indexer",
      queries: values([B, Tq, 2, 3], salt + 5),
      keys: values([B, Tk, 3], salt + 6),
      weights: values([B, Tq, 2], salt + 7),
      topk: 11,
    },
  };
  const shared = {
    q: f32(
      [B, Tq, H, D],
      values([B, Tq, H, D], salt).data.map((x) => 2 * x),
    ),
    mask,
    querySegments: segments(Tq),
    outputs: { maxLogits: true },
    ...(options.sinks && { sinks: Float32Array.from({ length: H }, (_, h) => Math.cos(h)) }),
    ...(softcap && { softcap: 3 }),
    ...(alibi && { alibiSlopes: Array.from({ length: H }, (_, h) => 0.5 ** (h + 2)) }),
    ...(bias && { bias: values(shape, salt + 4) }),
    ...(modifier && { scoreModifier: modifier }),
    ...(dropout && { dropout: { rate: 0.3, seed: 0xfffffff0 + (salt % 16) } }),
    ...(options.select && { select: select[options.select] }),
    tables: { t: Uint8Array.from({ length: B * Tq * Tk }, (_, n) => Number((n * 11 + salt) % 7 > 2)) },
  };
  if (layout !== "tensors") {
    const queryPositions = Int32Array.from({ length: B * Tq }, (_, n) => Tk - Tq + (n % Tq));
    return { ...shared, kv: viewOf(options), queryPositions };
  }
  return {
    ...shared,
    k: values([B, Tk, Hk, D], salt + 1),
    v: values([B, Tk, Hk, Dv], salt + 2),
    keySegments: segments(Tk),
  };
}

async function check(runner: WasmRunner, options: Options): Promise<void> {
  const request = requestOf(options);
  const wanted = referenceAttention(request);
  const got = await runner.attend(request);
  expectClose(got.out.data, wanted.out.data, TOLERANCE);
  expectClose(got.lse.data, wanted.lse.data, TOLERANCE);
  expectClose(got.maxLogits.data, wanted.maxLogits.data, TOLERANCE);
}

const MASKS = [full(), causal(), causal().and(slidingWindow(5)), slidingWindow({ left: 3, right: 70 }), table("t")];

const sizes = {
  B: fc.integer({ min: 1, max: 2 }),
  Tq: fc.integer({ min: 1, max: 19 }),
  Tk: fc.integer({ min: 1, max: 150 }),
  Hk: fc.integer({ min: 1, max: 3 }),
  G: fc.integer({ min: 1, max: 5 }),
  D: fc.integer({ min: 1, max: 21 }),
  Dv: fc.integer({ min: 0, max: 21 }),
};

const all: fc.Arbitrary<Options> = fc.record({
  ...sizes,
  mask: fc.constantFrom(...MASKS, ...MASKS.map((mask) => mask.and(sameSegment()))),
  salt: fc.nat(1000),
  workers: fc.integer({ min: 1, max: 3 }),
  layout: fc.constantFrom<Layout>("tensors", "tensors", "contiguous", "ring", "paged"),
  pageSize: fc.constantFrom(1, 5, 16, 64, 67, 128),
  keyStore: fc.constantFrom(...STORES),
  valueStore: fc.constantFrom(...STORES),
  axis: fc.constantFrom("dkv", "heads_and_dkv"),
  sinks: fc.boolean(),
  softcap: fc.boolean(),
  alibi: fc.boolean(),
  bias: fc.option(fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), { nil: undefined }),
  modifier: fc.option(fc.constantFrom(...MODIFIERS), { nil: undefined, freq: 1 }),
  dropout: fc.boolean(),
  select: fc.option(fc.constantFrom("moba", "indexer"), { nil: undefined, freq: 1 }),
});

const plain: fc.Arbitrary<Options> = all.map((options) => ({
  ...options,
  layout: "tensors" as const,
  softcap: false,
  alibi: false,
  bias: undefined,
  modifier: undefined,
  dropout: false,
  select: undefined,
}));

/** Single queries, which have a kernel of their own. */
const single: fc.Arbitrary<Options> = fc
  .record({
    options: all,
    G: fc.integer({ min: 1, max: 9 }),
    D: fc.constantFrom(4, 12, 20, 32),
    Dv: fc.constantFrom(4, 16, 20),
  })
  .map(({ options, ...own }) => ({
    ...options,
    ...own,
    ...{ Tq: 1, softcap: false, alibi: false, bias: undefined, modifier: undefined, dropout: false },
  }));

describe.each([true, false])("attention on WASM with relaxed SIMD %s", (relaxed) => {
  const skip = relaxed && !detectFeatures().relaxed;
  const runners: WasmRunner[] = [];
  beforeAll(async () => {
    const runtime = await createWasmRuntime("test", { threads: 0, maxBytes: 2 ** 28, features: { relaxed } });
    for (let workers = 1; workers <= 3; workers++) runners.push(new WasmRunner(runtime, workers));
  });
  const runner = ({ workers }: Options): WasmRunner => runners[workers - 1];

  it.skipIf(skip)("equals the reference for any sizes, masks and splits", async () => {
    await fc.assert(
      fc.asyncProperty(plain, (options) => check(runner(options), options)),
      { numRuns: 60 },
    );
  });

  it.skipIf(skip)("equals the reference with any options, layouts and element types", async () => {
    await fc.assert(
      fc.asyncProperty(all, (options) => check(runner(options), options)),
      { numRuns: 100 },
    );
  });

  it.skipIf(skip)("equals the reference for single queries in any layout", async () => {
    await fc.assert(
      fc.asyncProperty(single, (options) => check(runner(options), options)),
      { numRuns: 100 },
    );
  });

  type Large = { gain: number; shift?: number; softcap?: number; alibiSlopes?: number[] };
  it.skipIf(skip).each<[string, Large]>([
    ["scores", { gain: 30 }],
    ["capped scores", { gain: 90, softcap: 50 }],
    ["distances", { gain: 3, alibiSlopes: [1, 0.5, 0.25, 0.125], shift: 2 ** 30 - 300 }],
  ])("errs by less than 5e-7 of the largest score, for large %s", async (_, { gain, shift = 0, ...options }) => {
    const [T, H, D] = [257, 4, 32];
    const tokens = Int32Array.from({ length: T }, (_, i) => i + shift);
    const request = {
      q: f32(
        [T, H, D],
        values([T, H, D], 1).data.map((x) => gain * x),
      ),
      k: values([T, 2, D], 2),
      v: values([T, 2, D], 3),
      mask: causal(),
      ...options,
      ...{ queryPositions: tokens, keyPositions: tokens },
    };
    const wanted = referenceAttention(request);
    const got = await runners[0].attend(request);
    const budget = 5e-7 * (1 + Math.max(...wanted.maxLogits.data.map(Math.abs)));
    expectClose(got.out.data, wanted.out.data, budget);
    expectClose(got.lse.data, wanted.lse.data, 1e-6);
  });

  it.skipIf(skip)("gives memory back after every call", () => {
    expect(runners[0].usedBytes).toBeLessThan(200_000); // scratch
  });
});
