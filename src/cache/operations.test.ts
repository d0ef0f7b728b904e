import { describe, expect, it } from "vitest";
import { QueuedMemory } from "../../test/support/queued-memory.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { gatherKv } from "../attention/index.ts";
import { f32 } from "../tensor.ts";
import { createKvCache, type KvCacheOptions, type KvLayerSpec, type PositionedCache } from "./index.ts";

const SHAPE = { kvHeads: 2, keyDim: 4, valueDim: 3 };
const ROW_BYTES = 2 * (4 + 3) * 4;

function cacheOf(spec: Partial<KvLayerSpec> = {}, options: KvCacheOptions = {}): PositionedCache {
  return createKvCache([{ ...SHAPE, rotary: null, ...spec }], options);
}

/** Appends rows at the next positions. */
function add(cache: PositionedCache, count: number, salt = 1): void {
  const start = cache.nextPosition;
  cache.append(0, {
    keys: values([count, 2, 4], salt),
    values: values([count, 2, 3], salt + 1),
    positions: Int32Array.from({ length: count }, (_, t) => start + t),
    segments: new Int32Array(count),
  });
}

const positionsOf = (cache: PositionedCache, head?: number): number[] => [...cache.positions(0, head)];

describe("fork", () => {
  it("takes no rows, and a write copies only on the side that writes", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({}, { memory });
    add(cache, 20);
    memory.flush();
    const before = memory.takenBytes;
    const fork = cache.fork();
    expect(memory.takenBytes).toBe(before);
    expect(fork.sharedBytes).toBe(20 * ROW_BYTES);
    const shared = cache.view(0).keys;
    add(fork, 1, 9);
    memory.flush();
    expect(cache.view(0).keys).toEqual(shared);
    expect(fork.sharedBytes).toBe(0);
    expect(cache.length()).toBe(20);
  });

  it("of pages shares all of them, and a write copies one page", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({ layout: { type: "paged", pageSize: 8 }, capacity: 64 }, { memory });
    add(cache, 20);
    memory.flush();
    const fork = cache.fork();
    expect(fork.sharedBytes).toBe(24 * ROW_BYTES);
    memory.copiedBytes = 0;
    add(fork, 1, 9);
    expect(memory.copiedBytes).toBe(8 * ROW_BYTES + ROW_BYTES); // the last page, and the new row
    memory.flush();
    expect(cache.sharedBytes).toBe(16 * ROW_BYTES);
  });

  it("keeps its rows when the other side is disposed of", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({}, { memory });
    add(cache, 5);
    const fork = cache.fork();
    cache.dispose();
    memory.flush();
    expect([...gatherKv(fork.view(0)).k.data]).toEqual([...values([5, 2, 4], 1).data]);
    fork.dispose();
    memory.flush();
    expect(memory.takenBytes).toBe(0);
  });
});

describe("erase", () => {
  it("leaves a gap, or closes it; the next position follows", () => {
    const [gap, closed] = [cacheOf(), cacheOf()];
    for (const cache of [gap, closed]) add(cache, 8);
    gap.erase(2, 5);
    closed.erase(2, 5, { closeGap: true });
    expect([positionsOf(gap), gap.nextPosition]).toEqual([[0, 1, 5, 6, 7], 8]);
    expect([positionsOf(closed), closed.nextPosition]).toEqual([[0, 1, 2, 3, 4], 5]);
    expect(gap.bytes).toBe(5 * ROW_BYTES);
  });

  it("of one segment leaves the others alone", () => {
    const cache = cacheOf();
    cache.append(0, {
      keys: values([6, 2, 4], 1),
      values: values([6, 2, 3], 2),
      positions: Int32Array.of(0, 1, 2, 0, 1, 2),
      segments: Int32Array.of(0, 0, 0, 1, 1, 1),
    });
    cache.erase(1, 2, { closeGap: true, segment: 1 });
    expect(positionsOf(cache)).toEqual([0, 1, 2, 0, 1]);
    expect([...cache.segments(0)]).toEqual([0, 0, 0, 1, 1]);
    expect(cache.nextPosition).toBe(3);
  });

  it("of the end closes by going back", () => {
    const cache = cacheOf();
    add(cache, 8);
    cache.erase(6, 99, { closeGap: true });
    expect(cache.nextPosition).toBe(6);
  });
});

