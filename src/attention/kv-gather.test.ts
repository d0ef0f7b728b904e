import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { numberToBf16, numberToF16 } from "../dtype.ts";
import { causal, lengths, sameSegment, slidingWindow } from "../mask/index.ts";
import { f32, type Tensor, tensor, zeros } from "../tensor.ts";
import { gatherKv } from "./kv-gather.ts";
import type { ContiguousKv, KeyValues, PagedKv, RingKv } from "./kv-view.ts";
import { dequantizeKv, quantizeKv } from "./quantize.ts";
import { type ReferenceOutput, referenceAttention } from "./reference.ts";
import { scoreModifier } from "./score-expression.ts";

const B = 2;
const TK = 11;
const HK = 2;
const D = 5;
const DV = 3;
const KEYS = values([B, TK, HK, D], 1);
const VALUES = values([B, TK, HK, DV], 2);
const LENGTHS = Int32Array.of(11, 7);
const POSITIONS = Int32Array.from({ length: B * TK }, (_, n) => (n % TK) + (n < TK ? 0 : 40));
const SEGMENTS = Int32Array.from({ length: B * TK }, (_, n) => Math.floor((n % TK) / 4));
const QUERIES = values([B, 3, 4, D], 3);
const QUERY_POSITIONS = Int32Array.of(3, 8, 10, 41, 44, 46);

function contiguous(): ContiguousKv {
  return {
    layout: "contiguous",
    keys: KEYS,
    values: VALUES,
    positions: POSITIONS,
    segments: SEGMENTS,
    lengths: LENGTHS,
  };
}

/** Rows of [B, Tk, Hk, W] put at `place(b, s)` of new storage full of NaN. */
function stored(
  source: Tensor<"f32">,
  shape: readonly number[],
  place: (b: number, s: number) => number,
): Tensor<"f32"> {
  const target = zeros("f32", shape);
  target.data.fill(NaN);
  const width = shape[2] * shape[3];
  for (let b = 0; b < B; b++) {
    for (let s = 0; s < LENGTHS[b]; s++) {
      const from = (b * TK + s) * width;
      target.data.set(source.data.subarray(from, from + width), place(b, s) * width);
    }
  }
  return target;
}

function ring(capacity: number, starts: Int32Array): RingKv {
  const place = (b: number, s: number): number => b * capacity + ((starts[b] + s) % capacity);
  return {
    ...contiguous(),
    layout: "ring",
    keys: stored(KEYS, [B, capacity, HK, D], place),
    values: stored(VALUES, [B, capacity, HK, DV], place),
    starts,
  };
}

/** Pages of a pool handed out in the order of `pool`. */
function paged(pageSize: number, pool: readonly number[]): PagedKv {
  const columns = Math.ceil(TK / pageSize);
  const table = new Int32Array(B * columns).fill(-1);
  let next = 0;
  for (let b = 0; b < B; b++) {
    for (let n = 0; n < Math.ceil(LENGTHS[b] / pageSize); n++) table[b * columns + n] = pool[next++];
  }
  const place = (b: number, s: number): number =>
    table[b * columns + Math.floor(s / pageSize)] * pageSize + (s % pageSize);
  return {
    ...contiguous(),
    layout: "paged",
    keys: stored(KEYS, [pool.length, pageSize, HK, D], place),
    values: stored(VALUES, [pool.length, pageSize, HK, DV], place),
    pageTable: tensor("i32", [B, columns], table),
  };
}

function attend(kv: KeyValues): ReferenceOutput {
  const querySegments = Int32Array.of(0, 2, 1, 0, 1, 1);
  const mask = causal().and(sameSegment());
  return referenceAttention({ q: QUERIES, kv, queryPositions: QUERY_POSITIONS, querySegments, mask });
}

