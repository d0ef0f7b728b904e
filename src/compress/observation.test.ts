import { expect, it } from "vitest";
import { layerOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import {
  evenLength,
  gatherObservation,
  gatherRows,
  type HeadRows,
  headMajorRows,
  observed,
  sliceObservation,
  tokenMajorRows,
} from "./observation.ts";

/** All rows as lists [heads][T][dim]. */
function lists({ data, dim, starts, stride, lengths }: HeadRows): number[][][] {
  return Array.from(starts, (start, head) =>
    Array.from({ length: lengths[head] }, (_, t) => [...data.subarray(start + t * stride, start + t * stride + dim)]),
  );
}

it("rows by head and rows by token are the same rows", () => {
  const byHead = headMajorRows(Float32Array.of(1, 2, 3, 4, 5, 6), 2, 1);
  const byToken = tokenMajorRows(Float32Array.of(1, 4, 2, 5, 3, 6), 2, 1);
  expect(lists(byHead)).toEqual([
    [[1], [2], [3]],
    [[4], [5], [6]],
  ]);
  expect(lists(byToken)).toEqual(lists(byHead));
});

it("gathered rows of ragged heads lie one head after the other", () => {
  const rows = tokenMajorRows(Float32Array.of(1, 4, 2, 5, 3, 6), 2, 1);
  const gathered = gatherRows(rows, [[0, 2], [1]]);
  expect([...gathered.data]).toEqual([1, 3, 5]);
  expect(lists(gathered)).toEqual([[[1], [3]], [[5]]]);
});

it("a gathered observation knows where its rows come from", () => {
  const seen = gatherObservation(layerOf([[[1], [2], [3]]], { positions: [Int32Array.of(4, 7, 9)] }), [[0, 2]]);
  expect(lists(seen.keys)).toEqual([[[1], [3]]]);
  expect([...seen.positions[0]]).toEqual([4, 9]);
});

it("a slice has the queries at its positions and shares memory", () => {
  const [layer] = randomLayers(11, 1);
  const slice = sliceObservation("test", layer, 3, 8);
  expect([...slice.positions[1]]).toEqual([3, 4, 5, 6, 7]);
  expect([...(slice.queries?.positions ?? [])]).toEqual([3, 4, 5, 6, 7]);
  expect(lists(slice.keys)).toEqual(lists(layer.keys).map((rows) => rows.slice(3, 8)));
  expect(lists(slice.queries?.rows as HeadRows)[5]).toEqual(lists(layer.queries?.rows as HeadRows)[5].slice(3, 8));
  expect(slice.keys.data).toBe(layer.keys.data);
});

it("a slice behind the queries has none", () => {
  const [layer] = randomLayers(11, 1);
  const early = {
    ...layer,
    queries: { ...(layer.queries as NonNullable<typeof layer.queries>), positions: new Int32Array(0) },
  };
  expect(sliceObservation("test", early, 3, 8).queries?.positions.length).toBe(0);
});

it("what does not fit is refused", () => {
  expect(thrownBy(() => headMajorRows(new Float32Array(7), 2, 3))).toBe(
    "ShapeError: headMajorRows: data must hold whole rows of heads * dim numbers; got length=7, heads=2, dim=3.",
  );
  expect(thrownBy(() => evenLength("tova", layerOf([[[1], [2]], [[3]]])))).toBe(
    "ConfigError: tova: every head must hold the same number of tokens; got lengths=[2,1]. This policy compares tokens across heads; use one that scores each head alone.",
  );
  expect(thrownBy(() => observed("snapKV", layerOf([[[1]]]), "queries"))).toBe(
    "ConfigError: snapKV: the observation must hold queries; got layer=0. See policy.needs.",
  );
});
