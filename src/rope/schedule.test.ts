import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { dependsOnLength, frequencies, type RopeSchedule, scheduleId, type YarnSchedule } from "./schedule.ts";
import { yarnMscale, yarnRamp } from "./yarn.ts";

const plain = (dim: number, theta: number): number[] =>
  Array.from({ length: Math.ceil(dim / 2) }, (_, i) => theta ** ((-2 * i) / dim));

function expectClose(actual: ArrayLike<number>, expected: readonly number[], tolerance = F64_COMPUTED): void {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) {
    expect(Math.abs(actual[i] - value)).toBeLessThanOrEqual(tolerance * Math.abs(value));
  }
}

const gptOss: YarnSchedule = {
  type: "yarn",
  dim: 64,
  theta: 150000,
  factor: 32,
  originalLength: 4096,
  truncate: false,
};
const deepseekV3: YarnSchedule = {
  type: "yarn",
  dim: 64,
  theta: 10000,
  factor: 40,
  originalLength: 4096,
  mscale: 1,
  mscaleAllDim: 1,
};
const qwenYarn: YarnSchedule = { type: "yarn", dim: 128, theta: 1e6, factor: 4, originalLength: 32768 };
const llama31: RopeSchedule = {
  type: "llama3",
  dim: 128,
  theta: 500000,
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalLength: 8192,
};
const phi3 = {
  type: "longrope",
  dim: 4,
  theta: 10000,
  shortFactors: [1, 2],
  longFactors: [4, 8],
  originalLength: 4096,
  factor: 32,
} as const;

