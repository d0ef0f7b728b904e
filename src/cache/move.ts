/**
 * Moving the keys of a lane: to other positions, or to the frequencies of another length.
 *
 * Keys turn by the difference and nothing else happens to them: the attention factor was applied when they were first
 * rotated. A key that does not move is not touched. Cosines and sines are f64: rounded to f32 they make a key shorter
 * or longer by 1e-7 each time it turns by the same angle, which adds up; what is left is the rounding of the key.
 */

import { frequencies, type RotaryLayer, type RotationInput, rerotationTable, rotateInto } from "../rope/index.ts";
import type { Lane } from "./lane.ts";
import { runsOf } from "./slot-store.ts";

/** Rows turned at a time; bounds the memory of a move. */
const BATCH_ROWS = 256;

/** Positions, and positions on each axis. */
export type Places = { readonly positions: Int32Array; readonly axes: readonly Int32Array[] };

/**
 * Moves every slot of a lane.
 *
 * @param rotary - the rotation of the lane's keys; null where they are not rotated
 * @param to - [length] new positions
 * @param scheduleLength - the length that the frequencies of the keys were chosen for
 */
export function moveLane(lane: Lane, rotary: RotaryLayer | null, to: Places, scheduleLength: number): void {
  if (rotary !== null) {
    const { pristine } = lane.store.block;
    const now = rotatedBy(rotary, { positions: lane.positions, axes: lane.axes });
    const from = pristine ? rotatedBy(rotary, lane.origins) : now;
    const target = rotatedBy(rotary, to);
    const moves = (slot: number): boolean => target.some((row, a) => row[slot] !== now[a][slot]);
    turn(lane, rotary, moves, differenceTables(rotary, from, target, scheduleLength));
  }
  lane.moveTo(to);
}

/** Turns every key of a lane from the frequencies of one length to those of another. */
export function changeLaneFrequencies(lane: Lane, rotary: RotaryLayer, fromLength: number, toLength: number): void {
  const rows = rotatedBy(rotary, { positions: lane.positions, axes: lane.axes });
  turn(
    lane,
    rotary,
    () => true,
    (slot, count) => {
      const positions = rows.map((row) => row.subarray(slot, slot + count));
      return rerotationTable(rotary, { positions, length: fromLength }, { positions, length: toLength });
    },
  );
}

/** The rows of positions that a rotation turns by. */
function rotatedBy(rotary: RotaryLayer, { positions, axes }: Places): readonly Int32Array[] {
  return rotary.pairAxes !== undefined && axes.length > 0 ? axes : [positions];
}

/** Turns the keys of the slots that move, each run of them by its table. */
function turn(
  lane: Lane,
  rotary: RotaryLayer,
  moves: (slot: number) => boolean,
  tables: (slot: number, count: number) => RotationInput,
): void {
  const { store, heads } = lane;
  for (let start = 0; start < lane.length; ) {
    let end = start;
    while (end < lane.length && moves(end)) end++;
    if (end === start) {
      start++;
      continue;
    }
    store.own(start, end);
    const { keys, pristine = keys } = store.block;
    for (const { slot, row, count } of runsOf(store, start, end, BATCH_ROWS)) {
      const x = pristine.load(row, count);
      rotateInto(x, x, tables(slot, count), { heads, headDim: rotary.headDim });
      keys.save(row, count, x);
    }
    start = end;
  }
}

/** Tables by the difference of positions; each difference is computed once. */
function differenceTables(
  rotary: RotaryLayer,
  from: readonly Int32Array[],
  to: readonly Int32Array[],
  scheduleLength: number,
): (slot: number, count: number) => RotationInput {
  const { rotaryDim, rotaryOffset, pairing, pairAxes, schedule } = rotary;
  const { inverseFrequencies } = frequencies(schedule, scheduleLength);
  const pairs = rotaryDim / 2;
  const known = new Map<number | string, { cos: Float64Array; sin: Float64Array }>();
  const anglesOf = (slot: number): { cos: Float64Array; sin: Float64Array } => {
    const difference = to.map((row, a) => row[slot] - from[a][slot]);
    const name = difference.length === 1 ? difference[0] : difference.join();
    let found = known.get(name);
    if (found === undefined) {
      const axisOf = (pair: number): number => (to.length === 1 ? 0 : (pairAxes?.[pair] ?? 0));
      const angles = inverseFrequencies.map((omega, pair) => difference[axisOf(pair)] * omega);
      found = { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
      known.set(name, found);
    }
    return found;
  };
  return (slot, count) => {
    const cos = new Float64Array(count * pairs);
    const sin = new Float64Array(count * pairs);
    for (let t = 0; t < count; t++) {
      const angles = anglesOf(slot + t);
      cos.set(angles.cos, t * pairs);
      sin.set(angles.sin, t * pairs);
    }
    return { cos, sin, rotaryDim, rotaryOffset, pairing };
  };
}
