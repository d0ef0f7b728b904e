/**
 * What to do when a growing text changes the frequencies of a schedule (dynamic NTK, LongRoPE) under keys that
 * are already cached. Mixing keys of both frequencies is never an option.
 */

import { ConfigError } from "../errors.ts";
import type { RotaryLayer } from "./layer.ts";
import { scheduleId } from "./schedule.ts";

/**
 * The caller's choice.
 *
 * - `pin`: keep the frequencies of the first length. Exact with respect to the cache and free, but positions
 *   beyond the first length are rotated by frequencies not meant for them: quality there is the schedule's that
 *   was pinned. Pin a length that the text will reach to start with the long frequencies.
 * - `rerotate`: turn every cached key to the new frequencies. Restores the angle of each key exactly (and the
 *   attention factor); values and keys of deeper layers were computed under the old frequencies and stay so. Close
 *   to a re-prefill, not equal to it.
 * - `reprefill`: forget the cache and compute all tokens again. Equal to computing the whole text at the new
 *   length, at its full cost; with dynamic NTK this is due at every token beyond the limit.
 */
export type FrequencyChange = "pin" | "rerotate" | "reprefill";

/** What has to happen before the next step. */
export type FrequencyPlan = {
  /** `none`: the cached keys are right for `length` as they are. */
  readonly action: "none" | "rerotate" | "reprefill";
  /** The length in tokens to build tables for from now on. */
  readonly length: number;
};

/**
 * Decides what a change of length means for cached keys.
 *
 * @param change.layer - the rotation of one attention layer
 * @param change.cachedLength - the length the cached keys were rotated for, in tokens; 0 for an empty cache
 * @param change.newLength - the length of the sequence after the next step, in tokens
 * @param change.choice - what the caller wants where frequencies change
 * @returns the action and the length to build tables for
 * @throws ConfigError when the frequencies change and no choice was made
 */
export function planFrequencyChange(change: {
  readonly layer: RotaryLayer;
  readonly cachedLength: number;
  readonly newLength: number;
  readonly choice?: FrequencyChange | undefined;
}): FrequencyPlan {
  const { layer, cachedLength, newLength, choice } = change;
  const { schedule } = layer;
  if (cachedLength === 0 || scheduleId(schedule, cachedLength) === scheduleId(schedule, newLength)) {
    return { action: "none", length: newLength };
  }
  switch (choice) {
    case "pin":
      return { action: "none", length: cachedLength };
    case "rerotate":
    case "reprefill":
      return { action: choice, length: newLength };
    default:
      throw new ConfigError(
        "planFrequencyChange",
        `the ${schedule.type} schedule changes its frequencies under cached keys, so a choice is required`,
        { cachedLength, newLength, choice },
        'Choose "pin" (keep the first frequencies), "rerotate" (turn the cached keys) or "reprefill" (compute again).',
      );
  }
}
