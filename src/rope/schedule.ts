/**
 * Rotary schedules: which angle per position every pair turns by, and the factor that comes with it.
 *
 * A schedule is plain data and `frequencies` turns it into numbers, with one small function per type. With
 * R = `dim` and b = `theta`, the plain inverse frequency of pair i is ω_i = b^(−2i/R). An odd R has ceil(R/2)
 * pairs whose exponents still divide by R, as in transformers.
 */

import { ConfigError } from "../errors.ts";
import { longRopeAttentionFactor, longRopeFactors } from "./longrope.ts";
import { validateSchedule } from "./validate-schedule.ts";
import { yarnAttentionFactor, yarnFrequencies } from "./yarn.ts";

/** Plain RoPE. @see https://arxiv.org/abs/2104.09864 */
export type DefaultSchedule = { readonly type: "default"; readonly dim: number; readonly theta: number };

/** Position interpolation: ω/f. @see https://arxiv.org/abs/2306.15595 */
export type LinearSchedule = {
  readonly type: "linear";
  readonly dim: number;
  readonly theta: number;
  readonly factor: number;
};

/** Static NTK scaling: b' = b·alpha^(R/(R−2)), so that the last frequency is divided by alpha. */
export type NtkSchedule = {
  readonly type: "ntk";
  readonly dim: number;
  readonly theta: number;
  readonly alpha: number;
};

/**
 * Dynamic NTK: the plain frequencies up to `maxLength` tokens, beyond it b' = b·(f·s/M − (f−1))^(R/(R−2)) for
 * length s and M = `maxLength`.
 */
export type DynamicSchedule = {
  readonly type: "dynamic";
  readonly dim: number;
  readonly theta: number;
  readonly factor: number;
  readonly maxLength: number;
  /** Static NTK in force up to `maxLength` only (Hunyuan). */
  readonly alpha?: number;
};

/** YaRN. @see https://arxiv.org/abs/2309.00071 */
export type YarnSchedule = {
  readonly type: "yarn";
  readonly dim: number;
  readonly theta: number;
  readonly factor: number;
  /** Tokens of the original context. */
  readonly originalLength: number;
  /** Pairs with more than this many turns in the original context keep their frequency; 32 unless told. */
  readonly betaFast?: number;
  /** Pairs with fewer turns are divided by `factor`; 1 unless told. */
  readonly betaSlow?: number;
  /** Round the ends of the ramp outwards to whole pairs; true unless told. */
  readonly truncate?: boolean;
  /** Replaces the factor that YaRN derives. */
  readonly attentionFactor?: number;
  readonly mscale?: number;
  readonly mscaleAllDim?: number;
};

/** LongRoPE ("su"): every pair divided by its own factor, from one of two lists. @see https://arxiv.org/abs/2402.13753 */
export type LongRopeSchedule = {
  readonly type: "longrope";
  readonly dim: number;
  readonly theta: number;
  /** [R/2] divisors for lengths up to `originalLength`. */
  readonly shortFactors: readonly number[];
  /** [R/2] divisors for greater lengths. */
  readonly longFactors: readonly number[];
  /** Tokens of the original context. */
  readonly originalLength: number;
  /** Ratio of the extended to the original context; gives the attention factor. */
  readonly factor: number;
  /** Replaces the attention factor derived from `factor`. */
  readonly attentionFactor?: number;
  /** Attention factor with the short list (PhiMoE); comes before `attentionFactor`. */
  readonly shortMscale?: number;
  /** Attention factor with the long list (PhiMoE). */
  readonly longMscale?: number;
};

/** Llama 3.1: low frequencies divided by `factor`, high ones kept, a blend between. */
export type Llama3Schedule = {
  readonly type: "llama3";
  readonly dim: number;
  readonly theta: number;
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  /** Tokens of the original context. */
  readonly originalLength: number;
};

/** Gemma 4: the first int(fraction·R/2) of R/2 pairs turn at ω_i/factor, the others stand still. */
export type ProportionalSchedule = {
  readonly type: "proportional";
  readonly dim: number;
  readonly theta: number;
  readonly fraction: number;
  readonly factor: number;
};

