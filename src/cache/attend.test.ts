import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { gatherKv, type KeyValues, type KvViews, referenceAttention } from "../attention/index.ts";
import type { DenseKv } from "../attention/kv-gather.ts";
import type { AttendCall, Backend } from "../engine/backend.ts";
import { createReferenceBackend } from "../engine/reference/backend.ts";
import { createWasmBackend } from "../engine/wasm/backend.ts";
import { causal, type Mask, sameSegment, slidingWindow } from "../mask/index.ts";
import { rows, type Tensor, tensor, zeros } from "../tensor.ts";
import { type CacheElements, type CacheLayout, createKvCache, dropKeyChannels, type PositionedCache } from "./index.ts";

const [Hk, D] = [3, 8];

const LAYOUTS: readonly CacheLayout[] = [
  { type: "contiguous" },
  { type: "paged", pageSize: 4 },
  { type: "ring", window: 90, maxChunk: 80 },
];

const MASKS: readonly Mask[] = [
  causal().and(sameSegment()),
  slidingWindow(11).and(sameSegment()),
  causal().and(slidingWindow({ left: 40, right: 3 })),
];

type Options = {
  layout: CacheLayout;
  elements: CacheElements;
  mask: Mask;
  /** Rows before the step, and rows of the step. */
  prompt: number;
  count: number;
  G: number;
  Dv: number;
  ragged: boolean;
  /** Key channels of the prompt that go. */
  dropped: number;
  /** Segments change in the middle of the prompt. */
  packed: boolean;
  sinks: boolean;
  softcap: boolean;
};

const options: fc.Arbitrary<Options> = fc.record({
  layout: fc.constantFrom(...LAYOUTS),
  elements: fc.constantFrom<CacheElements>("f32", "int8", "int4"),
  mask: fc.constantFrom(...MASKS),
  prompt: fc.integer({ min: 1, max: 73 }),
  count: fc.constantFrom(1, 2, 7),
  G: fc.constantFrom(1, 2, 5),
  Dv: fc.constantFrom(4, 7, 12),
  ragged: fc.boolean(),
  dropped: fc.constantFrom(0, 0, 3, 4, 7),
  packed: fc.boolean(),
  sinks: fc.boolean(),
  softcap: fc.boolean(),
});

/** Appends `count` rows; tokens of one text follow each other. */
function append(cache: PositionedCache, k: Tensor<"f32">, v: Tensor<"f32">, segments: Int32Array): void {
  const first = cache.nextPosition;
  const positions = Int32Array.from(segments, (_, t) => first + t);
  cache.append(0, { keys: k, values: v, positions, segments });
}

/** The channels of a head that go: some others for every head. */
function droppedChannels(count: number): Uint8Array[] {
  return Array.from({ length: Hk }, (_, h) =>
    Uint8Array.from({ length: D }, (_, d) => ((d * 3 + h) % D < count ? 1 : 0)),
  );
}

/** Copies of rows with the keys' channels that go as 0. */
function cleared(view: KeyValues, dropped: readonly Uint8Array[], firstHead: number): DenseKv {
  const { k, ...rest } = structuredClone(gatherKv(view));
  const heads = k.shape[2];
  for (let n = 0; n < k.data.length; n++) {
    if (dropped[firstHead + (Math.floor(n / D) % heads)][n % D]) k.data[n] = 0;
  }
  return { k, ...rest };
}

/** Rows of one sequence and those that follow them. */
function followed(a: DenseKv, b: DenseKv): DenseKv {
  const join = (x: Tensor, y: Tensor): Tensor<"f32"> => {
    const shape = [1, x.shape[1] + y.shape[1], x.shape[2], x.shape[3]];
    return tensor("f32", shape, Float32Array.from([...x.data, ...y.data] as number[]));
  };
  return {
    k: join(a.k, b.k),
    v: join(a.v, b.v),
    keyPositions: Int32Array.from([...a.keyPositions, ...b.keyPositions]),
    keySegments: Int32Array.from([...a.keySegments, ...b.keySegments]),
    lengths: Int32Array.of(a.lengths[0] + b.lengths[0]),
  };
}

const list = (views: KvViews): readonly KeyValues[] => (Array.isArray(views) ? views : [views]) as readonly KeyValues[];

type Step = { call: AttendCall; out: Tensor<"f32">; rows: readonly DenseKv[] };

/**
 * A prompt, a compaction of each head by itself where ragged, key channels that go, then a step whose rows are appended
 * as it attends.
 */
