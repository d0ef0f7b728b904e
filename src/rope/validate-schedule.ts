/**
 * What a schedule must satisfy before its frequencies are computed.
 */

import { ConfigError } from "../errors.ts";
import type { RopeSchedule } from "./schedule.ts";

/** Widest rotation accepted; far beyond any model, and small enough to compute for every layer. */
const MAX_ROTARY_DIM = 8192;

/**
 * Refuses schedules that have no frequencies.
 *
 * @param schedule - plain data, possibly from an untrusted file
 * @throws ConfigError naming the schedule's type, the field and its value
 */
export function validateSchedule(schedule: RopeSchedule): void {
  const { type, dim } = schedule;
  if (!Number.isSafeInteger(dim) || dim < 1 || dim > MAX_ROTARY_DIM) {
    refuse(type, `dim must be an integer from 1 to ${MAX_ROTARY_DIM}`, { dim });
  }
  if (type !== "explicit") positive(type, "theta", schedule.theta);
  const pairs = Math.ceil(dim / 2);
  switch (type) {
    case "default":
      return;
    case "linear":
      positive(type, "factor", schedule.factor);
      return;
    case "ntk":
      positive(type, "alpha", schedule.alpha);
      wideEnough(type, dim);
      return;
    case "dynamic":
      positive(type, "factor", schedule.factor);
      positive(type, "maxLength", schedule.maxLength);
      if (schedule.alpha !== undefined) positive(type, "alpha", schedule.alpha);
      wideEnough(type, dim);
      return;
    case "yarn":
      if (dim % 2 !== 0) refuse(type, "dim must be even", { dim });
      if (schedule.theta <= 1) refuse(type, "theta must be greater than 1", { theta: schedule.theta });
      positive(type, "factor", schedule.factor);
      positive(type, "originalLength", schedule.originalLength);
      if (schedule.betaFast !== undefined) positive(type, "betaFast", schedule.betaFast);
      if (schedule.betaSlow !== undefined) positive(type, "betaSlow", schedule.betaSlow);
      if (schedule.attentionFactor !== undefined) positive(type, "attentionFactor", schedule.attentionFactor);
      for (const name of ["mscale", "mscaleAllDim"] as const) {
        const value = schedule[name] ?? 0;
        if (!(Number.isFinite(value) && value >= 0))
          refuse(type, `${name} must be a number, at least 0`, { [name]: value });
      }
      return;
    case "longrope":
      divisors(type, "shortFactors", schedule.shortFactors, pairs);
      divisors(type, "longFactors", schedule.longFactors, pairs);
      positive(type, "factor", schedule.factor);
      if (!(Number.isFinite(schedule.originalLength) && schedule.originalLength > 1)) {
        refuse(type, "originalLength must be greater than 1", { originalLength: schedule.originalLength });
      }
      for (const name of ["attentionFactor", "shortMscale", "longMscale"] as const) {
        const value = schedule[name];
        if (value !== undefined) positive(type, name, value);
      }
      return;
    case "llama3":
      positive(type, "factor", schedule.factor);
      positive(type, "lowFreqFactor", schedule.lowFreqFactor);
      positive(type, "highFreqFactor", schedule.highFreqFactor);
      positive(type, "originalLength", schedule.originalLength);
      if (schedule.highFreqFactor < schedule.lowFreqFactor) {
        const { lowFreqFactor, highFreqFactor } = schedule;
        refuse(type, "highFreqFactor must be at least lowFreqFactor", { lowFreqFactor, highFreqFactor });
      }
      return;
    case "proportional":
    case "p-rope":
      if (dim % 2 !== 0) refuse(type, "dim must be even", { dim });
      if (!(schedule.fraction >= 0 && schedule.fraction <= 1)) {
        refuse(type, "fraction must be from 0 to 1", { fraction: schedule.fraction });
      }
      if (type === "proportional") positive(type, "factor", schedule.factor);
      return;
    case "divisors":
      divisors(type, "divisors", schedule.divisors, pairs);
      return;
    case "explicit": {
      const list = schedule.inverseFrequencies;
      if (!Array.isArray(list) || list.length !== pairs || !list.every(Number.isFinite)) {
        refuse(type, `inverseFrequencies must be ${pairs} numbers`, { inverseFrequencies: list });
      }
      return;
    }
    default:
      refuse(String(type), "type must be a known schedule type", { type });
  }
}

function refuse(type: string, expected: string, got: Record<string, unknown>): never {
  throw new ConfigError(`rope schedule ${type}`, expected, got);
}

function positive(type: string, name: string, value: number): void {
  if (!(Number.isFinite(value) && value > 0))
    refuse(type, `${name} must be a number greater than 0`, { [name]: value });
}

function wideEnough(type: string, dim: number): void {
  if (dim <= 2) refuse(type, "dim must be greater than 2", { dim });
}

function divisors(type: string, name: string, list: readonly number[], pairs: number): void {
  const fits = Array.isArray(list) && list.length === pairs && list.every((d) => Number.isFinite(d) && d > 0);
  if (!fits) {
    const length = Array.isArray(list) ? list.length : undefined;
    refuse(type, `${name} must be ${pairs} numbers greater than 0`, { length, [name]: list });
  }
}