describe("frequencies of published models", () => {
  it("gpt-oss: the ramp ends are fractional and the attention factor is that of YaRN", () => {
    const { low, high } = yarnRamp(gptOss);
    expect(low).toBeCloseTo(8.092779115512402, 12);
    expect(high).toBeCloseTo(17.39802450158856, 12);
    expect(frequencies(gptOss, 1).attentionFactor).toBeCloseTo(1.3465735902799727, 14);
  });

  it("DeepSeek-V3: ramp from 10 to 23, attention factor 1, softmax factor 1.87", () => {
    expect(yarnRamp(deepseekV3)).toEqual({ low: 10, high: 23 });
    expect(frequencies(deepseekV3, 1).attentionFactor).toBe(1);
    expect(yarnMscale(40, 1) ** 2).toBeCloseTo(1.8738542070926265, 14);
  });

  it("Qwen2.5 with YaRN: ramp from 23 to 40, pairs before it untouched, after it divided by 4", () => {
    expect(yarnRamp(qwenYarn)).toEqual({ low: 23, high: 40 });
    const { inverseFrequencies, attentionFactor } = frequencies(qwenYarn, 1);
    expect(attentionFactor).toBeCloseTo(1.138629436111989, 14);
    const omegas = plain(128, 1e6);
    expectClose(inverseFrequencies.slice(0, 24), omegas.slice(0, 24));
    expectClose(
      inverseFrequencies.slice(40),
      omegas.slice(40).map((w) => w / 4),
    );
  });

  it("Phi-3: attention factor from the ratio of contexts, whichever list is in force", () => {
    expect(frequencies(phi3, 4096).attentionFactor).toBeCloseTo(1.1902380714238083, 14);
    expect(frequencies(phi3, 4097).attentionFactor).toBeCloseTo(1.1902380714238083, 14);
  });

  it("LongRoPE switches beyond the original context, not at it", () => {
    expectClose(frequencies(phi3, 4096).inverseFrequencies, [1, 0.01 / 2]);
    expectClose(frequencies(phi3, 4097).inverseFrequencies, [1 / 4, 0.01 / 8]);
  });

  it("Llama 3.1: pairs 29 to 34 are blended, the others kept or divided by 8", () => {
    const { inverseFrequencies } = frequencies(llama31, 1);
    const ratios = plain(128, 500000).map((w, i) => inverseFrequencies[i] / w);
    for (let i = 0; i < 29; i++) expect(ratios[i]).toBeCloseTo(1, 12);
    for (let i = 29; i <= 34; i++) expect(ratios[i] > 0.1251 && ratios[i] < 0.9999).toBe(true);
    for (let i = 35; i < 64; i++) expect(ratios[i]).toBeCloseTo(1 / 8, 12);
    expectClose([inverseFrequencies[63]], [3.068925988914511e-7]);
    expectClose([inverseFrequencies[30]], [0.0013718935677611381], 1e-10); // mpmath
  });

  it("Llama 4 Scout: equal low and high factors leave no blend and no NaN", () => {
    const schedule = { ...llama31, lowFreqFactor: 1, highFreqFactor: 1, factor: 16 } as const;
    const ratios = Array.from(frequencies(schedule, 1).inverseFrequencies, (w, i) => w / 500000 ** ((-2 * i) / 128));
    expect(ratios.every((r) => Math.abs(r - 1) < 1e-12 || Math.abs(r - 1 / 16) < 1e-12)).toBe(true);
  });

  it("static NTK divides the last frequency exactly by alpha", () => {
    const { inverseFrequencies } = frequencies({ type: "ntk", dim: 128, theta: 10000, alpha: 1000 }, 1);
    expectClose([inverseFrequencies[0], inverseFrequencies[63]], [1, 1.1547819846894582e-7]);
  });

  it("dynamic NTK grows with the length and is plain up to the limit", () => {
    const schedule = { type: "dynamic", dim: 8, theta: 10000, factor: 2, maxLength: 10 } as const;
    expectClose(frequencies(schedule, 10).inverseFrequencies, plain(8, 10000));
    // mpmath: base 10000·4^(8/6) at length 25
    const expected = [1, 0.06299605249474366, 0.003968502629920499, 0.00025];
    expectClose(frequencies(schedule, 25).inverseFrequencies, expected);
  });

  it("dynamic NTK with alpha (Hunyuan) drops alpha beyond the limit", () => {
    const schedule = { type: "dynamic", dim: 8, theta: 10000, factor: 1, maxLength: 100, alpha: 50 } as const;
    const ntk = frequencies({ type: "ntk", dim: 8, theta: 10000, alpha: 50 }, 1).inverseFrequencies;
    expect(frequencies(schedule, 100).inverseFrequencies).toEqual(ntk);
    const beyond = frequencies(schedule, 150).inverseFrequencies;
    expectClose(beyond, plain(8, 10000 * 1.5 ** (8 / 6)));
  });

  it("proportional keeps the first pairs of the whole head and stops the others", () => {
    const schedule = { type: "proportional", dim: 512, theta: 1e6, fraction: 0.25, factor: 1 } as const;
    const { inverseFrequencies } = frequencies(schedule, 1);
    expectClose(inverseFrequencies.slice(0, 64), plain(512, 1e6).slice(0, 64));
    expect(inverseFrequencies.slice(64).every((w) => w === 0)).toBe(true);
    expect(inverseFrequencies.length).toBe(256);
  });

  it("p-RoPE keeps the highest frequencies", () => {
    const { inverseFrequencies } = frequencies({ type: "p-rope", dim: 16, theta: 100, fraction: 0.75 }, 1);
    expectClose(inverseFrequencies.slice(0, 6), plain(16, 100).slice(0, 6));
    expect(Array.from(inverseFrequencies.slice(6))).toEqual([0, 0]);
  });

  it("an odd rotary dim has one more pair, with exponents over the odd number", () => {
    expectClose(frequencies({ type: "default", dim: 5, theta: 100 }, 1).inverseFrequencies, [
      1,
      100 ** -0.4,
      100 ** -0.8,
    ]);
  });

  it("divisors divide each frequency, explicit lists stay as they are", () => {
    const divisors = { type: "divisors", dim: 6, theta: 1000, divisors: [1, 2, 8] } as const;
    expectClose(frequencies(divisors, 1).inverseFrequencies, [1, 0.05, 0.00125]);
    const explicit = { type: "explicit", dim: 4, inverseFrequencies: [0.5, 0.25] } as const;
    expect(Array.from(frequencies(explicit, 1).inverseFrequencies)).toEqual([0.5, 0.25]);
  });

  it("PhiMoE's mscale replaces the attention factor per list", () => {
    const schedule = { ...phi3, shortMscale: 1.25, longMscale: 1.5, attentionFactor: 9 };
    expect(frequencies(schedule, 4096).attentionFactor).toBe(1.25);
    expect(frequencies(schedule, 4097).attentionFactor).toBe(1.5);
  });

  it("mscale without mscaleAllDim has no effect", () => {
    const { mscaleAllDim: _, ...alone } = { ...deepseekV3, mscale: 0.7 };
    expect(frequencies(alone, 1).attentionFactor).toBeCloseTo(1 + 0.1 * Math.log(40), 14);
  });
});

