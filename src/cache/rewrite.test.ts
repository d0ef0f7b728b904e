import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { gatherKv } from "../attention/index.ts";
import { f32 } from "../tensor.ts";
import {
  type CacheElements,
  type CacheLayout,
  clearKeyChannels,
  createKvCache,
  type PositionedCache,
  replaceValues,
} from "./index.ts";

const ROWS = 7;

/** Two heads of 6 and 3 numbers in rows that tell slot, head and dim. */
function filled(layout: CacheLayout, elements: CacheElements, pristineKeys = false): PositionedCache {
  const cache = createKvCache([{ kvHeads: 2, keyDim: 6, valueDim: 3, rotary: null, layout, elements, pristineKeys }]);
  const numbers = (dim: number): Float32Array => Float32Array.from({ length: ROWS * 2 * dim }, (_, n) => 1 + (n % 11));
  cache.append(0, {
    keys: f32([ROWS, 2, 6], numbers(6)),
    values: f32([ROWS, 2, 3], numbers(3)),
    positions: Int32Array.from({ length: ROWS }, (_, t) => t),
    segments: new Int32Array(ROWS),
  });
  return cache;
}

const KINDS: [CacheLayout["type"], CacheElements, CacheLayout][] = [
  ["contiguous", "f32", { type: "contiguous" }],
  ["ring", "int8", { type: "ring", window: 7 }],
  ["paged", "f32", { type: "paged", pageSize: 4 }],
  ["paged", "int4", { type: "paged", pageSize: 4 }],
];

it.each(KINDS)("values are replaced head by head, keys stay, a fork does not notice: %s %s", (_, elements, layout) => {
  const cache = filled(layout, elements);
  const fork = cache.fork();
  const before = gatherKv(cache.view(0));
  const first = Float32Array.from({ length: ROWS * 3 }, (_, n) => n - 10);
  replaceValues(cache, 0, [first, undefined]);
  const { k, v } = gatherKv(cache.view(0));
  expect(k.data).toEqual(before.k.data);
  const wanted = Float32Array.from(before.v.data, (old, n) =>
    n % 6 < 3 ? first[Math.floor(n / 6) * 3 + (n % 3)] : old,
  );
  expectClose(v.data, wanted, elements === "f32" ? 0 : elements === "int8" ? 0.02 : 0.2);
  expect(gatherKv(fork.view(0)).v.data).toEqual(before.v.data);
  expect(cache.bytes).toBe(fork.bytes);
});

it("of heads with rows of their own, each has its own number of values", () => {
  const cache = filled({ type: "contiguous" }, "f32");
  cache.compact(0, [Int32Array.of(0, 3), Int32Array.of(1, 2, 6)]);
  replaceValues(cache, 0, [new Float32Array(6).fill(5), new Float32Array(9).fill(6)]);
  expect(cache.headViews(0).map((view) => [...gatherKv(view).v.data])).toEqual([
    new Array(6).fill(5),
    new Array(9).fill(6),
  ]);
  expect(() => replaceValues(cache, 0, [new Float32Array(6), new Float32Array(8)])).toThrow(
    "replaceValues: values of head 1 must have 9 numbers; got length=8, layer=0.",
  );
});

it.each(KINDS)("key channels are cleared, values and other channels stay: %s %s", (_, elements, layout) => {
  const cache = filled(layout, elements, elements !== "f32");
  const before = gatherKv(cache.view(0));
  clearKeyChannels(cache, 0, [Uint8Array.of(1, 0, 0, 0, 0, 1), Uint8Array.of(0, 0, 1, 0, 0, 0)]);
  const { k, v } = gatherKv(cache.view(0));
  const goes = (n: number): boolean => [0, 5, 8].includes(n % 12);
  expectClose(
    k.data,
    Float32Array.from(before.k.data, (old, n) => (goes(n) ? 0 : old)),
    elements === "f32" ? 0 : 0.15,
  );
  expect(v.data).toEqual(before.v.data);
});
