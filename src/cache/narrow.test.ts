import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { QueuedMemory } from "../../test/support/queued-memory.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { usedBytes } from "../../test/support/used-bytes.ts";
import { values } from "../../test/support/values.ts";
import type { KvView } from "../attention/index.ts";
import { createWasmBackend, type WasmBackend } from "../engine/wasm/backend.ts";
import type { RotaryLayer } from "../rope/index.ts";
import {
  type CacheElements,
  type CacheLayout,
  createKvCache,
  dropKeyChannels,
  type KvLayerSpec,
  type KvMemory,
  type PositionedCache,
  replaceValues,
  restoreSnapshot,
  saveSnapshot,
} from "./index.ts";

const [HK, D, DV] = [3, 8, 5];
/** 3 of 8 channels stay. */
const DROPPED = [
  Uint8Array.of(1, 0, 1, 0, 1, 1, 0, 1),
  Uint8Array.of(1, 1, 1, 1, 1, 0, 0, 0),
  Uint8Array.of(0, 1, 0, 1, 1, 1, 1, 0),
];
const rotary: RotaryLayer = {
  headDim: D,
  rotaryDim: D,
  rotaryOffset: 0,
  pairing: "half",
  schedule: { type: "default", dim: D, theta: 100 },
};

function cacheOf(spec: Partial<KvLayerSpec> = {}, memory?: KvMemory): PositionedCache {
  return createKvCache([{ kvHeads: HK, keyDim: D, valueDim: DV, rotary, ...spec }], { ...(memory && { memory }) });
}

function add(cache: PositionedCache, count: number, salt: number): void {
  const start = cache.nextPosition;
  cache.append(0, {
    keys: values([count, HK, D], salt),
    values: values([count, HK, DV], salt + 1),
    positions: Int32Array.from({ length: count }, (_, t) => start + t),
    segments: new Int32Array(count),
  });
}

/** Some rows whose keys hold 3 channels, and some that hold all. */
function narrowed(older = 11, newer = 4, spec: Partial<KvLayerSpec> = {}, memory?: QueuedMemory): PositionedCache {
  const cache = cacheOf(spec, memory);
  add(cache, older, 1);
  memory?.flush();
  dropKeyChannels(cache, 0, DROPPED);
  if (newer > 0) add(cache, newer, 3);
  return cache;
}

/** Keys [T, Hk, D] as they were appended, those of the first rows with channels cleared. */
function wantedKeys(older: number, newer: number, dropped: readonly Uint8Array[] = DROPPED): Float32Array {
  const keys = Float32Array.from([...values([older, HK, D], 1).data, ...values([newer, HK, D], 3).data]);
  for (let n = 0; n < older * HK * D; n++) if (dropped[Math.floor(n / D) % HK][n % D]) keys[n] = 0;
  return keys;
}

const keysOf = (cache: PositionedCache): Float32Array => cache.wideViews(0)[0].keys.data as Float32Array;
const valuesOf = (cache: PositionedCache): Float32Array => cache.wideViews(0)[0].values.data as Float32Array;

async function joined(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const all: number[] = [];
  for await (const chunk of chunks) all.push(...chunk);
  return Uint8Array.from(all);
}

describe("the memory of dropped channels", () => {
  let backend: WasmBackend;
  beforeAll(async () => {
    backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 24 });
  });
  afterAll(() => backend.dispose());

  // 128 rows of 3 heads: keys of 8 and of 3 numbers, values of 5.
  it.each<[string, CacheElements, CacheLayout, before: number, after: number]>([
    ["contiguous", "f32", { type: "contiguous" }, 128 * 3 * 13 * 4, 128 * 3 * 8 * 4],
    ["paged", "f32", { type: "paged", pageSize: 16 }, 128 * 3 * 13 * 4, 128 * 3 * 8 * 4],
    ["contiguous", "int8", { type: "contiguous" }, 128 * 3 * (8 + 4 + 5 + 4), 128 * 3 * (3 + 4 + 5 + 4)],
    ["paged", "int4", { type: "paged", pageSize: 16 }, 128 * 3 * (4 + 4 + 3 + 4), 128 * 3 * (2 + 4 + 3 + 4)],
  ])("is the backend's again: %s %s", async (_, elements, layout, before, after) => {
    await backend.flush();
    const empty = await usedBytes(backend);
    const cache = cacheOf({ elements, layout }, backend);
    add(cache, 128, 1);
    expect((await usedBytes(backend)) - empty).toBe(before);
    expect(cache.bytes).toBe(before);
    dropKeyChannels(cache, 0, DROPPED);
    expect(cache.bytes).toBe(after);
    // Two integers a row, and three lists of three channels.
    expect(cache.allocatedBytes).toBe(after + 128 * 8 + 3 * 3 * 4);
    const used = (await usedBytes(backend)) - empty;
    expect(used).toBeGreaterThanOrEqual(after);
    expect(used).toBeLessThan(after + 4 * 64); // blocks are rounded up
    cache.compact(0, Int32Array.of(0, 5, 9));
    expect(cache.bytes).toBe((after / 128) * 3);
    cache.dispose();
    expect(await usedBytes(backend)).toBe(empty);
  });
});

