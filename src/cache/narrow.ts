/**
 * Rows whose keys hold some of their channels: making them, and giving them their width back.
 *
 * Such rows are the older ones of a layer and lie in lanes of their own; what is appended later is of full width.
 */

import type { KeyValues, KvView } from "../attention/index.ts";
import { ShapeError } from "../errors.ts";
import { tensor } from "../tensor.ts";
import { createLanes, createNarrowLanes, type Lane, type LaneOwner } from "./lane.ts";
import type { ResolvedLayer } from "./layer-spec.ts";
import type { PositionedCache } from "./positioned-cache.ts";
import type { LayerState } from "./positioned-rows.ts";
import { clearKeyChannels } from "./rewrite.ts";
import { runsOf } from "./slot-store.ts";

/**
 * Lets go of key channels in every row that a layer holds now; attention and every operation go on as if they were 0.
 *
 * All heads then hold as many channels as the one that drops fewest. The memory is given back at once, but for what forks
 * share. Layers whose memory is fixed (a ring, a `capacity`) keep it: there the channels are only cleared.
 *
 * @param dropped - u8 [Hk][D], 1 for channels that go
 * @throws ShapeError when there is not one list of D for each head
 */
export function dropKeyChannels<View extends KeyValues>(
  cache: PositionedCache<View>,
  layer: number,
  dropped: readonly Uint8Array[],
): void {
  cache.checkSettled("dropKeyChannels");
  const state = cache.states[layer];
  const { kvHeads, keyDim } = state.spec;
  if (dropped.length !== kvHeads || dropped.some((list) => list.length !== keyDim)) {
    throw new ShapeError("dropKeyChannels", `dropped must be [${kvHeads}][${keyDim}]`, {
      lengths: dropped.map((list) => list.length),
      layer,
    });
  }
  const counts = dropped.map((list) => list.filter((goes) => !goes).length);
  const width = Math.max(1, ...counts);
  const narrows = width < keyDim && canNarrow(state.spec) && cache.length(layer) > 0;
  if (narrows) {
    narrowLayer(
      cache,
      state,
      dropped.map((list) => firstChannels(list, width)),
    );
  }
  if (narrows ? counts.some((count) => count < width) : dropped.some((list) => list.some(Boolean))) {
    clearKeyChannels(cache, layer, dropped);
  }
}

/** Whether a layer's memory follows its rows, so that narrower ones take less. */
export function canNarrow({ layout, capacity }: ResolvedLayer): boolean {
  return layout.type !== "ring" && capacity === undefined;
}

/** Gives the older rows of a layer their full width back; what was let go of is 0. */
export function widenLayer(owner: LaneOwner, state: LayerState): void {
  if (state.narrow.length === 0) return;
  const wide = filled(createLanes(owner, state.spec, state.lanes.length > 1), state);
  disposeLanes(state);
  state.lanes = wide;
  state.narrow = [];
}

/** Rows of full width as plain numbers. */
export function wideView({ keyDim, valueDim }: ResolvedLayer, parts: readonly Lane[]): KvView {
  const rows = parts.reduce((sum, lane) => sum + lane.length, 0);
  const { heads } = parts[0];
  const keys = new Float32Array(rows * heads * keyDim);
  const values = new Float32Array(rows * heads * valueDim);
  const positions = new Int32Array(rows);
  const segments = new Int32Array(rows);
  let first = 0;
  for (const lane of parts) {
    const { block } = lane.store;
    for (const { slot, row, count } of runsOf(lane.store, 0, lane.length)) {
      const at = first + slot;
      values.set(block.values.load(row, count), at * heads * valueDim);
      const own = block.keys.load(row, count);
      if (lane.channels === undefined) keys.set(own, at * heads * keyDim);
      else scatter(keys.subarray(at * heads * keyDim), keyDim, own, lane.channels);
    }
    positions.set(lane.positions, first);
    segments.set(lane.segments, first);
    first += lane.length;
  }
  return {
    keys: tensor("f32", [rows, heads, keyDim], keys),
    values: tensor("f32", [rows, heads, valueDim], values),
    positions,
    segments,
  };
}

/** Lets go of older rows' lanes that have no rows left. */
export function leaveEmpty(state: LayerState): void {
  if (state.narrow.some((lane) => lane.length > 0)) return;
  for (const lane of state.narrow) lane.store.dispose();
  state.narrow = [];
}

function narrowLayer(owner: LaneOwner, state: LayerState, channels: readonly Int32Array[]): void {
  const perHead = state.lanes.length > 1;
  const narrow = filled(createNarrowLanes(owner, state.spec, channels, perHead), state);
  if (state.narrow.length > 0) for (const lane of narrow) lane.trim();
  disposeLanes(state);
  state.narrow = narrow;
  state.lanes = createLanes(owner, state.spec, perHead);
}

/** Lanes with copies of all rows of a layer, or none at all where memory does not suffice. */
function filled(lanes: readonly Lane[], { narrow, lanes: full }: LayerState): readonly Lane[] {
  try {
    for (const [n, lane] of lanes.entries()) {
      for (const part of narrow[n] ? [narrow[n], full[n]] : [full[n]]) lane.appendCopies(part, 0, part.slots);
    }
    return lanes;
  } catch (error) {
    for (const lane of lanes) lane.store.dispose();
    throw error;
  }
}

function disposeLanes({ narrow, lanes }: LayerState): void {
  for (const lane of [...narrow, ...lanes]) lane.store.dispose();
}

/** The channels that stay, and the first of the others up to `width`, ascending. */
function firstChannels(dropped: Uint8Array, width: number): Int32Array {
  const all = Int32Array.from(dropped.keys());
  return all
    .sort((a, b) => dropped[a] - dropped[b] || a - b)
    .slice(0, width)
    .sort();
}

/** Puts the channels of units [count, heads, width] where they belong in units of `dim`. */
function scatter(out: Float32Array, dim: number, units: Float32Array, channels: readonly Int32Array[]): void {
  const width = channels[0].length;
  for (let n = 0; n < units.length; n++) {
    const unit = Math.floor(n / width);
    out[unit * dim + channels[unit % channels.length][n % width]] = units[n];
  }
}
