import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createSampler, logProbability, type SamplerOptions } from "./sampler.ts";

/** Probabilities of ids 0 to 4; their logits are the logarithms. */
const PROBABILITIES = [0.15, 0.05, 0.5, 0.1, 0.2];
const LOGITS = Float32Array.from(PROBABILITIES, Math.log);

/** Probability of exceeding it by chance is 0.001, by degrees of freedom. */
const CHI_SQUARE_LIMIT = [0, 10.83, 13.82, 16.27, 18.47];

function countDraws(logits: Float32Array, options: SamplerOptions, draws: number, previous: number[] = []): number[] {
  const sampler = createSampler({ temperature: 1, seed: 20240607, ...options });
  const counts = Array.from(logits, () => 0);
  for (let i = 0; i < draws; i++) counts[sampler.sample(logits, previous)]++;
  return counts;
}

describe("createSampler: distribution", () => {
  const sqrtSum = PROBABILITIES.reduce((sum, p) => sum + Math.sqrt(p), 0);
  const cases: [string, SamplerOptions, number[], number[]?][] = [
    ["temperature 1 draws from the softmax", {}, PROBABILITIES],
    ["temperature 2 draws from its square root", { temperature: 2 }, PROBABILITIES.map((p) => Math.sqrt(p) / sqrtSum)],
    ["topK 3 keeps the three highest", { topK: 3 }, [0.15 / 0.85, 0, 0.5 / 0.85, 0, 0.2 / 0.85]],
    ["topK above the vocabulary size keeps all", { topK: 50 }, PROBABILITIES],
    ["topP 0.69 keeps two", { topP: 0.69 }, [0, 0, 0.5 / 0.7, 0, 0.2 / 0.7]],
    ["topP 0.71 takes the token that crosses it", { topP: 0.71 }, [0.15 / 0.85, 0, 0.5 / 0.85, 0, 0.2 / 0.85]],
    ["minP 0.29 keeps probabilities of at least 0.145", { minP: 0.29 }, [0.15 / 0.85, 0, 0.5 / 0.85, 0, 0.2 / 0.85]],
    ["minP 0.31 keeps probabilities of at least 0.155", { minP: 0.31 }, [0, 0, 0.5 / 0.7, 0, 0.2 / 0.7]],
    // Of all tokens topP 0.72 takes three (0.5 + 0.2 < 0.72), of the renormalised three two (0.7 / 0.85 = 0.82).
    ["topP counts what topK has left", { topK: 3, topP: 0.72 }, [0, 0, 0.5 / 0.7, 0, 0.2 / 0.7]],
    // minP 0.25 leaves three; counted among those topP 0.75 would take two (0.82), counted among all it takes three.
    ["topP is applied before minP", { topP: 0.75, minP: 0.25 }, [0.15 / 0.85, 0, 0.5 / 0.85, 0, 0.2 / 0.85]],
    // ln 0.5 and ln 0.2 are negative, so they are multiplied by 2: 0.25 and 0.04, the rest as it was.
    [
      "repetitionPenalty 2 squares the (negative) logits of what occurred, once",
      { repetitionPenalty: 2 },
      [0.15 / 0.59, 0.05 / 0.59, 0.25 / 0.59, 0.1 / 0.59, 0.04 / 0.59],
      [2, 4, 2, 2],
    ],
  ];
  test.each(cases)("%s", (_name, options, expected, previous) => {
    const draws = 20_000;
    const counts = countDraws(LOGITS, options, draws, previous);
    let statistic = 0;
    for (const [id, p] of expected.entries()) {
      if (p === 0) expect(counts[id]).toBe(0);
      else statistic += (counts[id] - p * draws) ** 2 / (p * draws);
    }
    const degrees = expected.filter((p) => p > 0).length - 1;
    expect(statistic).toBeLessThan(CHI_SQUARE_LIMIT[degrees]);
  });

  test("repetitionPenalty divides positive logits", () => {
    // 3 / 4 < 1 < 2: the second becomes the highest.
    const sampler = createSampler({ repetitionPenalty: 4 });
    expect(sampler.sample(Float32Array.of(3, 1, 2), [0, 2])).toBe(1);
    expect(sampler.sample(Float32Array.of(3, 1, 2))).toBe(0);
  });

  test("topK keeps the tokens equal to the k-th", () => {
    const counts = countDraws(Float32Array.of(1, 2, 1, 1, 0), { topK: 2 }, 2000);
    expect(counts.map((count) => count > 0)).toEqual([true, true, true, true, false]);
  });
});