it.each<[string, Partial<KvLayerSpec>]>([
  ["a ring", { layout: { type: "ring", window: 20 } }],
  ["fixed capacity", { capacity: 30 }],
  ["pages of fixed number", { capacity: 30, layout: { type: "paged", pageSize: 4 } }],
])("where memory is fixed, channels are cleared and it stays: %s", (_, spec) => {
  const cache = cacheOf(spec);
  add(cache, 11, 1);
  const { bytes, allocatedBytes } = cache;
  dropKeyChannels(cache, 0, DROPPED);
  expect([cache.isNarrowed(0), cache.bytes, cache.allocatedBytes]).toEqual([false, bytes, allocatedBytes]);
  add(cache, 4, 3);
  expectClose(keysOf(cache), wantedKeys(11, 4), 0);
});

it("rows appended later are of full width, and values and positions go on", () => {
  const cache = narrowed();
  expect(cache.bytes).toBe((11 * 8 + 4 * 13) * 3 * 4);
  expectClose(keysOf(cache), wantedKeys(11, 4), 0);
  const v = [...values([11, HK, DV], 2).data, ...values([4, HK, DV], 4).data];
  expect([...valuesOf(cache)]).toEqual(v);
  expect([...cache.positions(0)]).toEqual(Array.from({ length: 15 }, (_, t) => t));
  expect([cache.length(0), cache.length(0, 1), cache.nextPosition]).toEqual([15, 15, 15]);
});

it("heads that drop fewer channels set the width, the others' spare channels are 0", () => {
  const cache = cacheOf();
  add(cache, 7, 1);
  const dropped = [DROPPED[0], Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 1), DROPPED[2]];
  dropKeyChannels(cache, 0, dropped);
  expect(cache.bytes).toBe(7 * (7 + 5) * 3 * 4);
  expectClose(keysOf(cache), wantedKeys(7, 0, dropped), 0);
});

it("dropping again: what is gone stays 0, and all rows hold the channels of the last time", () => {
  const cache = narrowed();
  const others = DROPPED.map((list) => list.map((goes, d) => (d < 4 ? goes : 1 - goes)));
  dropKeyChannels(cache, 0, [DROPPED[1], DROPPED[2], DROPPED[0]]);
  expect(cache.bytes).toBe(15 * 8 * 3 * 4);
  const wanted = wantedKeys(15, 0, [DROPPED[1], DROPPED[2], DROPPED[0]]);
  wanted.set(wantedKeys(11, 4));
  for (let n = 0; n < wanted.length; n++) {
    if ([DROPPED[1], DROPPED[2], DROPPED[0]][Math.floor(n / D) % HK][n % D]) wanted[n] = 0;
  }
  expectClose(keysOf(cache), wanted, 0);
  expect(cache.allocatedBytes).toBe(cache.bytes + 15 * 8 + 3 * 3 * 4);
  dropKeyChannels(cache, 0, others);
  expect(cache.bytes).toBeLessThan(15 * 13 * 3 * 4);
});

it("no channel dropped, or none in any row, changes nothing", () => {
  const cache = cacheOf();
  dropKeyChannels(cache, 0, DROPPED);
  add(cache, 5, 1);
  dropKeyChannels(
    cache,
    0,
    DROPPED.map((list) => list.map(() => 0)),
  );
  expect([cache.isNarrowed(0), cache.bytes]).toEqual([false, 5 * 13 * 3 * 4]);
  expectClose(keysOf(cache), values([5, HK, D], 1).data as Float32Array, 0);
});

