import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { random, threefry2x32 } from "./index.ts";

const words = fc.nat(2 ** 32 - 1);
const keys = fc.tuple(words, words);

describe("threefry2x32", () => {
  it.each([
    // Known answers of Random123's kat_vectors, threefry2x32 with 20 rounds.
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x13198a2e, 0x03707344],
      [0x243f6a88, 0x85a308d3],
      [0xc4923a9c, 0x483df7a0],
    ],
  ] as const)("encrypts as published under key %s", (key, counter, want) => {
    expect(threefry2x32(key, counter)).toEqual(want);
  });
});

describe("key", () => {
  it.each<[number | bigint, number, number]>([
    [0, 0, 0],
    [42, 0, 42],
    [2 ** 32 - 1, 0, 2 ** 32 - 1],
    [-1, 2 ** 32 - 1, 2 ** 32 - 1],
    [2 ** 32 + 5, 1, 5],
    [-(2 ** 33) - 1, 2 ** 32 - 3, 2 ** 32 - 1],
    [0x123456789abcdef0n, 0x12345678, 0x9abcdef0],
    [-(2n ** 63n), 2 ** 31, 0],
  ])("of seed %s has all 64 bits with x64, the low 32 bits without", (seed, high, low) => {
    expect(random.key(seed, { x64: true })).toEqual([high, low]);
    expect(random.key(seed)).toEqual([0, low]);
  });

  it.each<[number | bigint, string]>([
    [0.5, "0.5"],
    [2 ** 53, "9007199254740992"],
    [2n ** 63n, "9223372036854775808"],
  ])("refuses seed %s", (seed, text) => {
    expect(() => random.key(seed)).toThrow(
      `key: seed must be an integer of at most 64 bits; got seed=${text}. Pass numbers beyond 2^53 as a bigint.`,
    );
  });
});

describe("split and foldIn", () => {
  it("give keys that differ from each other and from the key", () => {
    fc.assert(
      fc.property(keys, fc.integer({ min: 2, max: 23 }), (key, count) => {
        const made = [
          key,
          ...random.split(key, count),
          ...Array.from({ length: count }, (_, i) => random.foldIn(key, 1000 + i)),
        ];
        expect(new Set(made.map(String)).size).toBe(made.length);
      }),
    );
  });

  it("agree for equal numbers, as in JAX: the i-th key of a split is foldIn of i", () => {
    fc.assert(
      fc.property(keys, fc.nat(22), (key, i) => {
        expect(random.split(key, 23)[i]).toEqual(random.foldIn(key, i));
      }),
    );
  });

  it("split gives the first keys of a longer split", () => {
    fc.assert(
      fc.property(keys, (key) => {
        expect(random.split(key, 7).slice(0, 3)).toEqual(random.split(key, 3));
        expect(random.split(key)).toHaveLength(2);
      }),
    );
  });

  it("draws from split and folded keys are uncorrelated", () => {
    const n = 4001;
    const [a, b] = random.split(random.key(3));
    const draws = [random.key(3), a, b, random.foldIn(random.key(3), 2)].map((key) => random.normal(key, [n]).data);
    for (const [i, x] of draws.entries()) {
      for (const y of draws.slice(i + 1)) {
        const correlation = x.reduce((sum, value, t) => sum + value * y[t], 0) / n;
        expect(Math.abs(correlation)).toBeLessThan(4 / Math.sqrt(n)); // four standard deviations
      }
    }
  });

  it("refuse counts and data that are out of range", () => {
    expect(() => random.split([0, 0], -1)).toThrow("split: count must be a non-negative integer; got count=-1.");
    expect(() => random.foldIn([0, 0], 2 ** 32)).toThrow(
      "foldIn: data must be an integer from 0 to 2^32 - 1; got data=4294967296.",
    );
    expect(() => random.foldIn([0, 0], -1)).toThrow("foldIn: data must be an integer from 0 to 2^32 - 1; got data=-1.");
  });

  it("refuse a bare seed", () => {
    const message = (where: string) => `${where}: a key of two integers; got key=7. random.key(seed) makes one.`;
    expect(() => random.split(7 as never)).toThrow(message("split"));
    expect(() => random.foldIn(7 as never, 1)).toThrow(message("foldIn"));
    expect(() => random.normal(7 as never, [2])).toThrow(message("bits"));
  });
});

