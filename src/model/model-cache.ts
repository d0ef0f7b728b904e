/**
 * A model's cache: every operation on its rows, what was forgotten, and snapshots.
 */

import { type SlotPositions, shiftContext } from "../cache/index.ts";
import { type CacheReport, reportCache, type TextOf } from "./cache-report.ts";
import { chunksOfFile, restoreCache, saveCache, writeChunks } from "./cache-snapshot.ts";
import type { TokenBatch } from "./decoder.ts";
import { ModelRows } from "./model-rows.ts";

/** Keys and values of one decoder. */
export class ModelCache extends ModelRows {
  /**
   * A cache of the same rows, which goes on by itself. The two share memory until one of them writes; where pages have a
   * fixed number, they are copied at once.
   */
  fork(): ModelCache {
    return new ModelCache(this.owner, this.options, this);
  }

  /** Forgets every row at position `length` or later, as if the text had ended there. */
  crop(length: number): void {
    this.#keepRecords(
      (position) => position < length,
      () => this.kv.crop(length),
    );
    this.tokens.crop(this.#firstUnusedSource());
  }

  /**
   * Forgets the rows at positions `start` to `end` − 1.
   *
   * @param options.closeGap - move what follows up; false unless told
   */
  erase(start: number, end: number, options: { closeGap?: boolean } = {}): void {
    this.#keepRecords(
      (position) => position < start || position >= end,
      () => this.kv.erase(start, end, options),
    );
  }

  /** Drops the oldest positions but the sinks and moves what follows up to them. */
  shiftContext({ sinks = 4, drop }: { readonly sinks?: number; readonly drop: number }): void {
    const stays = (position: number): boolean => position < sinks || position >= sinks + drop;
    this.#keepRecords(stays, () => shiftContext(this.kv, { sinks, drop }));
  }

  /** Keeps chosen rows of one layer: one list of slots for all heads, or one for each. */
  compact(layer: number, kept: Int32Array | readonly Int32Array[]): void {
    const { kvHeads } = this.plan.layers[layer];
    const lists = kept instanceof Int32Array ? new Array<Int32Array>(kvHeads).fill(kept) : kept;
    this.kv.compact(layer, kept);
    this.records.keep(layer, lists, this.kv.isRagged(layer));
    this.queries.clear();
  }

  /** Moves the rows of one layer to new positions: keys turn by the difference. */
  moveTo(layer: number, positions: SlotPositions | { readonly perHead: readonly SlotPositions[] }): void {
    this.kv.moveTo(layer, positions);
    this.queries.clear();
  }

  /** Turns keys to the frequencies of another length, where the schedule depends on it; positions stay. */
  changeFrequencies(toLength: number): void {
    this.kv.changeFrequencies(toLength);
    this.queries.clear();
  }

  /** Appends the rows of another cache of the same model, with their positions and segments, bit for bit. */
  merge(other: ModelCache): void {
    this.kv.merge(other.kv);
    this.records.merge(other.records, this.tokens.length, this.kv);
    this.tokens.append(other.tokens.slice(0, other.tokens.length));
    this.queries.clear();
    this.notePeak();
  }

  /** Forgets everything. */
  clear(): void {
    this.#keepRecords(
      () => false,
      () => this.kv.clear(),
    );
    this.#forgetProgress();
  }

  /** Gives all memory back; the cache is empty then. Forks keep theirs. */
  dispose(): void {
    this.#keepRecords(
      () => false,
      () => this.kv.dispose(),
    );
    this.#forgetProgress();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * What is kept and what was forgotten since the start, in tokens of the text as it came.
   *
   * @param tokenizer - for the text of what was forgotten; the model's own unless told
   */
  report(tokenizer: TextOf | undefined = this.owner.tokenizer): CacheReport {
    return reportCache(this, tokenizer);
  }

  /** The cache as a stream of chunks, for any storage; see docs/cache.md. */
  snapshot(): AsyncGenerator<Uint8Array> {
    return saveCache(this);
  }

  /**
   * Fills this cache from a snapshot of a cache with the same options, or with a larger budget: what is above this one's
   * goes at the next step.
   *
   * @throws FormatError when it is damaged, or of another model, tokenizer or kind of cache; the cache is then as before,
   * or empty
   * @throws BudgetError when there is no room for the rows that were saved; the cache is then as before
   */
  async restore(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, name?: string): Promise<void> {
    await restoreCache(this, chunks, name);
    this.notePeak();
  }

  /** Writes a snapshot to a file, which is replaced at once when all is on disk (Node, Deno, Bun). */
  async save(path: string): Promise<void> {
    await writeChunks(path, this.snapshot());
  }

  /** Fills this cache from a file (Node, Deno, Bun). Throws as {@link restore}. */
  async load(path: string): Promise<void> {
    await this.restore(await chunksOfFile(path), path);
  }

  /** All remembered tokens, oldest first, and forgets them together with the rows. */
  takeHistory(): TokenBatch[] {
    const { history } = this;
    this.clear();
    return history;
  }

  /** Carries out an operation on rows, and the same on the records. */
  #keepRecords(stays: (position: number) => boolean, operation: () => void): void {
    const kept = this.plan.layers.map(({ kvHeads }, layer) =>
      Array.from({ length: kvHeads }, (_, head) => {
        const positions = this.kv.positions(layer, head);
        return Int32Array.from(positions.keys()).filter((slot) => stays(positions[slot]));
      }),
    );
    const ragged = kept.map((_, layer) => this.kv.isRagged(layer));
    operation();
    for (const [layer, lists] of kept.entries()) this.records.keep(layer, lists, ragged[layer]);
    this.queries.clear();
  }

  #forgetProgress(): void {
    this.resetRecords();
    this.tokens.crop(0);
    this.history = [];
    Object.assign(this.progress, { sinceLast: 0, count: 0, hadQuestion: false, overdue: undefined });
    this.scheduleLength = 0;
  }

  #firstUnusedSource(): number {
    let first = 0;
    for (const [layer, { kvHeads }] of this.plan.layers.entries()) {
      for (let head = 0; head < kvHeads; head++) first = Math.max(first, (this.sources(layer, head).at(-1) ?? -1) + 1);
    }
    return first;
  }
}