/** The same attention over hand-cut dense keys, one batch entry after the other. */
function expected(): { out: number[]; lse: number[] } {
  const out: number[] = [];
  const lse: number[] = [];
  for (let b = 0; b < B; b++) {
    const n = LENGTHS[b];
    const cut = (t: Tensor<"f32">, width: number): Tensor<"f32"> =>
      f32([n, HK, width], t.data.slice(b * TK * HK * width, (b * TK + n) * HK * width));
    const result = referenceAttention({
      q: f32([3, 4, D], QUERIES.data.slice(b * 12 * D, (b + 1) * 12 * D)),
      k: cut(KEYS, D),
      v: cut(VALUES, DV),
      queryPositions: QUERY_POSITIONS.slice(b * 3, (b + 1) * 3),
      keyPositions: POSITIONS.slice(b * TK, b * TK + n),
      querySegments: Int32Array.of(0, 2, 1, 0, 1, 1).slice(b * 3, (b + 1) * 3),
      keySegments: SEGMENTS.slice(b * TK, b * TK + n),
      mask: causal().and(sameSegment()),
    });
    out.push(...result.out.data);
    lse.push(...result.lse.data);
  }
  return { out, lse };
}

describe("gatherKv", () => {
  it("puts pages in slot order and leaves out what does not exist", () => {
    const { k, keyPositions, keySegments, lengths } = gatherKv({
      layout: "paged",
      keys: f32([3, 2, 1, 1], [1, 2, 3, 4, 5, 6]),
      values: zeros("f32", [3, 2, 1, 1]),
      positions: Int32Array.of(10, 11, 12, 20, 21, 22),
      segments: Int32Array.of(0, 0, 0, 7, 7, 7),
      lengths: Int32Array.of(3, 1),
      pageTable: tensor("i32", [2, 2], Int32Array.of(2, 0, 2, -1)), // page 2 is shared
    });
    expect(k.shape).toEqual([2, 3, 1, 1]);
    expect(Array.from(k.data)).toEqual([5, 6, 1, 5, 0, 0]);
    expect(Array.from(keyPositions)).toEqual([10, 11, 12, 20, 0, 0]);
    expect(Array.from(keySegments)).toEqual([0, 0, 0, 7, -1, -1]);
    expect(Array.from(lengths)).toEqual([3, 1]);
  });

  it("unrolls rings from their starts", () => {
    const { k } = gatherKv({
      layout: "ring",
      keys: f32([2, 4, 1, 1], [0, 1, 2, 3, 4, 5, 6, 7]),
      values: zeros("f32", [2, 4, 1, 2]),
      positions: new Int32Array(8),
      segments: new Int32Array(8),
      starts: Int32Array.of(3, 1),
      lengths: Int32Array.of(4, 2),
    });
    expect(Array.from(k.data)).toEqual([3, 0, 1, 2, 5, 6, 0, 0]);
  });

  it("reads every element type, keys and values apart", () => {
    const numbers = [1, -2, 0.5, 3]; // exact in all of them
    const stores = [
      tensor("f64", [1, 2, 1, 2], Float64Array.from(numbers)),
      tensor("f16", [1, 2, 1, 2], Uint16Array.from(numbers, numberToF16)),
      tensor("bf16", [1, 2, 1, 2], Uint16Array.from(numbers, numberToBf16)),
      f32([1, 2, 1, 2], numbers),
    ];
    for (const keys of stores) {
      for (const side of stores) {
        const slots = { positions: new Int32Array(2), segments: new Int32Array(2) };
        const { k, v } = gatherKv({ layout: "contiguous", keys, values: side, ...slots });
        expect(Array.from(k.data)).toEqual(numbers);
        expect(Array.from(v.data)).toEqual(numbers);
        expect(k.dtype).toBe(keys.dtype === "f64" ? "f64" : "f32");
      }
    }
  });

  it("dequantises in every layout", () => {
    const view = paged(4, [3, 0, 4, 1, 2]);
    const finite = (t: PagedKv["keys"]): Tensor<"f32"> => {
      const { shape, data } = t as Tensor<"f32">;
      return f32(
        shape,
        data.map((x) => (Number.isNaN(x) ? 0 : x)),
      );
    };
    const keys = quantizeKv(finite(view.keys), { bits: 4 });
    const side = quantizeKv(finite(view.values), { bits: 8, axis: "heads_and_dkv" });
    const got = gatherKv({ ...view, keys, values: side });
    const want = gatherKv({ ...view, keys: dequantizeKv(keys), values: dequantizeKv(side) });
    expect(got).toEqual(want);
    expect(got.k.data.some((x) => x !== 0)).toBe(true);
  });

  it("reads the simple view of one sequence", () => {
    const keys = f32([2, 1, 1], [1, 2]);
    const { k, lengths } = gatherKv({
      keys,
      values: keys,
      positions: Int32Array.of(5, 6),
      segments: new Int32Array(2),
    });
    expect(k.shape).toEqual([1, 2, 1, 1]);
    expect(Array.from(lengths)).toEqual([2]);
  });
});

