/**
 * Moving keys that are already rotated: to other positions, to other frequencies, or both.
 *
 * A key rotated at position p with frequencies ω has angle p·ω, so turning it by p'·ω' − p·ω gives what a fresh
 * rotation would. The attention factor was applied when the key was first rotated and is not applied again; where
 * it differs between the two lengths the key is multiplied by the ratio.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import type { RotaryLayer } from "./layer.ts";
import { rotateInto } from "./rotate.ts";
import { dependsOnLength, frequencies, scheduleId } from "./schedule.ts";
import { type Positions, positionRow, positionRows, type RotaryTable, tableOf } from "./table.ts";

/** Where keys are, or shall be. */
export type RotaryState = {
  /** [T], or one row [T] per axis. */
  readonly positions: Positions;
  /** The length the frequencies were chosen for; required only where the schedule depends on it. */
  readonly length?: number;
};

/**
 * The table that turns keys rotated at one state into keys rotated at another.
 *
 * @param layer - the rotation of one attention layer
 * @param from - the state the keys were rotated at
 * @param to - the state they shall have
 * @returns f32 [T, R/2] cosines and sines of the difference, for `rotateInto`
 * @throws ConfigError when the schedule depends on the length and one is missing; ShapeError when rows differ
 */
export function rerotationTable(layer: RotaryLayer, from: RotaryState, to: RotaryState): RotaryTable {
  const where = "rerotationTable";
  const fromRows = positionRows(where, layer, from.positions);
  const toRows = positionRows(where, layer, to.positions);
  if (fromRows[0].length !== toRows[0].length) {
    throw new ShapeError(where, "both states must have the same number of tokens", {
      from: fromRows[0].length,
      to: toRows[0].length,
    });
  }
  const rows = fromRows[0].length;
  const { schedule } = layer;
  const fromLength = lengthOfState(layer, from);
  const toLength = lengthOfState(layer, to);
  const old = frequencies(schedule, fromLength);
  const position = (axes: readonly ArrayLike<number>[], pair: number, row: number): number =>
    positionRow(layer, axes, pair)[row];
  if (scheduleId(schedule, fromLength) === scheduleId(schedule, toLength)) {
    return tableOf(layer, rows, 1, (pair, row) => {
      return (position(toRows, pair, row) - position(fromRows, pair, row)) * old.inverseFrequencies[pair];
    });
  }
  const next = frequencies(schedule, toLength);
  return tableOf(layer, rows, next.attentionFactor / old.attentionFactor, (pair, row) => {
    const before = position(fromRows, pair, row) * old.inverseFrequencies[pair];
    return position(toRows, pair, row) * next.inverseFrequencies[pair] - before;
  });
}

/**
 * Re-rotates keys into `out`.
 *
 * @param out - f32 [T, H, D]; may be `keys` itself
 * @param keys - f32 [T, H, D], rotated at `from`
 * @param layer - the rotation of one attention layer; its headDim is D
 * @throws as `rerotationTable` and `rotateInto`
 */
export function rerotateInto(
  out: Float32Array,
  keys: Float32Array,
  layer: RotaryLayer,
  options: { readonly heads: number; readonly from: RotaryState; readonly to: RotaryState },
): void {
  const { heads, from, to } = options;
  rotateInto(out, keys, rerotationTable(layer, from, to), { heads, headDim: layer.headDim });
}

/**
 * Turns keys in place from the frequencies of one length to those of another; their positions stay.
 *
 * This repairs every key's angle. It does not give what a fresh prefill at the new length would: deeper layers saw
 * the old frequencies when they computed these keys and values.
 *
 * @param keys - f32 [T, H, D], rotated with the frequencies of `fromLength`
 * @param layer - the rotation of one attention layer
 * @param positions - [T], or one row [T] per axis
 * @param options - lengths in tokens, H and D
 * @throws as `rerotationTable` and `rotateInto`
 */
export function rerotateFrequencies(
  keys: Float32Array,
  layer: RotaryLayer,
  positions: Positions,
  options: { readonly fromLength: number; readonly toLength: number; readonly heads: number; readonly headDim: number },
): void {
  const { fromLength, toLength, heads, headDim } = options;
  const from = { positions, length: fromLength };
  const to = { positions, length: toLength };
  rotateInto(keys, keys, rerotationTable(layer, from, to), { heads, headDim });
}

function lengthOfState({ schedule }: RotaryLayer, state: RotaryState): number {
  if (state.length !== undefined) return state.length;
  if (dependsOnLength(schedule)) {
    throw new ConfigError(
      "rerotationTable",
      "length is required for a schedule that depends on it",
      { type: schedule.type },
      "Pass the length the keys were rotated for, and the one they shall have.",
    );
  }
  return 1;
}
