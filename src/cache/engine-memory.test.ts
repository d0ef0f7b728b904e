import { afterAll, beforeAll, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { usedBytes } from "../../test/support/used-bytes.ts";
import { values } from "../../test/support/values.ts";
import { gatherKv } from "../attention/index.ts";
import { createWasmBackend, type WasmBackend } from "../engine/wasm/backend.ts";
import type { RotaryLayer } from "../rope/index.ts";
import { type CacheElements, type CacheLayout, createKvCache, type KvMemory, type PositionedCache } from "./index.ts";

const rotary: RotaryLayer = {
  headDim: 6,
  rotaryDim: 4,
  rotaryOffset: 2,
  pairing: "half",
  schedule: { type: "default", dim: 4, theta: 100 },
};

let backend: WasmBackend;
beforeAll(async () => {
  backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 24 });
});
afterAll(() => backend.dispose());

function add(cache: PositionedCache, count: number, salt: number): void {
  const start = cache.nextPosition;
  cache.append(0, {
    keys: values([count, 2, 6], salt),
    values: values([count, 2, 3], salt + 1),
    positions: Int32Array.from({ length: count }, (_, t) => start + t),
    segments: new Int32Array(count),
  });
}

/** Every kind of operation; the steps in between are issued and flushed. */
async function history(
  memory: KvMemory | undefined,
  layout: CacheLayout,
  elements: CacheElements,
): Promise<PositionedCache[]> {
  const flush = async (): Promise<void> => {
    if (memory) await backend.flush();
  };
  const layer = { kvHeads: 2, keyDim: 6, valueDim: 3, rotary, layout, elements };
  const cache = createKvCache([layer], { ...(memory && { memory }) });
  add(cache, 9, 1);
  add(cache, 8, 2); // grows
  const fork = cache.fork();
  add(fork, 3, 3); // copies, in the same step
  await flush();
  cache.erase(4, 7, { closeGap: true });
  fork.compact(0, [Int32Array.of(0, 5, 12, 19), Int32Array.of(7, 8)]);
  fork.moveTo(0, { perHead: [Int32Array.of(0, 1, 2, 3), Int32Array.of(2, 3)] });
  add(cache, 2, 4);
  add(fork, 5, 5);
  await flush();
  cache.merge(fork);
  fork.crop(6);
  await flush();
  return [cache, fork];
}

const LAYOUTS: readonly CacheLayout[] = [
  { type: "contiguous" },
  { type: "paged", pageSize: 4 },
  { type: "ring", window: 20, maxChunk: 12 },
];

it.each(
  LAYOUTS.flatMap((layout) =>
    (["f32", "int8", "int4"] as const).map((elements) => [layout.type, elements, layout] as const),
  ),
)("a cache in the engine's memory equals one on the heap: %s %s", async (_, elements, layout) => {
  const before = await usedBytes(backend);
  const got = await history(backend, layout, elements);
  const want = await history(undefined, layout, elements);
  for (const [n, cache] of got.entries()) {
    expect(cache.bytes).toBe(want[n].bytes);
    expect(cache.nextPosition).toBe(want[n].nextPosition);
    for (const [head, view] of cache.headViews(0).entries()) {
      const [a, b] = [view, want[n].headViews(0)[head]].map((one) => gatherKv(one));
      expectClose(a.k.data, b.k.data, 0);
      expectClose(a.v.data, b.v.data, 0);
      expect(a.keyPositions).toEqual(b.keyPositions);
    }
    cache.dispose();
  }
  expect(await usedBytes(backend)).toBe(before);
});