describe("referenceAttention over views", () => {
  it("gives what it gives over the keys that exist, whatever ragged slots hold", () => {
    const { out, lse } = attend({ ...contiguous(), keys: stored(KEYS, KEYS.shape, (b, s) => b * TK + s) });
    expect(Array.from(out.data)).toEqual(expected().out);
    expect(Array.from(lse.data)).toEqual(expected().lse);
  });

  it("does not depend on page size and page order", () => {
    const want = expected();
    const pages = fc.integer({ min: 1, max: 13 }).chain((size) => {
      const needed = Math.ceil(11 / size) + Math.ceil(7 / size);
      const ids = Array.from({ length: needed + 2 }, (_, n) => n); // two pages stay unused
      return fc.record({ size: fc.constant(size), pool: fc.shuffledSubarray(ids, { minLength: ids.length }) });
    });
    fc.assert(
      fc.property(pages, ({ size, pool }) => {
        const { out, lse } = attend(paged(size, pool));
        expect(Array.from(out.data)).toEqual(want.out);
        expect(Array.from(lse.data)).toEqual(want.lse);
      }),
      { numRuns: 50 },
    );
  });

  it("does not depend on where a ring starts", () => {
    const want = expected();
    fc.assert(
      fc.property(fc.integer({ min: 11, max: 17 }), fc.nat(10), fc.nat(10), (capacity, one, two) => {
        const { out } = attend(ring(capacity, Int32Array.of(one, two)));
        expect(Array.from(out.data)).toEqual(want.out);
      }),
      { numRuns: 50 },
    );
  });

  it("needs no query segments when the mask reads none, and still hides padding", () => {
    const kv = { ...contiguous(), segments: SEGMENTS.map((segment, n) => (n % TK === 1 ? -1 : segment)) };
    const mask = slidingWindow(6);
    const { out } = referenceAttention({ q: QUERIES, kv, queryPositions: QUERY_POSITIONS, mask });
    const keySegments = Int32Array.from({ length: B * TK }, (_, n) =>
      n % TK === 1 || n % TK >= LENGTHS[Math.floor(n / TK)] ? -1 : 0,
    );
    const want = referenceAttention({
      q: QUERIES,
      k: KEYS,
      v: VALUES,
      queryPositions: QUERY_POSITIONS,
      keyPositions: POSITIONS,
      querySegments: new Int32Array(6),
      keySegments,
      mask,
    });
    expect(out.data).toEqual(want.out.data);
  });

  it("has the lengths of the view for masks that ask for them", () => {
    const request = { q: QUERIES, kv: contiguous(), queryPositions: QUERY_POSITIONS };
    const { out } = referenceAttention({ ...request, mask: lengths() });
    expect(out.data).toEqual(referenceAttention(request).out.data);
  });

  it("takes one sequence without batch axis", () => {
    const keys = values([7, 2, 5], 4);
    const side = values([7, 2, 3], 5);
    const q = values([2, 4, 5], 6);
    const kv = {
      keys,
      values: side,
      positions: Int32Array.from({ length: 7 }, (_, n) => n),
      segments: new Int32Array(7),
    };
    const { out } = referenceAttention({ q, kv, queryPositions: Int32Array.of(5, 6), mask: causal() });
    expect(out.shape).toEqual([2, 4, 3]);
    expect(out.data).toEqual(referenceAttention({ q, k: keys, v: side, mask: causal() }).out.data);
  });

  it("refuses keys given twice, and views without query positions", () => {
    const request = { q: QUERIES, kv: contiguous(), queryPositions: QUERY_POSITIONS };
    expect(thrownBy(() => referenceAttention({ ...request, k: KEYS } as never))).toBe(
      "ConfigError: attention: kv must be given instead of k. The view has its own.",
    );
    expect(thrownBy(() => referenceAttention({ q: QUERIES, kv: contiguous() } as never))).toBe(
      "ConfigError: attention: queryPositions are required with kv. A view knows its own positions only.",
    );
    expect(thrownBy(() => referenceAttention({ ...request, mask: sameSegment() }))).toBe(
      "ConfigError: attention: querySegments and keySegments must be given together; got querySegments=false, keySegments=true. A query and a key can only be compared when both know their segment.",
    );
  });
});

