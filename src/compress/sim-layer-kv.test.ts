import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, rowsFrom } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { lazyScore, simLayerKV } from "./sim-layer-kv.ts";

/** Exponentials of the last query's scores: 5, 1, 1, 2, and 1 for itself. */
const layer = layerOf([[[Math.log(5)], [0], [0], [Math.log(2)], [0]]], {
  queries: { rows: rowsFrom([[[1]]]), positions: Int32Array.of(4) },
});
const ends = { sinks: 1, recent: 2 };

it("the score is the attention on sinks and recent keys before the query", () => {
  expectClose([lazyScore(layer, ends)], [(5 + 1 + 2) / 10], F32_STORED);
});

it("a lazy layer keeps its ends, another one all", () => {
  expect(keptOf(simLayerKV({ ...ends, threshold: 0.7 }).plan([layer]))).toEqual([[[0, 4]]]); // recent − 1
  expect(keptOf(simLayerKV({ ...ends, threshold: 0.9 }).plan([layer]))).toEqual([[[0, 1, 2, 3, 4]]]);
});

it("a prompt shorter than the ends stays whole", () => {
  expect(keptOf(simLayerKV({ sinks: 2, recent: 4, threshold: 0 }).plan([layer]))).toEqual([[[0, 1, 2, 3, 4]]]);
});

it("recent tokens that do not hold the queries are refused", () => {
  expect(thrownBy(() => simLayerKV({ threshold: 0.5, recent: 3, lastQueries: 3 }))).toBe(
    "ConfigError: simLayerKV: recent must be a whole number, at least 4; got recent=3.",
  );
});