async function step(backend: Backend, options: Options): Promise<Step> {
  const { layout, elements, mask, prompt, count, G, Dv, ragged, dropped, packed, sinks, softcap } = options;
  const layer = { kvHeads: Hk, keyDim: D, valueDim: Dv, layout, elements };
  const cache = createKvCache([layer], { memory: backend });
  const segment = Int32Array.from({ length: prompt }, (_, t) => (packed && t < prompt / 2 ? 1 : 0));
  append(cache, values([prompt, Hk, D], 1), values([prompt, Hk, Dv], 2), segment);
  await backend.flush();
  if (ragged) {
    const kept = Array.from({ length: Hk }, (_, h) =>
      Int32Array.from({ length: prompt }, (_, slot) => slot).filter((slot) => slot === 0 || (slot * 7 + h) % 5 > h),
    );
    cache.compact(0, kept);
  }
  const goes = droppedChannels(dropped);
  const before = list(cache.attended(0) as KvViews).map((view, n) => cleared(view, goes, n));
  if (dropped > 0) dropKeyChannels(cache, 0, goes);
  const [k, v] = [inMemory(backend, values([count, Hk, D], 3)), inMemory(backend, values([count, Hk, Dv], 4))];
  const first = cache.nextPosition;
  append(cache, k, v, new Int32Array(count));
  const call: AttendCall = {
    q: inMemory(backend, values([count, Hk * G, D], 5)),
    kv: cache.attended(0),
    queryPositions: Int32Array.from({ length: count }, (_, t) => first + t),
    querySegments: new Int32Array(count),
    mask,
    scale: 0.9,
    ...(softcap && { softcap: 2 }),
    ...(sinks && { sinks: Float32Array.from({ length: Hk * G }, (_, h) => Math.sin(h)) }),
  };
  const out = backend.allocate([count, Hk * G, Dv]);
  backend.attend(out, call);
  await backend.flush();
  const { kv } = call;
  if (!("narrow" in kv)) return { call, out, rows: list(kv).map((view) => gatherKv(view)) };
  return { call, out, rows: list(kv.full).map((view, n) => followed(before[n], gatherKv(view))) };
}

function inMemory(backend: Backend, t: Tensor<"f32">): Tensor<"f32"> {
  const own = backend.allocate(t.shape);
  own.data.set(t.data);
  return own;
}

/** Attention of one head after the other over rows, of all heads or of each. */
function oracle(
  { q, queryPositions, querySegments, mask, scale, ...rest }: Omit<AttendCall, "kv">,
  dense: readonly DenseKv[],
): Tensor<"f32"> {
  const [T, H] = q.shape;
  const Dv = dense[0].v.shape[3];
  const out = zeros("f32", [T, H, Dv]);
  for (let h = 0; h < H; h++) {
    const kvHead = Math.floor((h * Hk) / H);
    const { k, v, keyPositions, keySegments } = dense[dense.length === 1 ? 0 : kvHead];
    const one = referenceAttention({
      q: head(q, h),
      k: head(rows(k, 0, 1), dense.length === 1 ? kvHead : 0),
      v: head(rows(v, 0, 1), dense.length === 1 ? kvHead : 0),
      mask,
      queryPositions,
      keyPositions,
      querySegments,
      keySegments,
      scale,
      ...(rest.softcap !== undefined && { softcap: rest.softcap }),
      ...(rest.sinks && { sinks: [rest.sinks[h]] }),
    });
    for (let t = 0; t < T; t++) for (let d = 0; d < Dv; d++) out.data[(t * H + h) * Dv + d] = one.out.data[t * Dv + d];
  }
  return out;
}

/** Head h of x [..., T, H, D] as [T, 1, D]. */
function head(x: Tensor, h: number): Tensor<"f32"> {
  const [T, H, width] = x.shape.slice(-3);
  const numbers = Array.from(
    { length: T * width },
    (_, n) => x.data[(Math.floor(n / width) * H + h) * width + (n % width)],
  );
  return tensor("f32", [T, 1, width], Float32Array.from(numbers as number[]));
}

