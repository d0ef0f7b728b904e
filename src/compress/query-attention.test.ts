import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F32_COMPUTED, F64_COMPUTED } from "../../test/support/tolerances.ts";
import type { HeadRows, Observation, Queries } from "./observation.ts";
import { attentionMassOf, attentionSums, lastQueries, visitAttention } from "./query-attention.ts";

/** Attention by its definition. */
function plain(
  { keys, positions, scale }: Observation,
  { rows, positions: at }: Queries,
  head: number,
  i: number,
): number[] {
  const kvHead = Math.floor((head * keys.starts.length) / rows.starts.length);
  const numbers = (from: HeadRows, h: number, t: number): number[] =>
    Array.from(from.data.subarray(from.starts[h] + t * from.stride, from.starts[h] + t * from.stride + from.dim));
  const query = numbers(rows, head, i);
  const weights = Array.from(positions[kvHead], (p, t) =>
    p <= at[i] ? Math.exp(scale * numbers(keys, kvHead, t).reduce((sum, k, d) => sum + k * query[d], 0)) : 0,
  );
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

it.each([1, 3, 4, 7, 11])("every row of %i queries is softmax attention on the keys at earlier positions", (count) => {
  const [layer] = randomLayers(11, 1);
  const queries = lastQueries(layer.queries as Queries, count);
  const seen: string[] = [];
  visitAttention(layer, queries, (head, i, row) => {
    seen.push(`${head}:${i}`);
    expectClose(row, plain(layer, queries, head, i), F32_COMPUTED);
  });
  expect(new Set(seen).size).toBe(6 * count);
});

it("positions decide what is visible, not slots; heads may be ragged; a query before all keys sees nothing", () => {
  const layer: Observation = {
    ...{ layer: 0, layers: 1, heads: 2, scale: 1, rotary: null, nextPosition: 9 },
    keys: rowsFrom([[[0], [0], [0]], [[0]]]),
    values: rowsFrom([[[0], [0], [0]], [[0]]]),
    positions: [Int32Array.of(2, 5, 8), Int32Array.of(7)],
  };
  const rows: number[][] = [];
  const queries = {
    rows: rowsFrom([
      [[1], [1]],
      [[1], [1]],
    ]),
    positions: Int32Array.of(5, 7),
  };
  visitAttention(layer, queries, (_head, _query, row) => rows.push([...row]));
  expect(rows).toEqual([[0.5, 0.5, 0], [0.5, 0.5, 0], [0], [1]]);
});

it("a sliding window hides what lies before it", () => {
  const [layer] = randomLayers(11, 1);
  const queries = lastQueries(layer.queries as Queries, 3);
  visitAttention({ ...layer, slidingWindow: 4 }, queries, (_head, i, row) => {
    const seen = Array.from(row.keys()).filter((t) => row[t] > 0);
    expect(seen).toEqual([0, 1, 2, 3].map((n) => queries.positions[i] - 3 + n));
    expect(row.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 9);
  });
});

it("sums are those of the rows, each times its weight", () => {
  const [layer] = randomLayers(11, 1);
  const queries = lastQueries(layer.queries as Queries, 5);
  for (const weights of ["equal", "slots"] as const) {
    const want = Array.from({ length: 6 }, () => new Float64Array(11));
    visitAttention(layer, queries, (head, i, row) => {
      for (const [t, p] of row.entries()) want[head][t] += (weights === "equal" ? 1 : 6 + i) * p;
    });
    for (const [head, sums] of attentionSums(layer, queries, weights).entries()) {
      expectClose(sums, want[head], F64_COMPUTED);
    }
  }
});

it("sums that come with the observation are taken for just the queries and weights they are of", () => {
  const [layer] = randomLayers(11, 1);
  const all = layer.queries as Queries;
  const sums = Array.from({ length: 6 }, () => new Float64Array(11).fill(7));
  const given = { ...layer, querySums: { queries: 2, weights: "equal", sums } as const };
  expect(attentionSums(given, lastQueries(all, 2), "equal")).toBe(sums);
  expect(attentionSums(given, lastQueries(all, 2), "slots")).not.toBe(sums);
  expect(attentionSums(given, lastQueries(all, 3), "equal")).not.toBe(sums);
  const earlier: Queries = { ...lastQueries(all, 3), positions: all.positions.subarray(8, 10) };
  expect(attentionSums(given, earlier, "equal")).not.toBe(sums);
  const others: Queries = { ...all, rows: { ...all.rows, data: all.rows.data.slice() } };
  expect(attentionSums(given, lastQueries(others, 2), "equal")).not.toBe(sums);
});

it("counts say how many queries see a slot", () => {
  const [layer] = randomLayers(11, 1);
  const queries = lastQueries(layer.queries as Queries, 4); // at 7, 8, 9, 10
  expect([...attentionMassOf(layer, queries).counts[1]]).toEqual([4, 4, 4, 4, 4, 4, 4, 4, 3, 2, 1]);
  const { counts } = attentionMassOf({ ...layer, slidingWindow: 3 }, queries);
  expect([...counts[0]]).toEqual([0, 0, 0, 0, 0, 1, 2, 3, 3, 2, 1]);
});

it("the last queries are all of them when fewer are there", () => {
  const queries = randomLayers(5, 1)[0].queries as Queries;
  expect([...lastQueries(queries, 3).positions]).toEqual([2, 3, 4]);
  expect(lastQueries(queries, Infinity)).toEqual(queries);
});