describe("compact", () => {
  it("frees the memory of what goes, to the row", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({}, { memory });
    add(cache, 100);
    memory.flush();
    cache.compact(0, Int32Array.of(3, 50, 99));
    memory.flush();
    expect(memory.takenBytes).toBe(3 * ROW_BYTES);
    expect(cache.allocatedBytes).toBe(3 * (ROW_BYTES + 8)); // and a position and a segment
    expect(positionsOf(cache)).toEqual([3, 50, 99]);
    expect(cache.nextPosition).toBe(100);
  });

  it("frees the memory of ragged heads, to the row", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({}, { memory });
    add(cache, 100);
    memory.flush();
    cache.compact(0, [Int32Array.of(3), Int32Array.of(4, 5, 6, 7, 99)]);
    memory.flush();
    expect(memory.takenBytes).toBe(6 * (ROW_BYTES / 2));
    expect(cache.bytes).toBe(6 * (ROW_BYTES / 2));
    expect([positionsOf(cache, 0), positionsOf(cache, 1)]).toEqual([[3], [4, 5, 6, 7, 99]]);
    expect(cache.length(0)).toBe(5);
    expect(cache.length(0, 0)).toBe(1);
  });

  it("keeps the memory of a layer of fixed capacity, so that it never grows again", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({ capacity: 30 }, { memory });
    for (let round = 0; round < 5; round++) {
      add(cache, 20);
      memory.flush();
      expect(memory.takenBytes).toBe(30 * ROW_BYTES);
      cache.compact(
        0,
        Int32Array.from({ length: 10 }, (_, t) => t + cache.length() - 10),
      );
    }
    expect(thrownBy(() => add(cache, 21))).toBe(
      "BudgetError: cache.append: the rows must fit the layer's capacity; got rows=31, capacity=30. " +
        "Forget rows first (erase, compact, shiftContext), or plan a larger capacity.",
    );
    expect(cache.length()).toBe(10);
  });

  it("refuses to empty a layer, and slots that do not ascend or do not exist", () => {
    const cache = cacheOf();
    add(cache, 4);
    expect([[], [1, 1], [2, 4], [-1]].map((kept) => thrownBy(() => cache.compact(0, Int32Array.from(kept))))).toEqual([
      "ConfigError: cache.compact: at least one row must be kept; got layer=0, head=0. " +
        "Use clear to forget everything.",
      "ConfigError: cache.compact: slots must ascend from 0 to 3; got slot=1, index=1, layer=0, head=0.",
      "ConfigError: cache.compact: slots must ascend from 0 to 3; got slot=4, index=1, layer=0, head=0.",
      "ConfigError: cache.compact: slots must ascend from 0 to 3; got slot=-1, index=0, layer=0, head=0.",
    ]);
    expect(cache.length()).toBe(4);
  });
});

describe("views of ragged heads", () => {
  it("of pages are one batch entry per head", () => {
    const cache = cacheOf({ layout: { type: "paged", pageSize: 2 } });
    add(cache, 7);
    cache.compact(0, [Int32Array.of(0, 6), Int32Array.of(1, 2, 3, 4, 5)]);
    const { k, lengths, keyPositions, keySegments } = gatherKv(cache.headBatch(0));
    expect([k.shape, [...lengths]]).toEqual([
      [2, 5, 1, 4],
      [2, 5],
    ]);
    expect([...keyPositions]).toEqual([0, 6, 0, 0, 0, 1, 2, 3, 4, 5]);
    expect([...keySegments]).toEqual([0, 0, -1, -1, -1, 0, 0, 0, 0, 0]);
    const source = values([7, 2, 4], 1).data;
    const key = (slot: number, head: number): number[] => [
      ...source.slice((slot * 2 + head) * 4, (slot * 2 + head + 1) * 4),
    ];
    expect([...k.data.slice(4, 8)]).toEqual(key(6, 0));
    expect([...k.data.slice(20, 24)]).toEqual(key(1, 1));
  });

  it("are refused where they do not exist", () => {
    const cache = cacheOf();
    add(cache, 3);
    expect(thrownBy(() => cache.headViews(0))).toBe(
      "CapabilityError: cache.headViews: a layer whose heads are ragged; got layer=0. Use view.",
    );
    cache.compact(0, [Int32Array.of(0), Int32Array.of(1)]);
    expect(thrownBy(() => cache.view(0))).toBe(
      "CapabilityError: cache.view: heads that hold the same positions; got layer=0, heads=2. " +
        "Use headViews: one view per head.",
    );
    expect(thrownBy(() => cache.headBatch(0))).toBe(
      "CapabilityError: cache.headBatch: a paged layer; got layer=0. Use headViews: one view per head.",
    );
    expect(thrownBy(() => cache.positions(0))).toBe(
      "ShapeError: cache.positions: a head of the layer; got head=undefined, heads=2, layer=0.",
    );
  });
});

