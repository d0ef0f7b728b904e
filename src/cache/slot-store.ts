/**
 * Where the slots of a lane are stored. A lane is what shares positions: all heads of a layer, or a single one.
 */

import type { KeyValues } from "../attention/index.ts";
import type { CopyMode } from "./row-array.ts";
import type { RowBlock } from "./row-block.ts";

/** Slots 0 to length − 1, each in some row of a block. Only `extend` may be used while a decoder's step is pending. */
export interface SlotStore {
  readonly length: number;
  /** Where the rows are now; any change of the store may replace it. */
  readonly block: RowBlock;
  /** Bytes of rows that forks hold too. */
  readonly sharedBytes: number;
  /** The row of a slot. */
  rowOf(slot: number): number;
  /**
   * Adds slots at the end, whose rows may be written at once in `host` mode, by issued operations in `issue` mode.
   *
   * @returns how many of the oldest slots had to go for them
   */
  extend(count: number, mode: CopyMode): number;
  /** Makes the rows of these slots the store's own, to be written at once. */
  own(from: number, to: number): void;
  /** Keeps the given slots, ascending, and gives back what they leave. */
  keep(slots: Int32Array): void;
  /** Keeps the first slots and all memory. */
  crop(length: number): void;
  /** A store of the same slots, which shares the rows until one of the two writes. */
  fork(): SlotStore;
  /** Gives everything back. */
  dispose(): void;
  /** The slots as attention sees them. */
  view(slots: ViewedSlots): KeyValues;
}

/** What a view says of its slots. */
export type ViewedSlots = Pick<KeyValues, "positions" | "segments" | "order">;

/** Runs of slots that are stored in consecutive rows, at most `longest` each. */
export function* runsOf(
  store: SlotStore,
  from: number,
  to: number,
  longest = Infinity,
): Generator<{ slot: number; row: number; count: number }> {
  for (let slot = from; slot < to; ) {
    const row = store.rowOf(slot);
    let count = 1;
    while (count < longest && slot + count < to && store.rowOf(slot + count) === row + count) count++;
    yield { slot, row, count };
    slot += count;
  }
}