describe.each(["reference", "wasm"])("attend on the backend %s", (name) => {
  let backend: Backend;
  beforeAll(async () => {
    backend =
      name === "reference" ? createReferenceBackend() : await createWasmBackend({ threads: 0, maxBytes: 2 ** 26 });
  });
  afterAll(() => backend.dispose());

  it("equals the reference over the cached rows, for any layout, elements, ragged heads, and channels gone", async () => {
    await fc.assert(
      fc.asyncProperty(options, async (one) => {
        const { call, out, rows } = await step(backend, one);
        expectClose(out.data, oracle(call, rows).data, F32_COMPUTED);
      }),
      { numRuns: 90 },
    );
  });

  it("layers of a step share plans only where they hold the same slots", async () => {
    const layer = { kvHeads: Hk, keyDim: D, valueDim: 4 };
    const cache = createKvCache(Array(4).fill(layer), { memory: backend });
    const both = { keys: values([20, Hk, D], 1), values: values([20, Hk, 4], 2) };
    const positions = Int32Array.from({ length: 20 }, (_, t) => t);
    for (let index = 0; index < 4; index++) {
      cache.append(index, { ...both, positions, segments: new Int32Array(20) });
    }
    await backend.flush();
    const half = (odd: number): Int32Array => positions.filter((slot) => slot % 2 === odd);
    for (const [index, odd] of [0, 1, 1].entries()) cache.compact(index, half(odd));
    const q = inMemory(backend, values([1, Hk, D], 3));
    const step = { q, mask: causal(), scale: 1, queryPositions: Int32Array.of(9), querySegments: new Int32Array(1) };
    const calls = Array.from({ length: 4 }, (_, index) => {
      const call = { ...step, kv: cache.view(index) };
      const out = backend.allocate([1, Hk, 4]);
      backend.attend(out, call);
      return { call, out };
    });
    await backend.flush();
    for (const { call, out } of calls) expectClose(out.data, oracle(call, [gatherKv(call.kv)]).data, F32_COMPUTED);
    expectClose(calls[1].out.data, calls[2].out.data, 0);
  });

  it("a part without rows, of a layer or of one head, counts for nothing", async () => {
    const cache = createKvCache([{ kvHeads: Hk, keyDim: D, valueDim: 4, rotary: null }], { memory: backend });
    append(cache, values([9, Hk, D], 1), values([9, Hk, 4], 2), new Int32Array(9));
    await backend.flush();
    const goes = droppedChannels(4);
    const [before] = list(cache.attended(0) as KvViews).map((view) => cleared(view, goes, 0));
    dropKeyChannels(cache, 0, goes);
    const q = inMemory(backend, values([2, 2 * Hk, D], 3));
    const [queryPositions, sinks] = [Int32Array.of(8, 9), Float32Array.from({ length: 2 * Hk }, (_, h) => Math.sin(h))];
    const step = { q, mask: causal(), scale: 1, queryPositions, querySegments: new Int32Array(2), sinks };
    const attend = async (): Promise<Tensor<"f32">> => {
      const out = backend.allocate([2, 2 * Hk, 4]);
      backend.attend(out, { ...step, kv: cache.attended(0) });
      await backend.flush();
      return out;
    };
    expectClose((await attend()).data, oracle(step, [before]).data, F32_COMPUTED);

    append(cache, values([1, Hk, D], 4), values([1, Hk, 4], 5), new Int32Array(1));
    await backend.flush();
    cache.compact(0, [Int32Array.of(9), Int32Array.of(2, 3), Int32Array.of(0, 9)]);
    const rowsOfHeads = cache.wideViews(0).map((view) => gatherKv(view));
    expect(rowsOfHeads.map(({ lengths }) => lengths[0])).toEqual([1, 2, 2]);
    expectClose((await attend()).data, oracle(step, rowsOfHeads).data, F32_COMPUTED);
  });

  it("refuses channels that do not fit the heads", () => {
    const view = createKvCache([{ kvHeads: 2, keyDim: 3, valueDim: 4 }]).view(0);
    const q = backend.allocate([1, 4, 5]);
    const call = { q, queryPositions: Int32Array.of(0), querySegments: Int32Array.of(0), mask: causal(), scale: 1 };
    const channels = [Int32Array.of(0, 1, 5), Int32Array.of(0, 1, 2)];
    expect(() => backend.attend(q, { ...call, kv: { narrow: view, channels, full: view } })).toThrow(
      "attend: as many channels of the head for each key-value head; got heads=4, headDim=5",
    );
  });

  it("refuses views that are not one per key-value head", () => {
    const view = createKvCache([{ kvHeads: 1, keyDim: 4, valueDim: 4 }]).view(0);
    const q = backend.allocate([1, 3, 4]);
    const call = { q, queryPositions: Int32Array.of(0), querySegments: Int32Array.of(0), mask: causal(), scale: 1 };
    expect(() => backend.attend(q, { ...call, kv: [view, view] })).toThrow(
      "attend: one view with one head for each key-value head; got heads=3, views=2.",
    );
  });
});
