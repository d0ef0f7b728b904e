import { expect, it } from "vitest";
import { randomLayers } from "../../test/support/observation.ts";
import { compactor } from "./compactor.ts";

const options = { sinks: 3, recent: 2, chunkTokens: 5, sketchColumns: 2 };
const [layer] = randomLayers(19, 1);

it("the weight of the leverage is the fraction removed unless told", () => {
  const half = compactor(options).score(layer, { compressionRatio: 0.5 });
  expect(compactor({ ...options, blending: 0.5 }).score(layer, { compressionRatio: 0.1 })).toEqual(half);
  expect(compactor(options).score(layer, { compressionRatio: 0.1 })).not.toEqual(half);
});

it("protected ends have the largest score of the layer, and stay", () => {
  const scores = compactor(options).score(layer, { budget: 9 });
  const top = Math.max(...scores.flatMap((row) => [...row]));
  for (const row of scores) expect([...row.slice(0, 3), ...row.slice(-2)]).toEqual(new Array(5).fill(top));
  for (const slots of compactor(options).plan([layer], { budget: 7 })[0].kept) {
    expect([...slots]).toEqual(expect.arrayContaining([0, 1, 2, 17, 18]));
    expect(slots.length).toBe(7);
  }
});

it("a prompt that is all ends scores nothing and keeps sinks, then the latest", () => {
  const [short] = randomLayers(4, 1);
  expect([...compactor(options).plan([short], { budget: 2 })[0].kept[0]]).toEqual([0, 1]);
});