it("a score modifier that reads segments needs those of the queries", () => {
  const modifiers = [
    scoreModifier(({ score, select }) => select(sameSegment(), score, score.sub(5))),
    scoreModifier(({ score, kvSegment }) => score.add(kvSegment)),
  ];
  for (const modifier of modifiers) {
    const request = { q: QUERIES, kv: contiguous(), queryPositions: QUERY_POSITIONS, scoreModifier: modifier };
    expect(thrownBy(() => referenceAttention(request))).toBe(
      "ConfigError: attention: querySegments and keySegments must be given together; got querySegments=false, keySegments=true. A query and a key can only be compared when both know their segment.",
    );
  }
});

describe("checkKeyValues", () => {
  const pages = (): PagedKv => paged(4, [3, 0, 4, 1, 2]);
  const table = (...ids: number[]): Tensor<"i32"> => tensor("i32", [2, 3], Int32Array.from(ids));

  it.each<[string, () => KeyValues, string]>([
    [
      "the layout is unknown",
      () => ({ ...contiguous(), layout: "ragged" }) as never,
      'ConfigError: gatherKv: layout must be one of contiguous, ring, paged, or absent; got layout="ragged".',
    ],
    [
      "keys are integers",
      () => ({ ...contiguous(), keys: zeros("i32", [2, 11, 2, 5]) }) as never,
      'ShapeError: gatherKv: keys must be f32, f64, f16 or bf16, in an array of that type; got dtype="i32", array="[object Int32Array]".',
    ],
    [
      "positions are a plain list",
      () => ({ ...contiguous(), positions: Array(22).fill(0) }) as never,
      "ShapeError: gatherKv: positions must be an Int32Array.",
    ],
    [
      "a page id is too large",
      () => ({ ...pages(), pageTable: table(3, 0, 5, 1, 2, -1) }),
      "ConfigError: gatherKv: page ids must be from 0 to 4, or -1; got batch=0, column=2, page=5.",
    ],
    [
      "a page id is below -1",
      () => ({ ...pages(), pageTable: table(3, 0, 4, 1, 2, -2) }),
      "ConfigError: gatherKv: page ids must be from 0 to 4, or -1; got batch=1, column=2, page=-2.",
    ],
    [
      "a used page is missing",
      () => ({ ...pages(), pageTable: table(3, 0, 4, 1, -1, -1) }),
      "ConfigError: gatherKv: every slot in use must have a page; got batch=1, column=1, slots=7.",
    ],
    [
      "the page table has another shape",
      () => ({ ...pages(), pageTable: tensor("i32", [6], new Int32Array(6)) }),
      'ShapeError: gatherKv: pageTable must be i32 [B, maxPages]; got dtype="i32", shape=[6].',
    ],
    [
      "the page table is too short",
      () => ({ ...pages(), pageTable: tensor("i32", [2, 2], new Int32Array(4)) }),
      "ShapeError: gatherKv: positions must not be longer than the page table; got Tk=11, room=8.",
    ],
    [
      "pages have no rows",
      () => ({
        ...pages(),
        keys: zeros("f32", [5, 0, 2, 5]),
        values: zeros("f32", [5, 0, 2, 3]),
        positions: new Int32Array(0),
        segments: new Int32Array(0),
        lengths: new Int32Array(2),
      }),
      "ShapeError: gatherKv: the page size must be at least 1; got rows=0.",
    ],
    [
      "a length is beyond the slots",
      () => ({ ...contiguous(), lengths: Int32Array.of(3, 12) }),
      "ConfigError: gatherKv: lengths must be from 0 to 11; got batch=1, length=12.",
    ],
    [
      "a length is negative",
      () => ({ ...contiguous(), lengths: Int32Array.of(-1, 2) }),
      "ConfigError: gatherKv: lengths must be from 0 to 11; got batch=0, length=-1.",
    ],
    [
      "lengths are for another batch",
      () => ({ ...contiguous(), lengths: Int32Array.of(1, 2, 3) }),
      "ShapeError: gatherKv: lengths must have 2 entries; got length=3.",
    ],
    [
      "a ring starts outside",
      () => ring(13, Int32Array.of(0, 13)),
      "ConfigError: gatherKv: starts must be from 0 to 12; got batch=1, start=13.",
    ],
    [
      "ring starts are for another batch",
      () => ({ ...ring(13, Int32Array.of(0, 1)), starts: Int32Array.of(1) }),
      "ShapeError: gatherKv: starts must have 2 entries; got length=1.",
    ],
    [
      "a ring is too small",
      () => ({ ...ring(11, Int32Array.of(0, 1)), positions: new Int32Array(24), segments: new Int32Array(24) }),
      "ShapeError: gatherKv: positions must not be longer than the ring; got Tk=12, capacity=11.",
    ],
    [
      "positions and segments differ",
      () => ({ ...contiguous(), segments: new Int32Array(21) }),
      "ShapeError: gatherKv: positions and segments must have the same length; got positions=22, segments=21.",
    ],
    [
      "positions do not divide by the batch",
      () => ({ ...contiguous(), positions: new Int32Array(21), segments: new Int32Array(21) }),
      "ShapeError: gatherKv: positions must be [B, Tk]; got length=21, B=2.",
    ],
    [
      "positions are not one per row",
      () => ({ ...contiguous(), positions: new Int32Array(20), segments: new Int32Array(20) }),
      "ShapeError: gatherKv: positions must have one entry per stored row; got Tk=10, rows=11.",
    ],
    [
      "keys and values differ",
      () => ({ ...contiguous(), values: zeros("f32", [2, 11, 3, 3]) }),
      "ShapeError: gatherKv: keys and values must have the same shape but for the last axis; got keys=[2,11,2,5], values=[2,11,3,3].",
    ],
    [
      "an axis is missing",
      () => ({ ...contiguous(), keys: zeros("f32", [22, 2, 5]) }),
      "ShapeError: gatherKv: keys must have 4 axes; got shape=[22,2,5].",
    ],
    [
      "data is shorter than its shape",
      () => ({ ...contiguous(), keys: { dtype: "f32", shape: [2, 11, 2, 5], data: new Float32Array(7) } }),
      "ShapeError: gatherKv: the data of keys must have the size of its shape; got length=7, shape=[2,11,2,5].",
    ],
  ])("refuses a view when %s", (_, view, message) => {
    expect(thrownBy(() => gatherKv(view()))).toBe(message);
  });
});
