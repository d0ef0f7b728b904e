/** Rotation tables of packed batches: rows of one table that is made once, picked by position. */

import type { RotationTable } from "../engine/index.ts";
import { type RotaryLayer, rotaryTable } from "../rope/index.ts";

/** The cosines and sines of a batch, in arrays that every batch writes anew. */
export class RotationRows {
  readonly #all: RotationTable;
  readonly #picked: RotationTable;

  /**
   * @param rotary - the layers' rotation
   * @param contextTokens - positions are below; schedules that depend on the length are resolved for it
   * @param tokens - T, tokens of a batch
   */
  constructor(rotary: RotaryLayer, contextTokens: number, tokens: number) {
    const positions = Int32Array.from({ length: contextTokens }, (_, p) => p);
    this.#all = rotaryTable(rotary, positions, { length: contextTokens });
    const pairs = rotary.rotaryDim / 2;
    this.#picked = { ...this.#all, cos: new Float32Array(tokens * pairs), sin: new Float32Array(tokens * pairs) };
  }

  /** The table [T, R/2] of these positions; overwritten by the next call. */
  at(positions: Int32Array): RotationTable {
    const pairs = this.#all.rotaryDim / 2;
    for (let t = 0; t < positions.length; t++) {
      const from = positions[t] * pairs;
      for (let pair = 0; pair < pairs; pair++) {
        this.#picked.cos[t * pairs + pair] = this.#all.cos[from + pair];
        this.#picked.sin[t * pairs + pair] = this.#all.sin[from + pair];
      }
    }
    return this.#picked;
  }
}
