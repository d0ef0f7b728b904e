/** How the learning rate goes over a run. */

import { ConfigError } from "../errors.ts";

/** The shapes by name. */
export const SCHEDULES = ["cosine", "warmup-stable-decay", "constant"] as const;

/** A shape of the learning rate, in steps. */
export type LearningRateSchedule = {
  /** `cosine` falls along half a cosine; `warmup-stable-decay` stays and falls in a line at the end. */
  readonly type: (typeof SCHEDULES)[number];
  /** Steps of a line from 0 up to the learning rate; 0 when absent. */
  readonly warmupSteps?: number;
  /** Where it ends, as a fraction of the learning rate; 0 when absent. */
  readonly floor?: number;
  /** Steps of the fall of `warmup-stable-decay`; a tenth of the run when absent. */
  readonly decaySteps?: number;
};

/**
 * The fraction of the learning rate that a step takes.
 *
 * @param step - from 1
 * @param steps - of the whole run
 * @see https://arxiv.org/abs/2404.06395 for warmup-stable-decay
 */
export function learningRateFactor(schedule: LearningRateSchedule, step: number, steps: number): number {
  const { type, warmupSteps = 0, floor = 0, decaySteps = Math.ceil(steps / 10) } = schedule;
  if (step <= warmupSteps) return step / warmupSteps;
  switch (type) {
    case "constant":
      return 1;
    case "cosine":
      return floor + ((1 - floor) * (1 + Math.cos((Math.PI * (step - warmupSteps)) / (steps - warmupSteps)))) / 2;
    case "warmup-stable-decay":
      return step <= steps - decaySteps ? 1 : floor + ((1 - floor) * (steps - step)) / decaySteps;
  }
}

/**
 * Refuses a schedule that does not fit a run.
 *
 * @throws ConfigError
 */
export function checkSchedule(schedule: LearningRateSchedule, steps: number): void {
  const { type, warmupSteps = 0, floor = 0, decaySteps = Math.ceil(steps / 10) } = schedule;
  if (!SCHEDULES.includes(type)) {
    throw new ConfigError("train", `schedule type must be one of ${SCHEDULES.join(", ")}`, { type });
  }
  if (!(Number.isSafeInteger(warmupSteps) && warmupSteps >= 0 && warmupSteps < steps)) {
    throw new ConfigError("train", "warmupSteps must be fewer than the steps", { warmupSteps, steps });
  }
  if (!(floor >= 0 && floor <= 1)) throw new ConfigError("train", "floor must be from 0 to 1", { floor });
  if (type !== "warmup-stable-decay") return;
  if (!(Number.isSafeInteger(decaySteps) && decaySteps > 0 && decaySteps <= steps - warmupSteps)) {
    throw new ConfigError("train", "decaySteps must fit behind the warm-up", { decaySteps, warmupSteps, steps });
  }
}
