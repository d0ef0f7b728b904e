import { describe, expect, test } from "vitest";
import { permutation, randomStream, truncatedNormal } from "./random-stream.ts";

describe("randomStream", () => {
  test("repeats for a seed and a purpose, and differs for others", () => {
    const first = (seed: number, purpose: string): number => randomStream(seed, purpose).next();
    expect(first(3, "epoch 1")).toBe(first(3, "epoch 1"));
    const others = [
      first(3, "epoch 1"),
      first(4, "epoch 1"),
      first(3, "epoch 2"),
      first(31, "epoch"),
      first(2 ** 53 - 1, "a"),
    ];
    expect(new Set(others).size).toBe(5);
  });

  test.each([-1, 0.5, 2 ** 53])("refuses the seed %d", (seed) => {
    expect(() => randomStream(seed, "a")).toThrow(
      `train: seed must be an integer from 0 to 2^53 - 1; got seed=${seed}.`,
    );
  });
});

test("truncated normal numbers have the moments of that distribution", () => {
  const random = randomStream(1, "numbers");
  const numbers = Float64Array.from({ length: 40_000 }, () => truncatedNormal(random, 3));
  const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
  const variance = numbers.reduce((sum, x) => sum + x * x, 0) / numbers.length;
  expect(Math.abs(mean)).toBeLessThan(0.05);
  // 1 − 2·2·φ(2)/(2Φ(2) − 1) = 0.7737 of the whole distribution's.
  expect(Math.abs(variance / 9 - 0.7737)).toBeLessThan(0.02);
  expect(numbers.reduce((max, x) => Math.max(max, Math.abs(x)), 0)).toBeLessThanOrEqual(6);
});

test("a permutation holds every number once, and every place sees every number", () => {
  const seen = Array.from({ length: 5 }, () => new Set<number>());
  for (let n = 0; n < 200; n++) {
    const order = permutation(randomStream(n, "order"), 5);
    expect([...order].sort()).toEqual([0, 1, 2, 3, 4]);
    for (const [place, number] of order.entries()) seen[place].add(number);
  }
  expect(seen.map(({ size }) => size)).toEqual([5, 5, 5, 5, 5]);
});
