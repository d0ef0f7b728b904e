import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { layerOf, randomLayers, rowsFrom } from "../../test/support/observation.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { dropKV } from "./drop-kv.ts";

it("a score is how far the outputs move when the token alone is left out", () => {
  const keys = [0.3, -1, 0.8, 0.1, 0.5];
  const values = [
    [1, 2],
    [-3, 0.5],
    [0, 4],
    [2, 2],
    [1, -1],
  ];
  const queries = [0.7, -1.2];
  const layer = layerOf([keys.map((k) => [k])], {
    valueLists: [values],
    queries: { rows: rowsFrom([queries.map((q) => [q])]), positions: Int32Array.of(3, 4) },
  });
  /** Attention output of a query over the visible keys but one. */
  const output = (query: number, visible: number, without: number): number[] => {
    const weights = keys.slice(0, visible).map((k, t) => (t === without ? 0 : Math.exp(query * k)));
    const total = weights.reduce((sum, w) => sum + w, 0);
    return [0, 1].map((d) => weights.reduce((sum, w, t) => sum + (w / total) * values[t][d], 0));
  };
  const expected = [0, 1, 2].map((token) =>
    queries.reduce((sum, query, i) => {
      const [before, after] = [output(query, 4 + i, -1), output(query, 4 + i, token)];
      return sum + (before[0] - after[0]) ** 2 + (before[1] - after[1]) ** 2;
    }, 0),
  );
  const [scores] = dropKV({ window: 2, kernel: 1, epsilon: 1e-15 }).score(layer, { budget: 1 });
  expectClose(scores.slice(0, 3), expected, F32_COMPUTED);
});

it("the window scores its head's largest + 1 and stays", () => {
  const layers = randomLayers(21);
  const policy = dropKV({ window: 4, kernel: 3 });
  for (const row of policy.score(layers[0], { budget: 6 }))
    expect(row[17]).toBeGreaterThan(Math.max(...row.slice(0, 17)));
  for (const { kept } of policy.plan(layers, { budget: 6 })) {
    for (const slots of kept) expect([...slots.slice(-4)]).toEqual([17, 18, 19, 20]);
  }
});