/** p-RoPE: the `fraction` of highest frequencies is kept, the others are 0. @see https://arxiv.org/abs/2410.06205 */
export type PRopeSchedule = {
  readonly type: "p-rope";
  readonly dim: number;
  readonly theta: number;
  readonly fraction: number;
};

/** ω_i divided per pair, as GGUF's `rope_freqs` tensor says. */
export type DivisorsSchedule = {
  readonly type: "divisors";
  readonly dim: number;
  readonly theta: number;
  /** [R/2] */
  readonly divisors: readonly number[];
};

/** Inverse frequencies listed one by one, as axial (2-D) rotations need them. */
export type ExplicitSchedule = {
  readonly type: "explicit";
  readonly dim: number;
  /** [R/2] radians per unit of position. */
  readonly inverseFrequencies: readonly number[];
};

/** A schedule as data: `dim` is R, `theta` the base b, lengths are tokens. */
export type RopeSchedule =
  | DefaultSchedule
  | LinearSchedule
  | NtkSchedule
  | DynamicSchedule
  | YarnSchedule
  | LongRopeSchedule
  | Llama3Schedule
  | ProportionalSchedule
  | PRopeSchedule
  | DivisorsSchedule
  | ExplicitSchedule;

/** The numbers a schedule gives at one length. */
export type Frequencies = {
  /** f64 [R/2], in pair order. */
  readonly inverseFrequencies: Float64Array;
  /** Multiplies cos and sin when queries and keys are first rotated. */
  readonly attentionFactor: number;
};

/**
 * The inverse frequencies and attention factor of a schedule at one length.
 *
 * @param schedule - the schedule
 * @param length - tokens of the sequence, max(position) + 1; only dynamic NTK and LongRoPE look at it
 * @returns f64 [R/2] inverse frequencies in pair order, and the attention factor
 * @throws ConfigError when the schedule or the length is impossible
 */
export function frequencies(schedule: RopeSchedule, length: number): Frequencies {
  validateSchedule(schedule);
  validateLength(length);
  const omegas = inverseFrequencies(schedule, length);
  const factor = attentionFactor(schedule, length);
  if (!omegas.every(Number.isFinite) || !Number.isFinite(factor)) {
    throw new ConfigError(`rope schedule ${schedule.type}`, "frequencies must be finite", { ...schedule, length });
  }
  return { inverseFrequencies: omegas, attentionFactor: factor };
}

/** Number of pairs the schedule turns: R/2, rounded up. */
export function pairCount(schedule: RopeSchedule): number {
  return Math.ceil(schedule.dim / 2);
}

/** Whether the frequencies (or the attention factor) of the schedule change with the length of the sequence. */
export function dependsOnLength(schedule: RopeSchedule): boolean {
  if (schedule.type === "dynamic") return true;
  if (schedule.type !== "longrope") return false;
  const { originalLength } = schedule;
  return scheduleId(schedule, originalLength) !== scheduleId(schedule, originalLength + 1);
}

/**
 * A stable name of the frequencies in force at a length: equal names mean equal frequencies and attention factor.
 * It is made of the schedule's parameters, not of computed numbers, so that it is the same on every machine.
 *
 * @param schedule - the schedule
 * @param length - tokens of the sequence
 * @throws ConfigError when the schedule or the length is impossible
 */
export function scheduleId(schedule: RopeSchedule, length: number): string {
  validateSchedule(schedule);
  validateLength(length);
  const fields = Object.entries(inForce(schedule, length)).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify(Object.fromEntries(fields));
}

function validateLength(length: number): void {
  if (!(Number.isFinite(length) && length >= 0)) {
    throw new ConfigError("frequencies", "length must be a number of tokens, at least 0", { length });
  }
}