it("a fork shares older rows until some go, however much either appends", () => {
  const memory = new QueuedMemory();
  const cache = narrowed(64, 3, {}, memory);
  memory.flush();
  const fork = cache.fork();
  const older = 64 * 8 * 3 * 4;
  memory.copiedBytes = 0;
  add(fork, 1, 5);
  memory.flush();
  expect(memory.copiedBytes).toBeLessThan(older / 4); // the newer rows, and the one appended
  expect(fork.sharedBytes).toBe(older);
  fork.erase(2, 4);
  expect(fork.sharedBytes).toBe(0);
  expectClose(keysOf(cache), wantedKeys(64, 3), 0);
  cache.dispose();
  expectClose(keysOf(fork).subarray(0, 2 * HK * D), wantedKeys(2, 0), 0);
  fork.dispose();
  memory.flush();
  expect(memory.takenBytes).toBe(0);
});

it("a gap closed behind older rows leaves them narrow; one among them gives the layer its width back", () => {
  const cache = narrowed();
  cache.erase(11, 13, { closeGap: true });
  expect([cache.isNarrowed(0), cache.bytes]).toEqual([true, (11 * 8 + 2 * 13) * 3 * 4]);
  const twin = cacheOf();
  add(twin, 15, 1);
  ((twin.view(0) as KvView).keys.data as Float32Array).set(wantedKeys(11, 4));
  twin.erase(11, 13, { closeGap: true });
  for (const one of [cache, twin]) one.erase(3, 5, { closeGap: true });
  expect([cache.isNarrowed(0), cache.bytes]).toEqual([false, 11 * 13 * 3 * 4]);
  expectClose(keysOf(cache), keysOf(twin), F32_STORED);
  expect([...cache.positions(0)]).toEqual([...twin.positions(0)]);
});

it("keys that are not rotated move and stay narrow", () => {
  const cache = narrowed(11, 4, { rotary: null });
  cache.moveTo(
    0,
    Int32Array.from({ length: 15 }, (_, t) => 2 * t),
  );
  expect(cache.isNarrowed(0)).toBe(true);
  expect([...cache.positions(0)].slice(9, 13)).toEqual([18, 20, 22, 24]);
  expectClose(keysOf(cache), wantedKeys(11, 4), 0);
});

it("other frequencies give the layer its width back", () => {
  const cache = narrowed(11, 4, {
    rotary: {
      ...rotary,
      schedule: { type: "dynamic", dim: D, theta: 100, factor: 2, maxLength: 8 },
    },
  });
  cache.scheduleLength = 16;
  cache.changeFrequencies(16);
  expect(cache.isNarrowed(0)).toBe(true);
  cache.changeFrequencies(32);
  expect([cache.isNarrowed(0), cache.bytes]).toEqual([false, 15 * 13 * 3 * 4]);
});

it("rows merged into an empty layer stay narrow, and are of full width behind other rows", () => {
  const cache = narrowed();
  const copy = cacheOf({ layout: { type: "paged", pageSize: 4 } });
  copy.merge(cache);
  expect([copy.isNarrowed(0), copy.bytes]).toEqual([true, cache.bytes]);
  expectClose(keysOf(copy), wantedKeys(11, 4), 0);
  copy.merge(cache);
  expect(copy.bytes).toBe(cache.bytes + 15 * 13 * 3 * 4);
  expectClose(keysOf(copy), Float32Array.from([...wantedKeys(11, 4), ...wantedKeys(11, 4)]), 0);
});

it("heads that keep different rows each have their own channels still", () => {
  const cache = narrowed();
  cache.compact(0, [Int32Array.of(0, 12), Int32Array.of(3, 4, 5), Int32Array.of(13, 14)]);
  expect([cache.isRagged(0), cache.isNarrowed(0), cache.bytes]).toEqual([true, true, (4 * 8 + 3 * 13) * 4]);
  const all = wantedKeys(11, 4);
  const key = (slot: number, head: number): number[] => [...all.subarray((slot * HK + head) * D).subarray(0, D)];
  expect(cache.wideViews(0).map(({ keys }) => [...keys.data])).toEqual([
    [...key(0, 0), ...key(12, 0)],
    [...key(3, 1), ...key(4, 1), ...key(5, 1)],
    [...key(13, 2), ...key(14, 2)],
  ]);
  expect([...cache.positions(0, 0)]).toEqual([0, 12]);
  cache.crop(4);
  expect([0, 1, 2].map((head) => cache.length(0, head))).toEqual([1, 1, 0]);
  cache.erase(0, 4);
  expect(cache.isNarrowed(0)).toBe(false);
});

