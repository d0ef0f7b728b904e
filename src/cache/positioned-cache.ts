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
import { createLanes, type Lane } from "./lane.ts";
import type { ResolvedLayer } from "./layer-spec.ts";
import { changeLaneFrequencies, moveLane, type Places } from "./move.ts";
import { type LayerState, PositionedRows, positionAfter } from "./positioned-rows.ts";

/**
 * New positions of the slots of a lane: one list, or one and a list per axis. A single list on a cache with axes moves
 * every axis of a slot by the same amount.
 */
export type SlotPositions = Int32Array | { readonly positions: Int32Array; readonly axes: readonly Int32Array[] };

/** Keys and values that remember their positions. */
export class PositionedCache<View extends KeyValues = KeyValues> extends PositionedRows<View> {
  /** A cache of the same rows. The two share storage until one of them writes. */
  fork(): PositionedCache<View> {
    const states = this.states.map(({ spec, lanes }) => ({ spec, lanes: lanes.map((lane) => lane.fork()) }));
    const fork = new PositionedCache<View>([], this.memory, this.axes, states);
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
      for (const lane of lanes) {
        const { segments } = lane;
        const shift = (position: number, slot: number): number =>
          position >= end && concerned(segments[slot]) ? position - (end - start) : position;
        this.#moveLane(layer, lane, lane.positions.map(shift));
      }
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
    else for (const [head, lane] of state.lanes.entries()) lane.keep(lists[head]);
  }

  /**
   * Moves the rows of one layer to new positions: keys turn by the difference, values stay. The attention factor is
   * not applied again. The next position follows the largest one of the cache.
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
      checkSlotPositions("cache.moveTo", to, lanes[head].length, this.axes);
    });
    perLane.forEach((to, head) => {
      this.#moveLane(layer, lanes[head], to);
    });
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
    for (const { spec, lanes } of changing) {
      const rotary = spec.rotary as RotaryLayer;
      if (scheduleId(rotary.schedule, this.scheduleLength) === scheduleId(rotary.schedule, toLength)) continue;
      for (const lane of lanes) changeLaneFrequencies(lane, rotary, this.scheduleLength, toLength);
    }
    this.scheduleLength = toLength;
  }

  /**
   * Appends the rows of another cache, with their positions and segments, bit for bit.
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
    for (const [layer, { lanes: added }] of other.states.entries()) {
      const state = this.states[layer];
      const all = Int32Array.from({ length: this.length(layer) }, (_, slot) => slot);
      if (added.length > state.lanes.length)
        this.#split(
          state,
          Array.from(added, () => all),
        );
      for (const [head, lane] of state.lanes.entries()) {
        const source = added[Math.min(head, added.length - 1)];
        const slots = Int32Array.from({ length: source.length }, (_, slot) => slot);
        lane.appendCopies(source, added.length > 1 ? 0 : head, slots);
      }
    }
    this.scheduleLength = length;
    this.next = Math.max(this.next, other.nextPosition);
  }

  /** Forgets everything; the memory of plain layers stays for what comes next. */
  clear(): void {
    for (const state of this.states) {
      if (state.lanes.length > 1) {
        for (const lane of state.lanes) lane.store.dispose();
        state.lanes = createLanes(this, state.spec, false);
      } else state.lanes[0].crop(0);
    }
    this.next = 0;
    this.scheduleLength = 0;
  }

  /** Gives all memory back; the cache is empty then. Forks keep theirs. */
  dispose(): void {
    for (const state of this.states) {
      for (const lane of state.lanes) lane.store.dispose();
      state.lanes = createLanes(this, state.spec, false);
    }
    this.next = 0;
    this.scheduleLength = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
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

  /** For restoring a snapshot: empty lanes, one per head where told, and the position that follows. */
  prepare(perHead: readonly boolean[], nextPosition: number, scheduleLength: number): void {
    this.dispose();
    for (const [layer, state] of this.states.entries()) {
      if (perHead[layer]) state.lanes = createLanes(this, state.spec, true);
    }
    this.next = nextPosition;
    this.scheduleLength = scheduleLength;
  }

  #split(state: LayerState, kept: readonly Int32Array[]): void {
    const [whole] = state.lanes;
    const lanes = createLanes(this, state.spec, true);
    try {
      for (const [head, lane] of lanes.entries()) {
        lane.appendCopies(whole, head, kept[head]);
        lane.hasDropped = whole.hasDropped;
      }
    } catch (error) {
      for (const lane of lanes) lane.store.dispose();
      throw error;
    }
    whole.store.dispose();
    state.lanes = lanes;
  }

  #moveLane(layer: number, lane: Lane, to: SlotPositions): void {
    const rotary = this.#rotaryOf("moveTo", this.states[layer].spec, layer);
    const places: Places = to instanceof Int32Array ? shifted(lane, to) : to;
    moveLane(lane, rotary, places, this.scheduleLength);
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
    for (const lane of this.states.flatMap((state) => state.lanes)) {
      const { positions, segments } = lane;
      const slots = Int32Array.from(positions.keys()).filter((slot) => keeps(positions[slot], segments[slot]));
      const onlyTheEndGoes = slots.length === 0 || slots[slots.length - 1] === slots.length - 1;
      if (keepMemory && onlyTheEndGoes) lane.crop(slots.length);
      else lane.keep(slots);
    }
  }

  #positionAfterRows(): number {
    let next = 0;
    for (const lane of this.states.flatMap((state) => state.lanes)) {
      for (const list of [lane.positions, ...lane.axes]) next = Math.max(next, positionAfter(list));
    }
    return next;
  }
}

/** Where slots are when their positions change and their axes go along. */
function shifted(lane: Lane, positions: Int32Array): Places {
  const before = lane.positions;
  const along = (axis: Int32Array): Int32Array => axis.map((at, slot) => at + positions[slot] - before[slot]);
  return { positions, axes: lane.axes.map(along) };
}

function sameList(a: Int32Array, b: Int32Array): boolean {
  return a === b || (a.length === b.length && a.every((slot, at) => slot === b[at]));
}
