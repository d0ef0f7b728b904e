import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { gatherKv } from "../attention/index.ts";
import { type RopeSchedule, type RotaryLayer, rotaryTable, rotate } from "../rope/index.ts";
import { f32 } from "../tensor.ts";
import { createKvCache, type KvLayerSpec, type PositionedCache, shiftContext } from "./index.ts";

const [HEADS, DIM, VALUE_DIM] = [2, 12, 3];
const DEFAULT: RopeSchedule = { type: "default", dim: 12, theta: 10000 };
const YARN: RopeSchedule = { type: "yarn", dim: 8, theta: 10000, factor: 8, originalLength: 64 };
const LONGROPE: RopeSchedule = {
  type: "longrope",
  dim: 8,
  theta: 10000,
  shortFactors: [1, 1, 1, 1],
  longFactors: [1, 2, 5, 11],
  originalLength: 50,
  factor: 4,
  shortMscale: 1,
  longMscale: 1.5,
};
const DYNAMIC: RopeSchedule = { type: "dynamic", dim: 8, theta: 10000, factor: 3, maxLength: 40 };

function layerOf(schedule: RopeSchedule, more: Partial<RotaryLayer> = {}): RotaryLayer {
  return { headDim: DIM, rotaryDim: schedule.dim, rotaryOffset: 0, pairing: "half", schedule, ...more };
}
const ROTATIONS: Record<string, RotaryLayer> = {
  "halves, the whole head": layerOf(DEFAULT),
  "neighbours, the whole head": layerOf(DEFAULT, { pairing: "interleaved" }),
  "halves, the first dims, with an attention factor": layerOf(YARN),
  "neighbours, the last dims, with an attention factor": layerOf(YARN, { pairing: "interleaved", rotaryOffset: 4 }),
};

/** Unrotated keys of T tokens. */
const plainKeys = (tokens: number): Float32Array => values([tokens, HEADS, DIM], 7).data;

type Given = Partial<KvLayerSpec> & { axes?: readonly Int32Array[]; length?: number };

/** A cache of one layer whose keys were rotated at the positions. */
function filled(rotary: RotaryLayer | null, positions: Int32Array, given: Given = {}): PositionedCache {
  const { axes, length, ...spec } = given;
  const layer = { kvHeads: HEADS, keyDim: DIM, valueDim: VALUE_DIM, rotary, ...spec };
  const cache = createKvCache([layer], { axes: axes?.length ?? 0 });
  const shape = [positions.length, HEADS, DIM];
  cache.append(0, {
    keys: f32(shape, fresh(rotary, axes ?? positions, length)),
    values: values([positions.length, HEADS, VALUE_DIM], 8),
    positions,
    segments: new Int32Array(positions.length),
    ...(axes && { axes }),
  });
  cache.scheduleLength = length ?? 0;
  return cache;
}

/** The keys as a fresh rotation would give them. */
function fresh(
  rotary: RotaryLayer | null,
  positions: Int32Array | readonly Int32Array[],
  length?: number,
): Float32Array {
  const tokens = positions instanceof Int32Array ? positions.length : positions[0].length;
  if (rotary === null) return plainKeys(tokens);
  const table = rotaryTable(rotary, positions, length === undefined ? {} : { length });
  return rotate(plainKeys(tokens), table, { heads: HEADS, headDim: DIM });
}

const keysOf = (cache: PositionedCache): Float32Array => gatherKv(cache.view(0)).k.data as Float32Array;
const largestError = (got: Float32Array, want: Float32Array): number =>
  want.reduce((largest, x, i) => Math.max(largest, Math.abs(x - got[i])), 0);
const range = (count: number, step = 1): Int32Array => Int32Array.from({ length: count }, (_, t) => step * t);

