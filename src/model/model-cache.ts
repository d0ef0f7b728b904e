/**
 * A model's cache: keys and values, and the memory of which rotary frequencies they were rotated with.
 */

import type { KvView } from "../attention/index.ts";
import { createContiguousCache, type KvCache, type KvMemory, type KvRows } from "../cache/index.ts";
import { ConfigError } from "../errors.ts";
import type { FrequencyChange } from "../rope/index.ts";
import type { DecoderConfig } from "./config.ts";
import type { TokenBatch } from "./decoder.ts";

/** How a cache is made. */
export type ModelCacheOptions = {
  /**
   * What happens when the rotary schedule changes its frequencies because the text grew (dynamic NTK, LongRoPE):
   * `pin` keeps the first ones, `rerotate` turns the cached keys to the new ones, `reprefill` runs all tokens
   * again. Needed only for such schedules; without a choice the change is an error.
   */
  onFrequencyChange?: FrequencyChange;
  /** With `pin`: the length in tokens the frequencies are resolved for; the first step's length when absent. */
  pinnedLength?: number;
};

/** Keys and values of one decoder, append-only. */
export class ModelCache implements KvCache {
  readonly onFrequencyChange: FrequencyChange | undefined;
  readonly pinnedLength: number | undefined;
  /** The length that the frequencies of the stored keys were resolved for; 0 when empty. */
  scheduleLength = 0;
  readonly #kv: KvCache;
  #history: TokenBatch[] = [];

  constructor(config: DecoderConfig, memory: KvMemory, options: ModelCacheOptions = {}) {
    const { onFrequencyChange, pinnedLength } = options;
    if (
      pinnedLength !== undefined &&
      (onFrequencyChange !== "pin" || !(Number.isInteger(pinnedLength) && pinnedLength > 0))
    ) {
      throw new ConfigError(
        "createCache",
        'pinnedLength must be a positive integer and goes with onFrequencyChange "pin"',
        { pinnedLength, onFrequencyChange },
      );
    }
    this.onFrequencyChange = onFrequencyChange;
    this.pinnedLength = pinnedLength;
    this.#kv = createContiguousCache(
      config.layers.map(({ kvHeads, headDim }) => ({ kvHeads, keyDim: headDim, valueDim: headDim })),
      memory,
    );
  }

  get layers(): number {
    return this.#kv.layers;
  }

  get bytes(): number {
    return this.#kv.bytes;
  }

  get nextPosition(): number {
    return this.#kv.nextPosition;
  }

  length(layer?: number): number {
    return this.#kv.length(layer);
  }

  append(layer: number, rows: KvRows): void {
    this.#kv.append(layer, rows);
  }

  view(layer: number): KvView {
    return this.#kv.view(layer);
  }

  clear(): void {
    this.#kv.clear();
    this.#history = [];
    this.scheduleLength = 0;
  }

  /** Remembers the tokens behind the rows, which only a re-prefill needs. */
  remember(batch: TokenBatch): void {
    if (this.onFrequencyChange === "reprefill") this.#history.push(batch);
  }

  /** All remembered tokens, oldest first, and forgets them together with the rows. */
  takeHistory(): TokenBatch[] {
    const history = this.#history;
    this.clear();
    return history;
  }
}
