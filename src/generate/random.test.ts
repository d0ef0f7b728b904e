import { describe, expect, test } from "vitest";
import { ConfigError } from "../errors.ts";
import { createRandom, createXoshiro, randomSeed } from "./random.ts";

describe("createXoshiro", () => {
  test("from state 1, 2, 3, 4 gives the outputs of the reference implementation", () => {
    // xoshiro128starstar.c v1.1, as listed in the tests of the Rust crate rand_xoshiro.
    const random = createXoshiro(Uint32Array.of(1, 2, 3, 4));
    expect(Array.from({ length: 10 }, () => random.nextUint32())).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
  });
});

describe("createRandom", () => {
  // Computed with an independent Python program (splitmix64 of the seed, then xoshiro128**).
  test.each([
    [0, [3737715805, 2584255861, 2876756834, 3286328325, 1553311962, 1625202774]],
    [42, [1776835114, 4165204688, 17111135, 2317295270, 2792088233, 2554630222]],
    [2 ** 53 - 1, [1233166643, 1287031142, 661813442, 2960669951, 2601079046, 1036114921]],
  ])("seed %d gives the numbers an independent program gives", (seed, expected) => {
    const random = createRandom(seed);
    expect(expected.map(() => random.nextUint32())).toEqual(expected);
  });

  test("next joins two outputs to 53 bits below 1", () => {
    const random = createRandom(42);
    expect([random.next(), random.next(), random.next()]).toEqual([
      0.4137016681565887, 0.003983993377814743, 0.6500837027638867,
    ]);
  });

  test("streams of one seed do not share state", () => {
    const first = createRandom(7);
    const second = createRandom(7);
    const values = [first.next(), first.next()];
    expect([second.next(), second.next()]).toEqual(values);
  });

  test.each([-1, 0.5, 2 ** 53, NaN])("seed %d is refused", (seed) => {
    expect(() => createRandom(seed)).toThrow(
      new ConfigError("createRandom", "seed must be an integer from 0 to 2^53 - 1", { seed }),
    );
    expect(() => createRandom(seed)).toThrow(
      `createRandom: seed must be an integer from 0 to 2^53 - 1; got seed=${seed}.`,
    );
  });
});

describe("randomSeed", () => {
  test("is a seed that createRandom takes", () => {
    expect(createRandom(randomSeed()).next()).toBeLessThan(1);
  });
});
