import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { blankLayer, keptOf, layerOf } from "../../test/support/observation.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { lagKV } from "./lag-kv.ts";

// A sink, the partition (0, 4), (1, 2), and the one behind it with ranges [0, 2] and [0, 4].
const layer = layerOf([
  [
    [9, 9],
    [0, 4],
    [1, 2],
    [0, 0],
    [2, 4],
    [5, 5],
  ],
]);
const options = { sinks: 1, lagTokens: 2 };

describe("scores", () => {
  it("are ranks within the partition; sinks, the last partition and what is left over score 1", () => {
    // (0, 4) scales to (0, 1), which spreads; (1, 2) to (0.5, 0.5), which does not.
    expect([...lagKV(options).score(layer, { budget: 1 })[0]]).toEqual([1, 0.5, 0, 1, 1, 1]);
  });

  it("are the softmax of the spread when partitions compete", () => {
    const [scores] = lagKV({ ...options, crossScoring: true }).score(layer, { budget: 1 });
    const odds = Math.exp(Math.sqrt(0.5)); // deviation of (0, 1), over n − 1
    expectClose(scores, [1, odds / (odds + 1), 1 / (odds + 1), 1, 1, 1], F64_COMPUTED);
  });

  it("do not become NaN where a channel of the next partition stands still", () => {
    const still = layerOf([
      [
        [9, 9],
        [0, 4],
        [1, 2],
        [3, 0],
        [3, 4],
      ],
    ]);
    expect([...lagKV(options).score(still, { budget: 1 })[0]].every(Number.isFinite)).toBe(true);
  });
});

it("a prompt shorter than the sinks and two partitions keeps the latest tokens", () => {
  expect([...lagKV(options).score(blankLayer(4), { budget: 1 })[0]]).toEqual([1, 0, 1 / 3, 2 / 3]);
  expect(keptOf(lagKV(options).plan([blankLayer(4)], { budget: 3 }))).toEqual([[[0, 2, 3]]]);
});