describe("moveTo", () => {
  it.each(Object.keys(ROTATIONS))("%s: moved keys equal keys rotated at the new positions", (name) => {
    const cache = filled(ROTATIONS[name], range(11, 13));
    cache.moveTo(0, range(11));
    expectClose(keysOf(cache), fresh(ROTATIONS[name], range(11)), F32_COMPUTED);
    expect([...cache.positions(0)]).toEqual([...range(11)]);
    expect(cache.nextPosition).toBe(11);
  });

  it.each(Object.keys(ROTATIONS))("%s: a thousand moves leave an error below 1e-5", (name) => {
    const cache = filled(ROTATIONS[name], range(7, 13));
    const long = range(7, 13).map((p) => p + 1000);
    // Keys that go down one position at a time, the longest way a context shift has.
    for (let move = 999; move >= 0; move--)
      cache.moveTo(
        0,
        long.map((p) => p - 1000 + move),
      );
    expect(largestError(keysOf(cache), fresh(ROTATIONS[name], range(7, 13)))).toBeLessThan(1e-5);
  });

  it("values and keys that stay are not touched", () => {
    const cache = filled(layerOf(DEFAULT), range(5, 3), { elements: "int4" });
    const before = gatherKv(cache.view(0));
    cache.moveTo(0, Int32Array.of(0, 3, 6, 8, 9));
    const after = gatherKv(cache.view(0));
    expect(after.v.data).toEqual(before.v.data);
    expect(after.k.data.subarray(0, 3 * HEADS * DIM)).toEqual(before.k.data.subarray(0, 3 * HEADS * DIM));
  });

  it("each axis of M-RoPE turns its own pairs", () => {
    const rotary = layerOf(DEFAULT, { pairAxes: [0, 1, 2, 0, 1, 2] });
    const axes = [Int32Array.of(0, 1, 1, 5), Int32Array.of(0, 1, 2, 5), Int32Array.of(0, 2, 1, 5)];
    const cache = filled(rotary, range(4), { axes });
    expect(cache.nextPosition).toBe(6);
    const moved = [Int32Array.of(3, 0, 1, 2), Int32Array.of(3, 1, 2, 4), Int32Array.of(3, 9, 1, 0)];
    cache.moveTo(0, { positions: range(4), axes: moved });
    expectClose(keysOf(cache), fresh(rotary, moved), F32_COMPUTED);
    expect(cache.axisPositions(0).map((axis) => [...axis])).toEqual(moved.map((axis) => [...axis]));
    cache.moveTo(
      0,
      range(4).map((p) => p + 20),
    ); // all axes go along
    expectClose(
      keysOf(cache),
      fresh(
        rotary,
        moved.map((axis) => axis.map((p) => p + 20)),
      ),
      F32_COMPUTED,
    );
  });

  it("heads of a ragged layer move each to its own positions", () => {
    const rotary = layerOf(YARN);
    const cache = filled(rotary, range(9));
    const kept = [Int32Array.of(0, 4, 8), Int32Array.of(1, 2, 3, 5, 7)];
    cache.compact(0, kept);
    cache.moveTo(0, { perHead: [Int32Array.of(2, 3, 4), Int32Array.of(0, 1, 2, 3, 4)] });
    const [first, second] = cache.headViews(0).map((view) => gatherKv(view));
    const wanted = (head: number, slots: Int32Array, positions: number[]): number[] =>
      [...slots].flatMap((slot, at) => {
        const rotated = fresh(rotary, range(9).fill(positions[at]));
        return [...rotated.subarray((slot * HEADS + head) * DIM, (slot * HEADS + head + 1) * DIM)];
      });
    expectClose(first.k.data, wanted(0, kept[0], [2, 3, 4]), F32_COMPUTED);
    expectClose(second.k.data, wanted(1, kept[1], [0, 1, 2, 3, 4]), F32_COMPUTED);
    expect([...first.keyPositions]).toEqual([2, 3, 4]);
    expect(cache.nextPosition).toBe(5);
  });

  it("a layer without rotation changes positions only", () => {
    const cache = filled(null, range(6, 2));
    cache.moveTo(0, range(6));
    expect(keysOf(cache)).toEqual(plainKeys(6));
    expect([...cache.positions(0)]).toEqual([...range(6)]);
  });

  it("a layer whose rotation is not known is refused, and nothing changes", () => {
    const cache = createKvCache([{ kvHeads: HEADS, keyDim: DIM, valueDim: VALUE_DIM }]);
    expect(() => cache.moveTo(0, range(0))).toThrow(
      "cache.moveTo: the rotation of a layer must be known to move its rows; got layer=0. " +
        "Give the layer's rotary when the cache is made; null where keys are not rotated.",
    );
  });
});

