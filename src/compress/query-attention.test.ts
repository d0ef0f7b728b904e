import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import type { HeadRows, Observation, Queries } from "./observation.ts";
import { lastQueries, visitAttention } from "./query-attention.ts";

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

it("logits that come with the observation are taken for its own last queries, and only for those", () => {
  const [layer] = randomLayers(11, 1);
  const all = layer.queries as Queries;
  const T = 11;
  const queryLogits = Array.from({ length: 6 }, () => new Float32Array(all.positions.length * T));
  const given = { ...layer, queryLogits };
  visitAttention(given, lastQueries(all, 2), (_head, i, row) => {
    const visible = all.positions.at(i - 2) as number;
    expectClose(
      row,
      Float64Array.from({ length: T }, (_, t) => (t <= visible ? 1 / (visible + 1) : 0)),
      F32_COMPUTED,
    );
  });
  const others: Queries = { ...all, rows: { ...all.rows, data: all.rows.data.slice() } };
  visitAttention(given, others, (head, i, row) => {
    expectClose(row, plain(layer, others, head, i), F32_COMPUTED);
  });
});

it("the last queries are all of them when fewer are there", () => {
  const queries = randomLayers(5, 1)[0].queries as Queries;
  expect([...lastQueries(queries, 3).positions]).toEqual([2, 3, 4]);
  expect(lastQueries(queries, Infinity)).toEqual(queries);
});
