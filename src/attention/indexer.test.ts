import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { causal, full, sameSegment, table, variable } from "../mask/index.ts";
import { f32, type Tensor } from "../tensor.ts";
import { type IndexerSelect, indexerScores } from "./indexer.ts";
import { referenceAttention } from "./reference.ts";
import { selectKeys } from "./select.ts";
import { selectionTable } from "./selection.ts";

/** Two indexer heads of depth 1; scores of the keys 2·relu(k)·1 + relu(−k)·0.5, halved. */
function indexer(keys: readonly number[], Tq: number, topk: number): IndexerSelect {
  return {
    kind: "indexer",
    queries: f32([Tq, 2, 1], Array.from({ length: Tq }, () => [2, -1]).flat()),
    keys: f32([keys.length, 1], keys),
    weights: f32([Tq, 2], Array.from({ length: Tq }, () => [1, 0.5]).flat()),
    weightScale: 0.5,
    topk,
  };
}

const dense = (Tq: number, Tk: number): { q: Tensor<"f32">; k: Tensor<"f32">; v: Tensor<"f32"> } => ({
  q: values([Tq, 2, 3], 1),
  k: values([Tk, 1, 3], 2),
  v: values([Tk, 1, 2], 3),
});

function kept(keys: readonly number[], Tq: number, topk: number, mask = full()): number[][] {
  const { data } = selectionTable(selectKeys({ ...dense(Tq, keys.length), mask, select: indexer(keys, Tq, topk) }));
  return Array.from({ length: Tq }, (_, i) => keys.flatMap((_, j) => (data[i * keys.length + j] === 1 ? [j] : [])));
}

describe("indexer", () => {
  it("scores by weighted relu of all heads", () => {
    expect(Array.from(indexerScores(indexer([1, -3, 0, 2], 1, 2)).data)).toEqual([1, 0.75, 0, 2]);
  });

  it("keeps the keys of the highest scores, the lower slot of equals", () => {
    expect(kept([1, -3, 0, 2], 1, 2)).toEqual([[0, 3]]);
    expect(kept([0, 1, 1, 1, 0], 1, 2)).toEqual([[1, 2]]);
    expect(kept([0, 0, 1, 0], 1, 3)).toEqual([[0, 1, 2]]);
  });

  it("looks at visible keys only, and keeps them all when there are no more than topk", () => {
    expect(kept([9, 1, 3, 2], 4, 2, causal())).toEqual([[0], [0, 1], [0, 2], [0, 2]]);
  });

  it("keeps nothing for a query that sees nothing", () => {
    const select = indexer([1, 2, 3], 2, 1);
    const segments = { querySegments: Int32Array.of(4, -1), keySegments: Int32Array.of(4, 4, 5) };
    const { rowPointers, columns } = selectKeys({ ...dense(2, 3), ...segments, mask: sameSegment(), select });
    expect(Array.from(rowPointers)).toEqual([0, 1, 1]);
    expect(Array.from(columns)).toEqual([1]);
  });

  it("equals attention under the table of the best visible keys, worked pair by pair", () => {
    const sizes = fc.record({
      Tq: fc.integer({ min: 1, max: 5 }),
      Tk: fc.integer({ min: 1, max: 13 }),
      topk: fc.integer({ min: 1, max: 6 }),
    });
    fc.assert(
      fc.property(sizes, fc.nat(1000), ({ Tq, Tk, topk }, salt) => {
        const select: IndexerSelect = {
          kind: "indexer",
          queries: values([Tq, 3, 2], salt),
          keys: values([Tk, 2], salt + 1),
          weights: values([Tq, 3], salt + 2),
          topk,
        };
        const scores = indexerScores(select).data;
        const keep = new Uint8Array(Tq * Tk);
        for (let i = 0; i < Tq; i++) {
          const visible = Array.from({ length: Tk }, (_, j) => j).filter((j) => j <= Tk - Tq + i);
          visible.sort((a, b) => scores[i * Tk + b] - scores[i * Tk + a] || a - b);
          for (const j of visible.slice(0, topk)) keep[i * Tk + j] = 1;
        }
        const request = { ...dense(Tq, Tk), mask: causal() };
        expect(selectionTable(selectKeys({ ...request, select })).data).toEqual(keep);
        const want = referenceAttention({ ...request, mask: table("keep"), tables: { keep } });
        expect(referenceAttention({ ...request, select }).out.data).toEqual(want.out.data);
      }),
      { numRuns: 100 },
    );
  });

  it.each<[string, Partial<IndexerSelect>, string]>([
    ["topk is 0", { topk: 0 }, "ConfigError: indexer: topk must be a positive integer; got topk=0."],
    [
      "the weight scale is not finite",
      { weightScale: NaN },
      "ConfigError: indexer: weightScale must be a finite number; got weightScale=NaN.",
    ],
    [
      "weights have another number of heads",
      { weights: f32([2, 1], [1, 1]) },
      "ShapeError: indexer: queries, keys and weights must have the same batch, heads and depth; got queries=[2,2,1], keys=[3,1], weights=[2,1].",
    ],
    [
      "keys have a batch axis and queries have none",
      { keys: f32([1, 3, 1], [1, 2, 3]) },
      "ShapeError: indexer: queries must be [B, Tq, Hi, Di], keys [B, Tk, Di] and weights [B, Tq, Hi]; got queries=[2,2,1], keys=[1,3,1], weights=[2,2]. Add or drop the batch axis of all three.",
    ],
    [
      "there are other keys than attention has",
      { keys: f32([4, 1], [1, 2, 3, 4]) },
      "ShapeError: indexer: queries and keys must be for B=1, Tq=2, Tk=3; got queries=[2,2,1], keys=[4,1].",
    ],
  ])("refuses inputs when %s", (_, change, message) => {
    const select = { ...indexer([1, 2, 3], 2, 1), ...change };
    expect(thrownBy(() => selectKeys({ ...dense(2, 3), select }))).toBe(message);
  });

  it("refuses a mask that differs between heads", () => {
    const mask = variable("head").eq(0);
    expect(thrownBy(() => selectKeys({ ...dense(2, 3), mask, select: indexer([1, 2, 3], 2, 1) }))).toMatch(
      /^ConfigError: indexer: the mask must be the same for all heads; got mask=".*"\. The indexer keeps one list of keys for all heads\.$/,
    );
  });
});