describe("a ring", () => {
  const RING = { layout: { type: "ring", window: 4, maxChunk: 3 } } as const;

  it("keeps window + maxChunk - 1 rows and never more memory", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf(RING, { memory });
    for (let step = 0; step < 9; step++) {
      add(cache, 1 + (step % 3));
      memory.flush();
      expect(memory.takenBytes).toBe(6 * ROW_BYTES);
    }
    expect(positionsOf(cache)).toEqual([12, 13, 14, 15, 16, 17]);
  });

  it("refuses rows that would push the window of the first of them out", () => {
    const cache = cacheOf(RING);
    add(cache, 6);
    expect(thrownBy(() => add(cache, 4))).toBe(
      "BudgetError: cache.append: a ring must keep the window of the first new row; " +
        "got rows=4, window=4, maxRows=3. Append fewer rows at a time, or make the cache with a larger maxChunk.",
    );
    expect(positionsOf(cache)).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it("goes back only as far as it has the whole window", () => {
    const cache = cacheOf(RING);
    add(cache, 6);
    add(cache, 2);
    cache.crop(6); // the next token, 6, sees 3 to 5
    expect(positionsOf(cache)).toEqual([2, 3, 4, 5]);
    expect(thrownBy(() => cache.crop(4))).toBe(
      "CapabilityError: cache.crop: a ring that still has the window before the new end; " +
        "got length=4, window=4, firstPosition=2. " +
        "Fork the cache before the rows are needed again, or use a contiguous layer.",
    );
    expect(cache.nextPosition).toBe(6);
  });
});

describe("refusals", () => {
  it("of combinations that no cache has", () => {
    const specs: Partial<KvLayerSpec>[] = [
      { layout: { type: "ring", window: 4 }, capacity: 9 },
      { layout: { type: "paged", pageSize: 6 }, elements: "int8" },
      { pristineKeys: true },
      { layout: { type: "paged", pageSize: 0 } },
      { kvHeads: 1.5 },
    ];
    expect(specs.map((spec) => thrownBy(() => cacheOf(spec)))).toEqual([
      "CapabilityError: createKvCache: a ring takes no capacity, its size is window + maxChunk - 1; " +
        "got capacity=9, layer=0. Choose maxChunk instead.",
      "CapabilityError: createKvCache: pages of quantised rows must start at whole words; " +
        "got pageSize=6, layer=0. Choose a pageSize that is a multiple of 4.",
      'CapabilityError: createKvCache: pristineKeys goes with int8 and int4; got elements="f32", layer=0. ' +
        "Moves of f32 keys are exact to about 1e-7 each.",
      "ConfigError: createKvCache: pageSize must be a positive integer; got pageSize=0, layer=0.",
      "ConfigError: createKvCache: kvHeads must be a positive integer; got kvHeads=1.5, layer=0.",
    ]);
  });

  it("of quantised rows in a memory that does not quantise", () => {
    const { allocate, copy, release } = new QueuedMemory();
    expect(thrownBy(() => cacheOf({ elements: "int8" }, { memory: { allocate, copy, release } }))).toBe(
      'CapabilityError: createKvCache: quantised rows need a memory that quantises; got elements="int8". ' +
        "Use f32 elements, or host memory.",
    );
  });

  it("of changes while a step is pending", () => {
    const memory = new QueuedMemory();
    const cache = cacheOf({}, { memory });
    add(cache, 3);
    expect(thrownBy(() => cache.erase(0, 1))).toBe(
      "ConfigError: cache.erase: everything issued must have taken effect; got pending=true. " +
        "Wait for the model's step to end, or flush the backend.",
    );
    memory.flush();
    cache.erase(0, 1);
    expect(cache.length()).toBe(2);
  });

  it("of a merge of different kinds of rows", () => {
    expect(thrownBy(() => cacheOf().merge(cacheOf({ elements: "int8" })))).toBe(
      "ConfigError: cache.merge: caches of the same layers, elements and rotations. " +
        "Make both caches with the same layers, for the same schedule length.",
    );
  });

  it("of axes that do not fit", () => {
    const cache = cacheOf({}, { axes: 2 });
    const rows = {
      keys: f32([1, 2, 4], new Array(8).fill(0)),
      values: f32([1, 2, 3], new Array(6).fill(0)),
      positions: Int32Array.of(0),
      segments: Int32Array.of(0),
    };
    expect(thrownBy(() => cache.append(0, { ...rows, axes: [Int32Array.of(0)] }))).toBe(
      "ShapeError: cache.append: axes must be 2 lists of one position per row; got lengths=[1], rows=1.",
    );
    cache.append(0, rows);
    expect(cache.axisPositions(0).map((axis) => [...axis])).toEqual([[0], [0]]);
  });
});
