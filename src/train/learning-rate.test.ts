import { describe, expect, test } from "vitest";
import { checkSchedule, type LearningRateSchedule, learningRateFactor } from "./learning-rate.ts";

const at = (schedule: LearningRateSchedule, steps: number, ...wanted: number[]): number[] =>
  wanted.map((step) => Math.round(1e6 * learningRateFactor(schedule, step, steps)) / 1e6);

describe("learningRateFactor", () => {
  test("cosine warms up in a line, is half way down in the middle and ends at the floor", () => {
    const schedule = { type: "cosine", warmupSteps: 4, floor: 0.2 } as const;
    expect(at(schedule, 104, 1, 3, 4, 54, 104)).toEqual([0.25, 0.75, 1, 0.6, 0.2]);
  });

  test("warmup-stable-decay stays until its fall", () => {
    const schedule = { type: "warmup-stable-decay", warmupSteps: 2, decaySteps: 4, floor: 0 } as const;
    expect(at(schedule, 20, 1, 2, 16, 17, 19, 20)).toEqual([0.5, 1, 1, 0.75, 0.25, 0]);
    expect(at({ type: "warmup-stable-decay" }, 20, 1, 18, 19, 20)).toEqual([1, 1, 0.5, 0]);
  });

  test("constant stays", () => {
    expect(at({ type: "constant", warmupSteps: 2 }, 5, 1, 2, 5)).toEqual([0.5, 1, 1]);
  });
});

describe("checkSchedule", () => {
  test.each([
    [{ type: "cosine", warmupSteps: 10 }, "warmupSteps must be fewer than the steps; got warmupSteps=10, steps=10."],
    [{ type: "cosine", floor: 2 }, "floor must be from 0 to 1; got floor=2."],
    [
      { type: "warmup-stable-decay", warmupSteps: 7, decaySteps: 4 },
      "decaySteps must fit behind the warm-up; got decaySteps=4, warmupSteps=7, steps=10.",
    ],
    [
      { type: "steps" as "cosine" },
      'schedule type must be one of cosine, warmup-stable-decay, constant; got type="steps".',
    ],
  ] as const)("refuses %j", (schedule, message) => {
    expect(() => checkSchedule(schedule, 10)).toThrow(`train: ${message}`);
  });
});