describe("draws", () => {
  it("depend on the number of elements before them, not on the shape", () => {
    fc.assert(
      fc.property(keys, (key) => {
        const long = random.uniform(key, [5, 7, 3]).data;
        expect(random.uniform(key, [7, 5]).data).toEqual(long.subarray(0, 35));
        expect(random.uniform(key, []).data).toEqual(long.subarray(0, 1));
      }),
    );
  });

  it("uniform numbers lie in their range and have its mean and variance", () => {
    const { data } = random.uniform(random.key(11), [10007], -3, 5);
    expect(data.every((value) => value >= -3 && value < 5)).toBe(true);
    const { mean, variance } = moments(data);
    expect(mean).toBeCloseTo(1, 1);
    expect(variance).toBeCloseTo(64 / 12, 0);
  });

  it("normal numbers are finite and have mean 0, variance 1 and kurtosis 3", () => {
    const { data } = random.normal(random.key(12), [10007]);
    const { mean, variance, kurtosis } = moments(data);
    expect(data.every(Number.isFinite)).toBe(true);
    expect(mean).toBeCloseTo(0, 1);
    expect(variance).toBeCloseTo(1, 1);
    expect(kurtosis).toBeCloseTo(3, 0);
  });

  it("truncated normal numbers stay strictly between their bounds", () => {
    fc.assert(
      fc.property(
        keys,
        fc.double({ min: -4, max: 3, noNaN: true }),
        fc.double({ min: 0.125, max: 5, noNaN: true }),
        (key, low, width) => {
          const [least, most] = [Math.fround(low), Math.fround(low + width)];
          const { data } = random.truncatedNormal(key, [29], least, most);
          expect(data.every((value) => value > least && value < most)).toBe(true);
        },
      ),
    );
    // 1 − 2·2·φ(2) / (Φ(2) − Φ(−2)) = 0.7737
    expect(moments(random.truncatedNormal(random.key(5), [10007]).data).variance).toBeCloseTo(0.7737, 1);
    expect(() => random.truncatedNormal([0, 0], [1], 2, 2)).toThrow(
      "truncatedNormal: low must be below high; got low=2, high=2.",
    );
  });

  it("bernoulli values are 1 as often as asked", () => {
    expect(moments(random.bernoulli(random.key(6), 0.3, [10007]).data).mean).toBeCloseTo(0.3, 1);
    expect(random.bernoulli([0, 1], 0, [5]).data).toEqual(new Uint8Array(5));
    expect(random.bernoulli([0, 1], 1, [5]).data).toEqual(new Uint8Array(5).fill(1));
    expect(() => random.bernoulli([0, 0], 1.5, [1])).toThrow(
      "bernoulli: probability must be from 0 to 1; got probability=1.5.",
    );
  });

  it("randint is 64 random bits modulo the span, above the lower bound", () => {
    fc.assert(
      fc.property(keys, fc.integer({ min: -1000, max: 1000 }), fc.integer({ min: 1, max: 65536 }), (key, low, span) => {
        const [high, rest] = random.split(key).map((half) => random.bits(half, [13]));
        const want = Array.from(
          rest,
          (word, i) => low + Number(((BigInt(high[i]) << 32n) + BigInt(word)) % BigInt(span)),
        );
        expect([...random.randint(key, [13], low, low + span).data]).toEqual(want);
      }),
    );
    const wide = random.randint(random.key(1), [1009], -(2 ** 31), 2 ** 31 - 1).data;
    expect(wide.some((value) => value < -(2 ** 30)) && wide.some((value) => value > 2 ** 30)).toBe(true);
    expect(() => random.randint([0, 0], [1], 3, 3)).toThrow(
      "randint: low and high must be 32-bit integers, low below high; got low=3, high=3.",
    );
  });

  it("refuse impossible shapes", () => {
    expect(() => random.normal([0, 0], [2, -1])).toThrow(
      "tensor: every extent must be a non-negative integer; got shape=[2,-1].",
    );
    expect(random.normal([0, 0], [3, 0]).shape).toEqual([3, 0]);
  });
});

function moments(data: ArrayLike<number>): { mean: number; variance: number; kurtosis: number } {
  const values = Array.from(data);
  const average = (list: number[]): number => list.reduce((sum, value) => sum + value, 0) / list.length;
  const mean = average(values);
  const variance = average(values.map((value) => (value - mean) ** 2));
  return { mean, variance, kurtosis: average(values.map((value) => (value - mean) ** 4)) / variance ** 2 };
}
