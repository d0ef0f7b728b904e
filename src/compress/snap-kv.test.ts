import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { keptOf, layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { snapKV } from "./snap-kv.ts";

/** Exponentials of the scores 1, 2, 3, 1, 1 for queries of 1; the queries stand at the last two positions. */
const layer = layerOf([[[0], [Math.log(2)], [Math.log(3)], [0], [0]]], {
  queries: { rows: rowsFrom([[[1], [1]]]), positions: Int32Array.of(3, 4) },
});
const mean = (1 / 7 + 1 / 8) / 2; // the first query does not see the last key

describe("scores", () => {
  it("are the mean attention of the window, and the window scores the largest + 1", () => {
    const [scores] = snapKV({ window: 2, kernel: 1 }).score(layer, { budget: 1 });
    expectClose(scores, [mean, 2 * mean, 3 * mean, 3 * mean + 1, 3 * mean + 1], F32_STORED);
  });

  it("are pooled over neighbours before the window only, the divisor being the kernel at the ends too", () => {
    const [scores] = snapKV({ window: 2, kernel: 3 }).score(layer, { budget: 1 });
    expectClose(scores, [mean, 2 * mean, (5 / 3) * mean, 2 * mean + 1, 2 * mean + 1], F32_STORED);
  });

  it("are averaged over the query heads of a key-value head", () => {
    const two = {
      ...layer,
      heads: 2,
      queries: {
        rows: rowsFrom([
          [[1], [1]],
          [[0], [0]],
        ]),
        positions: Int32Array.of(3, 4),
      },
    };
    const [scores] = snapKV({ window: 2, kernel: 1 }).score(two, { budget: 1 });
    const flat = (1 / 4 + 1 / 5) / 2; // of the query head of zeros
    expectClose(
      scores.slice(0, 3),
      [mean, 2 * mean, 3 * mean].map((score) => (score + flat) / 2),
      F32_STORED,
    );
  });

  it("use the last queries when there are more than the window", () => {
    const more = { ...layer, queries: { rows: rowsFrom([[[9], [1], [1]]]), positions: Int32Array.of(2, 3, 4) } };
    const policy = snapKV({ window: 2, kernel: 1 });
    expect(policy.score(more, { budget: 1 })).toEqual(policy.score(layer, { budget: 1 }));
  });
});

it("the window always stays", () => {
  for (const T of [17, 23]) {
    const plans = snapKV({ window: 5 }).plan(randomLayers(T), { compressionRatio: 0.6 });
    for (const { kept } of plans) {
      for (const slots of kept) expect([...slots.slice(-5)]).toEqual([T - 5, T - 4, T - 3, T - 2, T - 1]);
    }
  }
});

it("a prompt shorter than the window keeps its latest tokens", () => {
  expect(keptOf(snapKV({ window: 8 }).plan([layer], { budget: 2 }))).toEqual([[[3, 4]]]);
});

it("an even kernel, an empty window and missing queries are refused", () => {
  expect(thrownBy(() => snapKV({ kernel: 4 }))).toBe(
    "ConfigError: snapKV: kernel must be an odd whole number; got kernel=4.",
  );
  expect(thrownBy(() => snapKV({ window: 0 }))).toBe(
    "ConfigError: snapKV: window must be a whole number, at least 1; got window=0.",
  );
  expect(thrownBy(() => snapKV().plan([layerOf([[[1]]])], { budget: 1 }))).toBe(
    "ConfigError: snapKV: the observation must hold queries; got layer=0. See policy.needs.",
  );
});
