/**
 * The cache: keys and values of every layer that remember their positions, and every operation on them.
 *
 * `append`, `view`, `length` and `fork` may be used while a decoder's step is pending: what they store is issued to
 * the memory, in order. All other operations read and rewrite rows in place from here, so they must wait until
 * everything issued has taken effect (between the steps of a model; after `flush` of a backend).
 */

import type { KeyValues } from "../attention/index.ts";
import { ConfigError, ShapeError } from "../errors.ts";
import { dependsOnLength, type RotaryLayer, scheduleId } from "../rope/index.ts";
import { checkKept, checkSlotPositions, checkWindow, unknownLength } from "./check.ts";
import { createLanes, createNarrowLanes, type Lane } from "./lane.ts";
import type { ResolvedLayer } from "./layer-spec.ts";
import { changeLaneFrequencies, moveLane, type Places } from "./move.ts";
import { canNarrow, leaveEmpty, widenLayer } from "./narrow.ts";
import { type LayerState, lanesOf, PositionedRows, positionAfter } from "./positioned-rows.ts";

/**
 * New positions of the slots of a lane: one list, or one and a list per axis. A single list on a cache with axes moves
 * every axis of a slot by the same amount.
 */
export type SlotPositions = Int32Array | { readonly positions: Int32Array; readonly axes: readonly Int32Array[] };

/** Keys and values that remember their positions. */
export class PositionedCache<View extends KeyValues = KeyValues> extends PositionedRows<View> {
  /** A cache of the same rows. The two share storage until one of them writes. */
  fork(): PositionedCache<View> {
    const forked = (lanes: readonly Lane[]): Lane[] => lanes.map((lane) => lane.fork());
    const states = this.states.map(({ spec, lanes, narrow }) => ({
      spec,
      lanes: forked(lanes),
      narrow: forked(narrow),
    }));
    const fork = new PositionedCache<View>(this, [], states);
    fork.scheduleLength = this.scheduleLength;
    fork.next = this.next;
    return fork;
  }

  /**
   * Forgets every row at position `length` or later, as if the text had ended there. Keeps spare memory.
   *
   * @throws CapabilityError when a ring has already let go of rows that the window of the next token needs
   */
  crop(length: number): void {
    this.checkSettled("crop");
    if (!(Number.isSafeInteger(length) && length >= 0)) {
      throw new ConfigError("cache.crop", "length must be a count of positions", { length });
    }
    for (const { spec, lanes } of this.states) {
      if (spec.layout.type === "ring") for (const lane of lanes) checkWindow(lane, spec.layout.window, length);
    }
    this.#keepWhere((position) => position < length, true);
    this.next = Math.min(this.next, length);
  }

  /**
   * Forgets the rows at positions `start` to `end` − 1.
   *
   * @param options.closeGap - move what follows by start − end, so that no gap remains; false unless told
   * @param options.segment - only in this segment; default: in all
   * @throws ConfigError when the gap cannot be closed because a layer's rotation is not known
   */
  erase(start: number, end: number, options: { closeGap?: boolean; segment?: number } = {}): void {
    const { closeGap = false, segment } = options;
    this.checkSettled("erase");
    if (!(Number.isSafeInteger(start) && Number.isSafeInteger(end) && start <= end)) {
      throw new ConfigError("cache.erase", "start and end must be positions, start <= end", { start, end });
    }
    if (closeGap) for (const [layer, { spec }] of this.states.entries()) this.#rotaryOf("erase", spec, layer);
    const concerned = (of: number): boolean => segment === undefined || of === segment;
    this.#keepWhere((position, of) => position < start || position >= end || !concerned(of), false);
    if (!closeGap) return;
    for (const [layer, { lanes }] of this.states.entries()) {
      const moved = lanes.map((_, head) => {
        const segments = this.segments(layer, head);
        return this.positions(layer, head).map((position, slot) =>
          position >= end && concerned(segments[slot]) ? position - (end - start) : position,
        );
      });
      this.#moveRows(layer, moved);
    }
    if (segment !== undefined) this.next = this.#positionAfterRows();
    else if (this.next >= end) this.next -= end - start;
    else this.next = Math.min(this.next, Math.max(start, 0));
  }