describe("every schedule at its limit", () => {
  it("equals the default", () => {
    const dims = fc.integer({ min: 2, max: 70 }).map((half) => 2 * half);
    fc.assert(
      fc.property(
        dims,
        fc.double({ min: 2, max: 1e7, noNaN: true }),
        fc.integer({ min: 1, max: 5000 }),
        (dim, theta, s) => {
          const ones = new Array<number>(dim / 2).fill(1);
          const originalLength = 4096;
          const limits: RopeSchedule[] = [
            { type: "linear", dim, theta, factor: 1 },
            { type: "ntk", dim, theta, alpha: 1 },
            { type: "dynamic", dim, theta, factor: 3, maxLength: 5000 },
            { type: "yarn", dim, theta, factor: 1, originalLength },
            { type: "longrope", dim, theta, shortFactors: ones, longFactors: ones, originalLength, factor: 1 },
            { type: "llama3", dim, theta, factor: 1, lowFreqFactor: 1, highFreqFactor: 4, originalLength },
            { type: "proportional", dim, theta, fraction: 1, factor: 1 },
            { type: "p-rope", dim, theta, fraction: 1 },
            { type: "divisors", dim, theta, divisors: ones },
          ];
          const expected = plain(dim, theta);
          for (const schedule of limits) {
            const { inverseFrequencies, attentionFactor } = frequencies(schedule, s);
            expect(attentionFactor).toBe(1);
            expectClose(inverseFrequencies, expected, 1e-11);
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe("scheduleId", () => {
  const dynamic: RopeSchedule = { type: "dynamic", dim: 8, theta: 10000, factor: 2, maxLength: 100 };

  it("is equal exactly where the frequencies are", () => {
    expect(scheduleId(dynamic, 3)).toBe(scheduleId(dynamic, 100));
    expect(scheduleId(dynamic, 3)).toBe(scheduleId({ type: "default", dim: 8, theta: 10000 }, 3));
    expect(scheduleId(dynamic, 101)).not.toBe(scheduleId(dynamic, 100));
    expect(scheduleId(dynamic, 101)).not.toBe(scheduleId(dynamic, 102));
    expect(scheduleId(phi3, 5)).toBe(scheduleId(phi3, 4096));
    expect(scheduleId(phi3, 4097)).toBe(scheduleId(phi3, 1e6));
    expect(scheduleId(phi3, 4096)).not.toBe(scheduleId(phi3, 4097));
    expect(scheduleId(qwenYarn, 1)).toBe(scheduleId(qwenYarn, 1e6));
  });

  it("does not depend on the order of fields or on defaults being spelled out", () => {
    expect(scheduleId({ theta: 7, dim: 4, type: "default" }, 1)).toBe(
      scheduleId({ type: "default", dim: 4, theta: 7 }, 1),
    );
    expect(scheduleId({ ...qwenYarn, betaFast: 32, betaSlow: 1, truncate: true }, 1)).toBe(scheduleId(qwenYarn, 1));
  });

  it("differs between different parameters", () => {
    const schedules: RopeSchedule[] = [
      qwenYarn,
      gptOss,
      deepseekV3,
      llama31,
      phi3,
      { ...phi3, shortFactors: [1, 3] },
      { type: "p-rope", dim: 8, theta: 2, fraction: 0.5 },
      { type: "divisors", dim: 4, theta: 2, divisors: [1, 2] },
      { type: "divisors", dim: 4, theta: 2, divisors: [1, 3] },
      { type: "explicit", dim: 4, inverseFrequencies: [1, 3] },
    ];
    expect(new Set(schedules.map((s) => scheduleId(s, 1))).size).toBe(schedules.length);
  });
});

describe("dependsOnLength", () => {
  it("is true only for schedules whose numbers change", () => {
    expect(dependsOnLength({ type: "dynamic", dim: 8, theta: 10, factor: 2, maxLength: 100 })).toBe(true);
    expect(dependsOnLength(phi3)).toBe(true);
    expect(dependsOnLength({ ...phi3, longFactors: [1, 2] })).toBe(false);
    expect(dependsOnLength({ ...phi3, longFactors: [1, 2], shortMscale: 1, longMscale: 2 })).toBe(true);
    expect(dependsOnLength(qwenYarn)).toBe(false);
  });
});

describe("impossible schedules", () => {
  const cases: [string, RopeSchedule, string][] = [
    [
      "a list of the wrong length",
      { ...phi3, shortFactors: [1] },
      "rope schedule longrope: shortFactors must be 2 numbers greater than 0; got length=1, shortFactors=[1].",
    ],
    [
      "a factor of 0",
      { type: "linear", dim: 4, theta: 10, factor: 0 },
      "rope schedule linear: factor must be a number greater than 0; got factor=0.",
    ],
    [
      "a negative base",
      { type: "default", dim: 4, theta: -1 },
      "rope schedule default: theta must be a number greater than 0; got theta=-1.",
    ],
    [
      "NTK on two dims",
      { type: "ntk", dim: 2, theta: 10, alpha: 2 },
      "rope schedule ntk: dim must be greater than 2; got dim=2.",
    ],
    ["YaRN on an odd number of dims", { ...qwenYarn, dim: 5 }, "rope schedule yarn: dim must be even; got dim=5."],
    ["YaRN with base 1", { ...qwenYarn, theta: 1 }, "rope schedule yarn: theta must be greater than 1; got theta=1."],
    [
      "a dim that would exhaust memory",
      { type: "default", dim: 1e9, theta: 10 },
      "rope schedule default: dim must be an integer from 1 to 8192; got dim=1000000000.",
    ],
    [
      "an unknown type",
      { type: "spiral", dim: 4, theta: 10 } as unknown as RopeSchedule,
      'rope schedule spiral: type must be a known schedule type; got type="spiral".',
    ],
  ];
  it.each(cases)("%s is a ConfigError", (_, schedule, message) => {
    expect(() => frequencies(schedule, 1)).toThrow(expect.objectContaining({ code: "PHASOR_CONFIG", message }));
  });

  it("frequencies that overflow are a ConfigError", () => {
    expect(() => frequencies({ type: "linear", dim: 8, theta: 1e-300, factor: 1e-300 }, 1)).toThrow(
      'rope schedule linear: frequencies must be finite; got type="linear", dim=8, theta=1e-300, factor=1e-300, length=1.',
    );
  });

  it("a length that is not a number is a ConfigError", () => {
    expect(() => frequencies(qwenYarn, NaN)).toThrow(
      expect.objectContaining({
        message: "frequencies: length must be a number of tokens, at least 0; got length=NaN.",
      }),
    );
  });
});