function inverseFrequencies(schedule: RopeSchedule, length: number): Float64Array {
  switch (schedule.type) {
    case "default":
      return plain(schedule.dim, schedule.theta);
    case "linear":
      return plain(schedule.dim, schedule.theta).map((w) => w / schedule.factor);
    case "ntk":
      return plain(schedule.dim, ntkTheta(schedule.theta, schedule.dim, schedule.alpha));
    case "dynamic":
      return plain(schedule.dim, ntkTheta(schedule.theta, schedule.dim, dynamicAlpha(schedule, length)));
    case "yarn":
      return yarnFrequencies(schedule, plain(schedule.dim, schedule.theta));
    case "longrope":
      return divided(plain(schedule.dim, schedule.theta), longRopeFactors(schedule, length));
    case "llama3":
      return plain(schedule.dim, schedule.theta).map((w) => llama3Frequency(schedule, w));
    case "proportional":
      return highest(schedule, schedule.factor);
    case "p-rope":
      return highest(schedule, 1);
    case "divisors":
      return divided(plain(schedule.dim, schedule.theta), schedule.divisors);
    case "explicit":
      return Float64Array.from(schedule.inverseFrequencies);
  }
}

function attentionFactor(schedule: RopeSchedule, length: number): number {
  if (schedule.type === "yarn") return yarnAttentionFactor(schedule);
  if (schedule.type === "longrope") return longRopeAttentionFactor(schedule, length);
  return 1;
}

/** ω_i = b^(−2i/R). */
function plain(dim: number, theta: number): Float64Array {
  return Float64Array.from({ length: Math.ceil(dim / 2) }, (_, i) => 1 / theta ** ((2 * i) / dim));
}

function divided(omegas: Float64Array, divisors: readonly number[]): Float64Array {
  return omegas.map((w, i) => w / divisors[i]);
}

function ntkTheta(theta: number, dim: number, alpha: number): number {
  return alpha === 1 ? theta : theta * alpha ** (dim / (dim - 2));
}

function dynamicAlpha({ factor, maxLength, alpha = 1 }: DynamicSchedule, length: number): number {
  return length > maxLength ? (factor * length) / maxLength - (factor - 1) : alpha;
}

function llama3Frequency({ factor, lowFreqFactor, highFreqFactor, originalLength }: Llama3Schedule, w: number): number {
  const turns = (originalLength * w) / (2 * Math.PI); // of this pair in the original context
  if (turns > highFreqFactor) return w;
  if (turns < lowFreqFactor || lowFreqFactor === highFreqFactor) return w / factor;
  const keep = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return (1 - keep) * (w / factor) + keep * w;
}

function highest({ dim, theta, fraction }: ProportionalSchedule | PRopeSchedule, factor: number): Float64Array {
  const kept = Math.floor((fraction * dim) / 2);
  return plain(dim, theta).map((w, i) => (i < kept ? w / factor : 0));
}

/** The parameters that decide the numbers at this length, and nothing else. */
function inForce(schedule: RopeSchedule, length: number): Record<string, unknown> {
  switch (schedule.type) {
    case "dynamic": {
      const { dim, theta } = schedule;
      const alpha = dynamicAlpha(schedule, length);
      return alpha === 1 ? { type: "default", dim, theta } : { type: "ntk", dim, theta, alpha };
    }
    case "longrope": {
      const { type, dim, theta } = schedule;
      const a = longRopeAttentionFactor(schedule, length);
      return { type, dim, theta, a, factors: listId(longRopeFactors(schedule, length)) };
    }
    case "yarn": {
      const { type, dim, theta, factor, originalLength, betaFast = 32, betaSlow = 1, truncate = true } = schedule;
      const a = yarnAttentionFactor(schedule);
      return { type, dim, theta, factor, originalLength, betaFast, betaSlow, truncate, a };
    }
    case "divisors": {
      const { type, dim, theta, divisors } = schedule;
      return { type, dim, theta, divisors: listId(divisors) };
    }
    case "explicit":
      return { type: schedule.type, dim: schedule.dim, frequencies: listId(schedule.inverseFrequencies) };
    default: // every field counts
      return { ...schedule };
  }
}

/** 64-bit FNV-1a of the list's decimal text. */
function listId(values: readonly number[]): string {
  let hash = 0xcbf29ce484222325n;
  for (const char of values.join(" ")) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(char.charCodeAt(0))) * 0x100000001b3n);
  }
  return hash.toString(16).padStart(16, "0");
}