  /**
   * Keeps chosen rows of one layer, at their positions, and gives the memory of the others back (a layer of fixed
   * capacity keeps its memory, pages return to their pool).
   *
   * @param kept - slots to keep, ascending: one list for all heads, or one for each key-value head. Lists that differ
   *   make the layer ragged.
   * @throws ConfigError when a list is empty, not ascending or out of range
   */
  compact(layer: number, kept: Int32Array | readonly Int32Array[]): void {
    this.checkSettled("compact");
    const state = this.state("compact", layer);
    const { kvHeads } = state.spec;
    const lists = kept instanceof Int32Array ? Array.from({ length: kvHeads }, () => kept) : kept;
    if (lists.length !== kvHeads) {
      throw new ShapeError("cache.compact", `kept must have ${kvHeads} lists`, { lists: lists.length, layer });
    }
    lists.forEach((list, head) => {
      checkKept("cache.compact", list, this.length(layer, head), { layer, head });
    });
    if (state.lanes.length === 1 && lists.some((list) => !sameList(list, lists[0]))) this.#split(state, lists);
    else {
      for (const [head, lane] of state.lanes.entries()) {
        const [older, newer] = apart(lists[head], state.narrow[head]?.length ?? 0);
        state.narrow[head]?.keep(older);
        lane.keep(newer);
      }
    }
    leaveEmpty(state);
  }

  /**
   * Moves the rows of one layer to new positions: keys turn by the difference, values stay. The attention factor is
   * not applied again. The next position follows the largest one of the cache. Keys that hold some of their channels
   * and turn get their full width back first.
   *
   * @param positions - [length] for all heads; a ragged layer takes `perHead`, one entry for each
   * @throws ShapeError when lengths differ; ConfigError when the layer's rotation is not known
   */
  moveTo(layer: number, positions: SlotPositions | { readonly perHead: readonly SlotPositions[] }): void {
    this.checkSettled("moveTo");
    const { spec, lanes } = this.state("moveTo", layer);
    this.#rotaryOf("moveTo", spec, layer);
    const perLane = "perHead" in positions ? positions.perHead : [positions];
    if (perLane.length !== lanes.length) {
      throw new ShapeError("cache.moveTo", "positions must have one entry per head where heads are ragged", {
        entries: perLane.length,
        heads: lanes.length,
        layer,
      });
    }
    perLane.forEach((to, head) => {
      checkSlotPositions("cache.moveTo", to, this.length(layer, head), this.axes);
    });
    this.#moveRows(layer, perLane);
    this.next = this.#positionAfterRows();
  }

  /**
   * Turns the keys of all layers whose schedule depends on the length to the frequencies of another length; positions
   * stay. Restores every key's angle, not what deeper layers computed under the old frequencies.
   *
   * @param toLength - tokens
   * @throws ConfigError when `scheduleLength` is not known
   */
  changeFrequencies(toLength: number): void {
    this.checkSettled("changeFrequencies");
    if (!(Number.isSafeInteger(toLength) && toLength > 0)) {
      throw new ConfigError("cache.changeFrequencies", "toLength must be a positive integer", { toLength });
    }
    const changing = this.states.filter(({ spec }) => spec.rotary && dependsOnLength(spec.rotary.schedule));
    if (changing.length > 0 && this.length() > 0 && this.scheduleLength === 0) {
      throw unknownLength("cache.changeFrequencies");
    }
    for (const state of changing) {
      const rotary = state.spec.rotary as RotaryLayer;
      if (scheduleId(rotary.schedule, this.scheduleLength) === scheduleId(rotary.schedule, toLength)) continue;
      widenLayer(this, state);
      for (const lane of state.lanes) changeLaneFrequencies(lane, rotary, this.scheduleLength, toLength);
    }
    this.scheduleLength = toLength;
  }

