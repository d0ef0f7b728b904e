import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { causal, chunked } from "../mask/index.ts";
import { f32, type Tensor, tensor } from "../tensor.ts";
import { referenceAttention } from "./reference.ts";
import { selectKeys } from "./select.ts";
import { selectionTable } from "./selection.ts";
import type { DenseAttentionRequest } from "./spec.ts";

const positions = (...list: number[]): Int32Array => Int32Array.from(list);

/** One key-value head of depth 1; the query heads' queries all at one position. */
function choose(
  keys: readonly number[],
  queries: readonly number[],
  queryPosition: number,
  select: { chunk: number; topk: number },
  more: Partial<DenseAttentionRequest> = {},
): number[][] {
  const k = f32([keys.length, 1, 1], keys);
  const q = f32([1, queries.length, 1], queries);
  const request = { q, k, v: k, queryPositions: positions(queryPosition), ...more };
  const { data, shape } = selectionTable(selectKeys({ ...request, select: { kind: "moba", ...select } }));
  const width = shape.at(-1) as number;
  return queries.map((_, h) => [...data.subarray(h * width, (h + 1) * width)].flatMap((one, n) => (one ? [n] : [])));
}

describe("moba", () => {
  // Blocks of 2 with means 2, 4, 2 and 5; the last is half full.
  const keys = [1, 3, 0, 8, 2, 2, 5];

  it("takes the own block and the best earlier ones, each query head for itself, the lower of equals", () => {
    expect(choose(keys, [1, -1], 6, { chunk: 2, topk: 3 })).toEqual([
      [0, 1, 3],
      [0, 2, 3],
    ]);
    expect(choose(keys, [1, -1], 6, { chunk: 2, topk: 2 })).toEqual([
      [1, 3],
      [0, 3],
    ]);
  });

  it("never takes a later block", () => {
    expect(choose(keys, [1], 3, { chunk: 2, topk: 3 })).toEqual([[0, 1]]);
    expect(choose(keys, [1], -1, { chunk: 2, topk: 3 })).toEqual([[]]);
  });

  it("takes topk earlier blocks when the own block has no key yet", () => {
    expect(choose(keys, [1], 8, { chunk: 2, topk: 2 })).toEqual([[1, 3]]);
  });

  it("divides the mean of a block that is not full by the keys it has", () => {
    // Block 0 has position 1 only: mean 3, not 1.5; block 1 has mean 2.
    const more = { keyPositions: positions(1, 2, 3, 4) };
    expect(choose([3, 2, 2, 0], [1], 4, { chunk: 2, topk: 2 }, more)).toEqual([[0, 2]]);
  });

  it("counts neither slots beyond the length nor padding in the means", () => {
    const garbage = [1, 3, 0, 8, 99, 2, 99, 5]; // blocks 2 and 3 would have means 50.5 and 52
    expect(choose(garbage, [1], 4, { chunk: 2, topk: 2 }, { lengths: positions(4) })).toEqual([[0, 1]]);
    const more = { querySegments: positions(0), keySegments: positions(0, 0, 0, 0, -1, 0, -1, 0) };
    // Without padding: block 2 has mean 2, block 3 (own) holds 5.
    expect(choose(garbage, [1], 7, { chunk: 2, topk: 2 }, more)).toEqual([[1, 3]]);
  });

  it("counts the keys of other segments in the means", () => {
    const more = { querySegments: positions(1), keySegments: positions(0, 0, 0, 0, 0, 1, 1) };
    expect(choose(keys, [1], 6, { chunk: 2, topk: 2 }, more)).toEqual([[1, 3]]);
  });

  it("numbers the blocks of every batch entry from its first position on", () => {
    const k = f32([2, 4, 1, 1], [1, 1, 2, 2, 4, 4, 3, 3]);
    const keyPositions = positions(0, 1, 2, 3, 100, 101, 106, 107);
    const queryPositions = positions(3, 107);
    const request = { q: f32([2, 1, 1, 1], [1, 1]), k, v: k, keyPositions, queryPositions };
    const chosen = selectKeys({ ...request, select: { kind: "moba", chunk: 2, topk: 1 } });
    expect(chosen.shape).toEqual([2, 1, 1, 4]);
    expect(Array.from(selectionTable(chosen).data)).toEqual([0, 1, 0, 1]);
  });

  it("sees no later key of the own block, whatever the mask", () => {
    const q = values([5, 2, 3], 1);
    const k = values([5, 1, 3], 2);
    const select = { kind: "moba", chunk: 3, topk: 9 } as const;
    const { out } = referenceAttention({ q, k, v: k, select });
    expect(out.data).toEqual(referenceAttention({ q, k, v: k, mask: causal() }).out.data);
  });
});