describe("createSampler: choices", () => {
  test("temperature 0 takes the highest logit, the lowest id among equals", () => {
    expect(createSampler().sample(Float32Array.of(-1, 3, 3, 2))).toBe(1);
  });

  test("topK 1 is greedy at any temperature", () => {
    const sampler = createSampler({ temperature: 1e6, topK: 1 });
    for (let i = 0; i < 50; i++) expect(sampler.sample(Float32Array.of(1, 1.0001, 0.9))).toBe(1);
  });

  test("the smallest topP and the largest minP keep the most probable token", () => {
    expect(countDraws(LOGITS, { topP: Number.MIN_VALUE }, 50)).toEqual([0, 0, 50, 0, 0]);
    expect(countDraws(LOGITS, { minP: 1 }, 50)).toEqual([0, 0, 50, 0, 0]);
  });

  test("huge logits and a tiny temperature neither overflow nor lose the choice", () => {
    const logits = Float32Array.of(-3e38, 3e38, 2.9e38);
    expect(createSampler({ temperature: 1e-300 }).sample(logits)).toBe(1);
    expect(createSampler({ temperature: 1 }).sample(logits)).toBe(1);
  });

  test("a logit of -Infinity is never chosen", () => {
    const counts = countDraws(Float32Array.of(-Infinity, 0, -Infinity, 0), { topK: 3, temperature: 100 }, 500);
    expect([counts[0], counts[2]]).toEqual([0, 0]);
  });

  test("one seed gives one sequence, another seed another", () => {
    const sequence = (seed: number): number[] => {
      const sampler = createSampler({ temperature: 1, seed });
      return Array.from({ length: 40 }, () => sampler.sample(LOGITS));
    };
    expect(sequence(5)).toEqual(sequence(5));
    expect(sequence(5)).not.toEqual(sequence(6));
  });

  test("without a seed the sampler tells the one it drew", () => {
    const first = createSampler({ temperature: 1 });
    const again = createSampler({ temperature: 1, seed: first.seed });
    const draws = Array.from({ length: 40 }, () => first.sample(LOGITS));
    expect(Array.from({ length: 40 }, () => again.sample(LOGITS))).toEqual(draws);
  });

  test("any logits and options give a token whose logit is finite, and leave the logits as they were", () => {
    const logit = fc.oneof(fc.float({ noNaN: true, noDefaultInfinity: true }), fc.constant(-Infinity));
    const options = fc.record({
      temperature: fc.double({ min: 0, max: 1e9, noNaN: true }),
      topK: fc.nat(9),
      topP: fc.double({ min: 1e-300, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
      repetitionPenalty: fc.double({ min: 0.5, max: 2, noNaN: true }),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(
        fc.array(logit, { minLength: 1, maxLength: 7 }),
        options,
        fc.array(fc.nat(6)),
        (values, opts, seen) => {
          fc.pre(values.some((value) => value > -Infinity));
          const logits = Float32Array.from(values);
          const id = createSampler(opts).sample(logits, seen);
          expect(logits[id]).toBeGreaterThan(-Infinity);
          expect(logits).toEqual(Float32Array.from(values));
        },
      ),
      { numRuns: 300 },
    );
  });

  test("a sampler serves vocabularies of different sizes", () => {
    const sampler = createSampler({ repetitionPenalty: 2 });
    expect(sampler.sample(Float32Array.of(0, 1), [1])).toBe(1);
    expect(sampler.sample(Float32Array.of(0, 1, 3, 2), [2])).toBe(3);
    expect(sampler.sample(Float32Array.of(3, 2), [0])).toBe(1);
  });
});

describe("createSampler: refusals", () => {
  test.each<[SamplerOptions, string]>([
    [{ temperature: -1 }, "temperature must be a number of at least 0; got temperature=-1."],
    [{ temperature: NaN }, "temperature must be a number of at least 0; got temperature=NaN."],
    [{ topK: 2.5 }, "topK must be an integer of at least 0 (0 keeps all); got topK=2.5."],
    [{ topP: 0 }, "topP must be a number above 0 and at most 1; got topP=0."],
    [{ topP: 1.01 }, "topP must be a number above 0 and at most 1; got topP=1.01."],
    [{ minP: -0.1 }, "minP must be a number from 0 to 1; got minP=-0.1."],
    [{ repetitionPenalty: 0 }, "repetitionPenalty must be a number above 0; got repetitionPenalty=0."],
  ])("%o", (options, message) => {
    expect(() => createSampler(options)).toThrow(`createSampler: ${message}`);
  });

  const hint = "Check the model's weights and its configuration.";
  test.each<[string, number[], string]>([
    ["a NaN logit", [1, NaN], `sample: every logit must be a number; got token=1, logit=NaN. ${hint}`],
    [
      "an infinite logit",
      [1, Infinity],
      `sample: every logit must be below Infinity; got token=1, logit=Infinity. ${hint}`,
    ],
    [
      "nothing but -Infinity",
      [-Infinity, -Infinity],
      `sample: at least one logit must be above -Infinity; got logits=2. ${hint}`,
    ],
  ])("%s is refused", (_name, logits, message) => {
    for (const temperature of [0, 1]) {
      expect(() => createSampler({ temperature }).sample(Float32Array.from(logits))).toThrow(message);
    }
  });
});

describe("logProbability", () => {
  test("is the logarithm of the softmax, whatever is added to all logits", () => {
    const shifted = LOGITS.map((logit) => logit + 5);
    for (const [id, p] of PROBABILITIES.entries()) {
      expect(logProbability(LOGITS, id)).toBeCloseTo(Math.log(p), 6);
      expect(logProbability(shifted, id)).toBeCloseTo(Math.log(p), 6);
    }
  });
});