  /**
   * Appends the rows of another cache, with their positions and segments, bit for bit. Keys that hold some of their
   * channels stay so where this layer is empty, and are of full width otherwise.
   *
   * @throws ConfigError when the two hold different kinds of rows, or rows rotated by different schedules
   * @throws BudgetError when a layer cannot hold them
   */
  merge(other: PositionedCache<View>): void {
    this.checkSettled("merge");
    const length = this.length() === 0 ? other.scheduleLength : this.scheduleLength;
    if (this.rowKind(length) !== other.rowKind()) {
      throw new ConfigError(
        "cache.merge",
        "caches of the same layers, elements and rotations",
        {},
        "Make both caches with the same layers, for the same schedule length.",
      );
    }
    for (const [layer, { lanes: added, narrow }] of other.states.entries()) {
      const state = this.states[layer];
      const all = Int32Array.from({ length: this.length(layer) }, (_, slot) => slot);
      if (added.length > state.lanes.length)
        this.#split(
          state,
          Array.from(added, () => all),
        );
      const staysNarrow = narrow.length > 0 && all.length === 0 && canNarrow(state.spec);
      if (staysNarrow) {
        state.narrow = createNarrowLanes(
          this,
          state.spec,
          narrow.flatMap(({ channels = [] }) => channels),
          state.lanes.length > 1,
        );
      }
      for (const [head, lane] of state.lanes.entries()) {
        const from = Math.min(head, added.length - 1);
        const first = added.length > 1 ? 0 : head;
        const older = staysNarrow ? state.narrow[head] : lane;
        if (narrow.length > 0) older.appendCopies(narrow[from], first, narrow[from].slots);
        lane.appendCopies(added[from], first, added[from].slots);
      }
    }
    this.scheduleLength = length;
    this.next = Math.max(this.next, other.nextPosition);
  }

  /** Forgets everything; the memory of plain layers stays for what comes next. */
  clear(): void {
    for (const state of this.states) {
      for (const lane of state.narrow) lane.store.dispose();
      state.narrow = [];
      if (state.lanes.length > 1 && this.pools === undefined) {
        for (const lane of state.lanes) lane.store.dispose();
        state.lanes = createLanes(this, state.spec, false);
      } else for (const lane of state.lanes) lane.crop(0);
    }
    this.next = 0;
    this.scheduleLength = 0;
  }

  /** Gives all memory back; the cache is empty then. Forks keep theirs. */
  dispose(): void {
    for (const lane of this.states.flatMap(lanesOf)) lane.store.dispose();
    this.pools = this.pools?.renewed();
    for (const state of this.states) {
      state.narrow = [];
      state.lanes = createLanes(this, state.spec, false);
    }
    this.next = 0;
    this.scheduleLength = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * For a step that failed: takes back the last rows of every layer, as if they had not come. May be used while something
   * is pending: rows that are written later are nobody's then.
   *
   * @param counts - [L] rows of every head
   * @param nextPosition - where the next token went before
   */
  takeBack(counts: readonly number[], nextPosition: number): void {
    for (const [layer, { lanes }] of this.states.entries()) {
      if (counts[layer] > 0) for (const lane of lanes) lane.crop(Math.max(0, lane.length - counts[layer]));
    }
    this.next = nextPosition;
  }

  /** Refuses when something issued to the memory has not taken effect yet. */
  checkSettled(method: string): void {
    if (!this.memory.pending) return;
    throw new ConfigError(
      `cache.${method}`,
      "everything issued must have taken effect",
      { pending: true },
      "Wait for the model's step to end, or flush the backend.",
    );
  }

  /**
   * For restoring a snapshot: empty lanes, one per head where told, and the position that follows.
   *
   * @param channels - [layers] i32 [Hk][D′], what the keys of older rows hold; undefined where there are none
   */
  prepare(
    perHead: readonly boolean[],
    nextPosition: number,
    scheduleLength: number,
    channels: readonly (readonly Int32Array[] | undefined)[] = [],
  ): void {
    this.dispose();
    for (const [layer, state] of this.states.entries()) {
      if (perHead[layer] && !this.headsApart) state.lanes = createLanes(this, state.spec, true);
      const held = channels[layer];
      if (held) state.narrow = createNarrowLanes(this, state.spec, held, state.lanes.length > 1);
    }
    this.next = nextPosition;
    this.scheduleLength = scheduleLength;
  }

  #split(state: LayerState, kept: readonly Int32Array[]): void {
    const [whole] = state.lanes;
    const [older] = state.narrow;
    const lanes = createLanes(this, state.spec, true);
    const narrow = older?.channels ? createNarrowLanes(this, state.spec, older.channels, true) : [];
    try {
      for (const [head, lane] of lanes.entries()) {
        const [first, rest] = apart(kept[head], older?.length ?? 0);
        if (older) narrow[head].appendCopies(older, head, first);
        lane.appendCopies(whole, head, rest);
        lane.hasDropped = whole.hasDropped;
      }
    } catch (error) {
      for (const lane of [...narrow, ...lanes]) lane.store.dispose();
      throw error;
    }
    for (const lane of lanesOf(state)) lane.store.dispose();
    state.lanes = lanes;
    state.narrow = narrow;
  }

  /** @param to - one entry for each lane, of all its rows */
  #moveRows(layer: number, to: readonly SlotPositions[]): void {
    const state = this.states[layer];
    const rotary = this.#rotaryOf("moveTo", state.spec, layer);
    const places = to.map((target, head): Places => {
      if (!(target instanceof Int32Array)) return target;
      return shifted(this.positions(layer, head), this.axisPositions(layer, head), target);
    });
    if (rotary && state.narrow.some((lane, head) => !isAt(lane, places[head]))) widenLayer(this, state);
    for (const [head, { positions, axes }] of places.entries()) {
      const older = state.narrow[head];
      const count = older?.length ?? 0;
      older?.moveTo({
        positions: positions.subarray(0, count),
        axes: axes.map((axis) => axis.subarray(0, count)),
      });
      const newer = { positions: positions.subarray(count), axes: axes.map((axis) => axis.subarray(count)) };
      moveLane(state.lanes[head], rotary, newer, this.scheduleLength);
    }
  }

  /** The rotation of a layer whose rows shall move. */
  #rotaryOf(method: string, { rotary }: ResolvedLayer, layer: number): RotaryLayer | null {
    if (rotary === undefined) {
      throw new ConfigError(
        `cache.${method}`,
        "the rotation of a layer must be known to move its rows",
        { layer },
        "Give the layer's rotary when the cache is made; null where keys are not rotated.",
      );
    }
    if (rotary && dependsOnLength(rotary.schedule) && this.scheduleLength === 0 && this.length() > 0) {
      throw unknownLength(`cache.${method}`);
    }
    return rotary;
  }

  /** @param keepMemory - do not give memory back where only the end goes */
  #keepWhere(keeps: (position: number, segment: number) => boolean, keepMemory: boolean): void {
    for (const lane of this.states.flatMap(lanesOf)) {
      const { positions, segments } = lane;
      const slots = Int32Array.from(positions.keys()).filter((slot) => keeps(positions[slot], segments[slot]));
      const onlyTheEndGoes = slots.length === 0 || slots[slots.length - 1] === slots.length - 1;
      // Nothing is ever appended to keys that hold some of their channels.
      if (keepMemory && onlyTheEndGoes && lane.channels === undefined) lane.crop(slots.length);
      else lane.keep(slots);
    }
    for (const state of this.states) leaveEmpty(state);
  }

  #positionAfterRows(): number {
    let next = 0;
    for (const lane of this.states.flatMap(lanesOf)) {
      for (const list of [lane.positions, ...lane.axes]) next = Math.max(next, positionAfter(list));
    }
    return next;
  }
}

/** Where slots are when their positions change and their axes go along. */
function shifted(before: Int32Array, axes: readonly Int32Array[], positions: Int32Array): Places {
  const along = (axis: Int32Array): Int32Array => axis.map((at, slot) => at + positions[slot] - before[slot]);
  return { positions, axes: axes.map(along) };
}

/** Whether the first of these places are where the slots of a lane are. */
function isAt(lane: Lane, { positions, axes }: Places): boolean {
  const same = (now: Int32Array, then: Int32Array): boolean => now.every((at, slot) => at === then[slot]);
  return same(lane.positions, positions) && lane.axes.every((axis, a) => same(axis, axes[a]));
}

/** Ascending slots below `count`, and the others less `count`. */
function apart(slots: Int32Array, count: number): [Int32Array, Int32Array] {
  if (count === 0) return [new Int32Array(0), slots];
  const end = slots.findIndex((slot) => slot >= count);
  const first = end < 0 ? slots.length : end;
  return [slots.subarray(0, first), slots.subarray(first).map((slot) => slot - count)];
}

function sameList(a: Int32Array, b: Int32Array): boolean {
  return a === b || (a.length === b.length && a.every((slot, at) => slot === b[at]));
}