/** A request over keys at increasing positions, with gaps. */
const requests = fc
  .record({
    gaps: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 17 }),
    Tq: fc.integer({ min: 1, max: 4 }),
    chunk: fc.integer({ min: 1, max: 7 }),
    topk: fc.integer({ min: 1, max: 4 }),
    salt: fc.nat(1000),
  })
  .map(({ gaps, Tq, chunk, topk, salt }) => {
    let position = -1;
    const keyPositions = Int32Array.from(gaps, (gap) => (position += gap));
    const request = {
      q: values([Tq, 4, 3], salt),
      k: values([gaps.length, 2, 3], salt + 1),
      v: values([gaps.length, 2, 5], salt + 2),
      keyPositions,
      queryPositions: Int32Array.from({ length: Tq }, (_, i) => keyPositions[(i * 5 + salt) % gaps.length]),
    };
    return { request, chunk, topk };
  });

describe("attention with moba", () => {
  it("is chunked attention when only the own block is taken", () => {
    fc.assert(
      fc.property(requests, ({ request, chunk }) => {
        const select = { kind: "moba", chunk, topk: 1 } as const;
        const want = referenceAttention({ ...request, mask: chunked(chunk) });
        const got = referenceAttention({ ...request, select });
        expect(got.out.data).toEqual(want.out.data);
        expect(got.lse.data).toEqual(want.lse.data);
      }),
      { numRuns: 50 },
    );
  });

  it("is causal attention when all blocks are taken", () => {
    fc.assert(
      fc.property(requests, ({ request, chunk }) => {
        const got = referenceAttention({ ...request, select: { kind: "moba", chunk, topk: 60 } });
        expect(got.out.data).toEqual(referenceAttention({ ...request, mask: causal() }).out.data);
      }),
      { numRuns: 50 },
    );
  });

  it("does not depend on where keys are stored, nor on padding between them", () => {
    const moved = requests.chain((one) => {
      const { length } = one.request.keyPositions;
      const places = Array.from({ length: length + 3 }, (_, n) => n); // three places hold padding
      return fc.shuffledSubarray(places, { minLength: length + 3 }).map((order) => ({ ...one, order }));
    });
    fc.assert(
      fc.property(moved, ({ request, chunk, topk, order }) => {
        const { keyPositions, q } = request;
        const place = <T extends Tensor<"f32">>({ shape, data }: T, width: number): Tensor<"f32"> =>
          f32(
            [order.length, ...shape.slice(1)],
            order.flatMap((from) =>
              from < keyPositions.length ? [...data.subarray(from * width, (from + 1) * width)] : Array(width).fill(7),
            ),
          );
        const select = { kind: "moba", chunk, topk } as const;
        const got = referenceAttention({
          ...request,
          k: place(request.k, 6),
          v: place(request.v, 10),
          keyPositions: Int32Array.from(order, (from) => keyPositions[from] ?? 0),
          querySegments: new Int32Array(q.shape[0]),
          keySegments: Int32Array.from(order, (from) => (from < keyPositions.length ? 0 : -1)),
          select,
        });
        const want = referenceAttention({ ...request, select });
        expectClose(got.out.data, want.out.data, F32_STORED); // sums in another order
        expectClose(got.lse.data, want.lse.data, F32_STORED);
      }),
      { numRuns: 100 },
    );
  });

  it("gives the same when the choice is made beforehand", () => {
    fc.assert(
      fc.property(requests, ({ request, chunk, topk }) => {
        const full = { ...request, select: { kind: "moba", chunk, topk } as const };
        const got = referenceAttention({ ...request, select: selectKeys(full) });
        expect(got.out.data).toEqual(referenceAttention(full).out.data);
      }),
      { numRuns: 30 },
    );
  });

  it("does not change with the scale or the cap, which the gate does not use", () => {
    const q = values([3, 2, 3], 4);
    const k = values([11, 1, 3], 5);
    const request = { q, k, v: k, select: { kind: "moba", chunk: 2, topk: 2 } as const };
    const plain = selectionTable(selectKeys(request)).data;
    expect(selectionTable(selectKeys({ ...request, scale: -3, softcap: 0.01 })).data).toEqual(plain);
  });
});

describe("moba options", () => {
  const k = tensor("f64", [2, 1, 1], Float64Array.of(1, 2));
  it.each([
    [{ chunk: 0, topk: 1 }, "ConfigError: moba: chunk must be a positive integer; got chunk=0."],
    [{ chunk: 2.5, topk: 1 }, "ConfigError: moba: chunk must be a positive integer; got chunk=2.5."],
    [{ chunk: 2, topk: 0 }, "ConfigError: moba: topk must be a positive integer; got topk=0."],
  ])("refuses %o", (options, message) => {
    expect(thrownBy(() => selectKeys({ q: k, k, v: k, select: { kind: "moba", ...options } }))).toBe(message);
  });
});