it("values are replaced in both parts", () => {
  const cache = narrowed(3, 2);
  const given = values([5, DV], 9).data as Float32Array;
  replaceValues(cache, 0, [undefined, given, undefined]);
  const [v, before] = [valuesOf(cache), valuesOf(narrowed(3, 2))];
  const wanted = before.map((old, n) =>
    Math.floor(n / DV) % HK === 1 ? given[Math.floor(n / (HK * DV)) * DV + (n % DV)] : old,
  );
  expect([...v]).toEqual([...wanted]);
});

describe("a snapshot", () => {
  it.each<[string, Partial<KvLayerSpec>]>([
    ["contiguous", {}],
    ["in pages", { layout: { type: "paged", pageSize: 4 } }],
    ["int4", { elements: "int4" }],
    ["int8 with pristine keys", { elements: "int8", pristineKeys: true }],
  ])("gives the same rows and bytes, and is of version 2 only where it must: %s", async (_, spec) => {
    const cache = narrowed(11, 4, spec);
    const bytes = await joined(saveSnapshot(cache, {}));
    expect(bytes[8]).toBe(2);
    const restored = cacheOf(spec);
    await restoreSnapshot(restored, [bytes], {});
    expect([restored.bytes, restored.nextPosition]).toEqual([cache.bytes, 15]);
    expect(keysOf(restored)).toEqual(keysOf(cache));
    expect(valuesOf(restored)).toEqual(valuesOf(cache));
    const plain = cacheOf(spec);
    add(plain, 3, 1);
    expect((await joined(saveSnapshot(plain, {})))[8]).toBe(1);
  });

  it("of ragged heads gives the same rows", async () => {
    const cache = narrowed();
    cache.compact(0, [Int32Array.of(0, 12), Int32Array.of(3, 4, 5), Int32Array.of(13, 14)]);
    const restored = cacheOf();
    await restoreSnapshot(restored, saveSnapshot(cache, {}), {});
    expect(restored.wideViews(0)).toEqual(cache.wideViews(0));
    expect(restored.bytes).toBe(cache.bytes);
  });

  it("is refused by a cache whose memory is fixed", async () => {
    const bytes = await joined(saveSnapshot(narrowed(), {}));
    const ring = cacheOf({ layout: { type: "ring", window: 40 } });
    await expect(restoreSnapshot(ring, [bytes], {}, "a.kv")).rejects.toThrow(
      'a.kv: a cache whose keys can hold some of their channels; got byteOffset=145, layer=0, layout="ring"',
    );
  });

  it("that is damaged anywhere is a FormatError", async () => {
    const bytes = await joined(saveSnapshot(narrowed(), {}));
    for (let at = 0; at < bytes.length; at += 7) {
      const damaged = bytes.slice();
      damaged[at] ^= 0x41;
      await expect(restoreSnapshot(cacheOf(), [damaged], {})).rejects.toThrow(/; got /);
    }
  });
});

describe("refusals", () => {
  it("of views that cannot show two widths say what can", () => {
    const cache = narrowed();
    expect(thrownBy(() => cache.view(0))).toBe(
      "CapabilityError: cache.view: a layer whose keys all hold all channels; got layer=0. " +
        "Use attended for a backend, or wideViews for a copy with the others as 0.",
    );
  });

  it("of lists that do not fit", () => {
    expect(thrownBy(() => dropKeyChannels(cacheOf(), 0, DROPPED.slice(1)))).toBe(
      "ShapeError: dropKeyChannels: dropped must be [3][8]; got lengths=[8,8], layer=0.",
    );
  });

  it("while a step is pending", () => {
    const cache = cacheOf({}, new QueuedMemory());
    add(cache, 3, 1);
    expect(thrownBy(() => dropKeyChannels(cache, 0, DROPPED))).toContain("everything issued must have taken effect");
  });
});