describe("quantised keys that move again and again", () => {
  /** The largest error of a number after so many moves; numbers are below √2. */
  function driftAfter(moves: number, spec: Partial<KvLayerSpec>): number {
    const start = range(31, 5);
    const cache = filled(layerOf(DEFAULT), start, spec);
    for (let move = 1; move <= moves; move++)
      cache.moveTo(
        0,
        start.map((p) => p + ((move * 37) % 101) + 1),
      );
    cache.moveTo(0, range(31, 3));
    return largestError(keysOf(cache), fresh(layerOf(DEFAULT), range(31, 3)));
  }

  it.each([
    ["int8", 1, 0.015],
    ["int8", 10, 0.04],
    ["int8", 100, 0.11],
    ["int4", 1, 0.22],
    ["int4", 10, 0.7],
  ] as const)("%s after %i moves is off by less than %f", (elements, moves, bound) => {
    expect(driftAfter(moves, { elements })).toBeLessThan(bound);
  });

  it.each([
    ["int8", 0.012],
    ["int4", 0.18],
  ] as const)("%s with pristine keys is off by less than %f however often keys move", (elements, bound) => {
    for (const moves of [1, 30, 300]) {
      expect(driftAfter(moves, { elements, pristineKeys: true })).toBeLessThan(bound);
    }
  });

  it("keys keep their length", () => {
    const cache = filled(layerOf(DEFAULT), range(5, 3), { elements: "int4" });
    const lengths = (): number[] =>
      Array.from({ length: 5 * HEADS }, (_, unit) =>
        Math.hypot(...keysOf(cache).subarray(unit * DIM, (unit + 1) * DIM)),
      );
    const before = lengths();
    for (let move = 0; move < 300; move++)
      cache.moveTo(
        0,
        range(5, 3).map((p) => p + ((move * 37) % 101) + 1),
      );
    expectClose(lengths(), before, 1e-4);
  });
});

describe("shiftContext", () => {
  it("goes on for ever in constant bytes, with sinks first and keys as freshly rotated", () => {
    const rotary = layerOf(YARN);
    const cache = filled(rotary, range(20), { capacity: 20 });
    const [bytes, allocated] = [cache.bytes, cache.allocatedBytes];
    const one = values([1, HEADS, DIM], 3);
    for (let token = 20; token < 400; token++) {
      shiftContext(cache, { sinks: 4, drop: 1 });
      const position = cache.nextPosition;
      cache.append(0, {
        keys: f32(one.shape, rotate(one.data, rotaryTable(rotary, [position]), { heads: HEADS, headDim: DIM })),
        values: f32([1, HEADS, VALUE_DIM], new Array(HEADS * VALUE_DIM).fill(token)),
        positions: Int32Array.of(position),
        segments: Int32Array.of(0),
      });
    }
    expect([...cache.positions(0)]).toEqual([...range(20)]);
    expect([cache.bytes, cache.allocatedBytes]).toEqual([bytes, allocated]);
    const { k, v } = gatherKv(cache.view(0));
    expectClose(k.data.subarray(0, 4 * HEADS * DIM), fresh(rotary, range(4)), 0);
    for (let slot = 4; slot < 20; slot++) {
      const key = rotate(one.data, rotaryTable(rotary, [slot]), { heads: HEADS, headDim: DIM });
      expectClose(k.data.subarray(slot * HEADS * DIM, (slot + 1) * HEADS * DIM), key, F32_COMPUTED);
      expect(v.data[slot * HEADS * VALUE_DIM]).toBe(380 + slot);
    }
  });

  it("more positions than the cache has are refused", () => {
    expect(() => shiftContext(filled(null, range(5)), { sinks: 4, drop: 2 })).toThrow(
      "shiftContext: sinks and drop must be counts of positions that the cache has; " +
        "got sinks=4, drop=2, nextPosition=5.",
    );
  });
});

describe("changeFrequencies", () => {
  it.each([
    ["LongRoPE, attention factor included", LONGROPE],
    ["dynamic NTK", DYNAMIC],
  ])("%s: keys equal keys rotated with the frequencies of the new length", (_, schedule) => {
    const rotary = layerOf(schedule);
    const cache = filled(rotary, range(37), { length: 37 });
    cache.changeFrequencies(90);
    expectClose(keysOf(cache), fresh(rotary, range(37), 90), F32_COMPUTED);
    cache.moveTo(0, range(37, 2));
    expectClose(keysOf(cache), fresh(rotary, range(37, 2), 90), F32_COMPUTED);
    expect(cache.scheduleLength).toBe(90);
  });

  it("keys of an unknown length are refused", () => {
    const cache = filled(layerOf(DYNAMIC), range(5));
    const refusal =
      "scheduleLength must be set for a schedule that depends on the length; got scheduleLength=0. " +
      "Set it to the length that the stored keys were rotated for.";
    expect(() => cache.changeFrequencies(90)).toThrow(`cache.changeFrequencies: ${refusal}`);
    expect(() => cache.moveTo(0, range(5, 2))).toThrow(`cache.moveTo: ${refusal}`);
  });
});
