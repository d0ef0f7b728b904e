/**
 * A number that stands for everything a plan read, so that a stale plan is noticed.
 */

import type { Selection } from "./selection.ts";
import type { AttentionSpec } from "./spec.ts";

/** Sixteen hexadecimal digits of the arrays that mask and selection read. Not for secrets. */
export function hashInputs({ maskInputs }: AttentionSpec, selection: Selection | undefined): string {
  const hash = new ArrayHash();
  hash.addRecord(maskInputs);
  hash.addRecord(maskInputs.tables ?? {});
  hash.addRecord(maskInputs.integerTables ?? {});
  hash.addRecord(selection ?? {});
  return hash.toString();
}

/** Two multiply-and-shift hashes side by side. */
class ArrayHash {
  #low = 0x811c9dc5 | 0;
  #high = 0x01234567;

  /** Names and contents of the arrays of a record, in the order of their names. */
  addRecord(record: object): void {
    for (const [name, value] of Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (!(value instanceof Int32Array || value instanceof Uint8Array)) continue;
      this.#add(Int32Array.from(name, (letter) => letter.codePointAt(0) as number));
      this.#add(value);
    }
  }

  toString(): string {
    return [this.#low, this.#high].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  }

  #add(values: Int32Array | Uint8Array): void {
    let [low, high] = [this.#low ^ values.length, this.#high];
    for (let n = 0; n < values.length; n++) {
      low = Math.imul(low ^ values[n], 0x01000193);
      low ^= low >>> 15;
      high = (Math.imul(high, 0x85ebca6b) + low) | 0;
    }
    this.#low = low;
    this.#high = high;
  }
}
