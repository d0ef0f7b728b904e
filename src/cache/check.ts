/**
 * Refusals of arguments that do not fit the cache.
 */

import { CapabilityError, ConfigError, ShapeError } from "../errors.ts";
import type { KvRows } from "./cache.ts";
import type { Lane } from "./lane.ts";
import type { KvLayerShape } from "./layer-spec.ts";
import type { Places } from "./move.ts";

/** Refuses rows of the wrong shape. */
export function checkRows(where: string, rows: KvRows, shape: KvLayerShape, axes: number): void {
  const count = rows.positions.length;
  const wanted: Record<string, readonly number[]> = {
    keys: [count, shape.kvHeads, shape.keyDim],
    values: [count, shape.kvHeads, shape.valueDim],
    segments: [count],
  };
  const given: Record<string, readonly number[]> = {
    keys: rows.keys.shape,
    values: rows.values.shape,
    segments: [rows.segments.length],
  };
  for (const [name, want] of Object.entries(wanted)) {
    if (given[name].join() !== want.join()) {
      throw new ShapeError(where, `${name} must be [${want.join(", ")}]`, { [name]: given[name] });
    }
  }
  if (rows.axes !== undefined) checkAxes(where, rows.axes, count, axes);
}

/** Refuses lists of slots that are empty, not ascending or out of range. */
export function checkKept(where: string, kept: Int32Array, length: number, place: Record<string, number>): void {
  if (kept.length === 0) {
    throw new ConfigError(where, "at least one row must be kept", place, "Use clear to forget everything.");
  }
  for (let at = 0; at < kept.length; at++) {
    const slot = kept[at];
    if (slot < 0 || slot >= length || (at > 0 && slot <= kept[at - 1])) {
      throw new ConfigError(where, `slots must ascend from 0 to ${length - 1}`, { slot, index: at, ...place });
    }
  }
}

/** Refuses new positions that are not one for each slot. */
export function checkSlotPositions(where: string, to: Int32Array | Places, length: number, axes: number): void {
  const positions = to instanceof Int32Array ? to : to.positions;
  if (positions.length !== length) {
    throw new ShapeError(where, "positions must have one entry per row", { positions: positions.length, rows: length });
  }
  if (!(to instanceof Int32Array)) checkAxes(where, to.axes, length, axes);
}

/** Refuses to go back where a ring no longer has the rows that the window of the next token needs. */
export function checkWindow(lane: Lane, window: number, length: number): void {
  if (!lane.hasDropped) return;
  let first = Infinity;
  for (const position of lane.positions) first = Math.min(first, position);
  if (length - window + 1 >= first) return;
  throw new CapabilityError(
    "cache.crop",
    "a ring that still has the window before the new end",
    { length, window, firstPosition: first },
    "Fork the cache before the rows are needed again, or use a contiguous layer.",
  );
}

/** The refusal of a move without the length that frequencies depend on. */
export function unknownLength(where: string): ConfigError {
  return new ConfigError(
    where,
    "scheduleLength must be set for a schedule that depends on the length",
    { scheduleLength: 0 },
    "Set it to the length that the stored keys were rotated for.",
  );
}

function checkAxes(where: string, lists: readonly Int32Array[], count: number, axes: number): void {
  if (lists.length === axes && lists.every((list) => list.length === count)) return;
  throw new ShapeError(where, `axes must be ${axes} lists of one position per row`, {
    lengths: lists.map((list) => list.length),
    rows: count,
  });
}
