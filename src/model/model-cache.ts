/**
 * A model's cache: keys and values with their positions, and what its owner must remember beside them: which tokens they
 * are, which rotary frequencies their keys were rotated with, and how far compression has come.
 */

import type { KeyValues, KvView } from "../attention/index.ts";
import {
  createKvCache,
  type KvCache,
  type KvRows,
  type PositionedCache,
  type SlotPositions,
  shiftContext,
} from "../cache/index.ts";
import type { AttendedKv, Backend } from "../engine/index.ts";
import type { FrequencyChange } from "../rope/index.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import { type CachePlan, planCache } from "./cache-plan.ts";
import { type CacheReport, reportCache, type TextOf } from "./cache-report.ts";
import { chunksOfFile, restoreCache, saveCache, writeChunks } from "./cache-snapshot.ts";
import type { DecoderConfig } from "./config.ts";
import type { TokenBatch } from "./decoder.ts";
import { QueryWindow } from "./query-window.ts";
import { SlotRecords } from "./slot-records.ts";
import { TokenLog } from "./token-log.ts";

/** What a cache belongs to. */
export type CacheOwner = {
  readonly config: DecoderConfig;
  readonly backend: Backend;
  /** Names and values that must be equal where a snapshot is restored; asked for when one is made. */
  readonly fingerprint?: () => Readonly<Record<string, string>>;
  readonly tokenizer?: TextOf | undefined;
};

/** How far compression has come; plain data that a snapshot holds. */
export type CompressionProgress = {
  /** Tokens generated since the last compression. */
  sinceLast: number;
  /** Compressions so far. */
  count: number;
  /** Whether a prompt came with a question. */
  hadQuestion: boolean;
};

/** A mark to roll back to: where the next token goes, and the tokens before it. */
export type CacheMark = { readonly nextPosition: number; readonly tokens: number };

/** Keys and values of one decoder. */
export class ModelCache implements KvCache<KeyValues> {
  readonly options: ModelCacheOptions;
  readonly onFrequencyChange: FrequencyChange | undefined;
  readonly pinnedLength: number | undefined;
  /** For the parts of the model only, like everything that follows up to `layers`. */
  readonly plan: CachePlan;
  readonly owner: CacheOwner;
  readonly progress: CompressionProgress = { sinceLast: 0, count: 0, hadQuestion: false };
  readonly tokens: TokenLog;
  readonly records: SlotRecords;
  readonly queries: QueryWindow;
  readonly kv: PositionedCache;
  #history: TokenBatch[] = [];
  #peakBytes = 0;
  #peakAllocatedBytes = 0;

  /** Use `model.createCache`. */
  constructor(owner: CacheOwner, options: ModelCacheOptions = {}, from?: ModelCache) {
    const { config, backend } = owner;
    this.owner = owner;
    this.options = options;
    this.plan = from?.plan ?? planCache(config, options);
    const { layers, axes, capacity, compression } = this.plan;
    const staysShort = compression?.moves === true && capacity !== undefined;
    this.onFrequencyChange = options.onFrequencyChange ?? (staysShort ? "pin" : undefined);
    this.pinnedLength = options.pinnedLength ?? (staysShort && this.onFrequencyChange === "pin" ? capacity : undefined);
    if (from) {
      this.kv = forkRows(from, backend);
      this.tokens = from.tokens.clone();
      this.records = from.records.clone();
      this.queries = from.queries.fork();
      this.progress = { ...from.progress };
      this.#history = from.#history.slice();
      this.#notePeak();
      return;
    }
    this.kv = createKvCache(layers, { memory: backend, axes });
    this.tokens = new TokenLog();
    const mass = compression?.prefill?.needs.attentionMass === true;
    const pages = this.plan.perHead && layers[0].layout?.type === "paged";
    this.records = new SlotRecords({ layers: config.layers, mass, capacity, pages });
    this.queries = new QueryWindow(backend, config.layers);
    if (this.plan.perHead) this.#splitHeads();
  }

  /** Number of layers. */
  get layers(): number {
    return this.kv.layers;
  }

  /** Bytes of the rows held: keys, values and scales, without spare capacity. */
  get bytes(): number {
    return this.kv.bytes;
  }

  /** Bytes taken: rows with spare capacity, positions, and what is known about every slot. */
  get allocatedBytes(): number {
    return this.kv.allocatedBytes + this.records.allocatedBytes;
  }

  /** The most that `bytes` has ever been. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** The most that `allocatedBytes` has ever been. */
  get peakAllocatedBytes(): number {
    return this.#peakAllocatedBytes;
  }

  /** The part of `allocatedBytes` that is shared with forks now. */
  get sharedBytes(): number {
    return this.kv.sharedBytes;
  }

  /** Where the next token goes. */
  get nextPosition(): number {
    return this.kv.nextPosition;
  }

  /** Whether what stays moves together when tokens are forgotten, so that a text may outgrow the model's context. */
  get closesGaps(): boolean {
    return this.plan.compression?.moves === true;
  }

  /** Tokens given so far, forgotten ones included. */
  get tokensSeen(): number {
    return this.tokens.length;
  }

  /** The length that the frequencies of the stored keys were resolved for; 0 when empty. */
  get scheduleLength(): number {
    return this.kv.scheduleLength;
  }

  set scheduleLength(length: number) {
    this.kv.scheduleLength = length;
  }

  /** Rows held: of a head, of a layer's longest head, or of the longest layer. */
  length(layer?: number, head?: number): number {
    return this.kv.length(layer, head);
  }

  /** Whether the heads of a layer hold rows of different tokens. */
  isRagged(layer: number): boolean {
    return this.kv.isRagged(layer);
  }

  /** i32 positions of the rows of a head, in slot order. Shares memory. */
  positions(layer: number, head = 0): Int32Array {
    return this.kv.positions(layer, head);
  }

  /** i32 number of the token that every row of a head came from, whatever its position is now. Shares memory. */
  sources(layer: number, head = 0): Int32Array {
    return this.records.sources(layer, head);
  }

  append(layer: number, rows: KvRows): void {
    const T = rows.positions.length;
    const before = this.plan.layers[layer].layout?.type === "ring" ? this.kv.length(layer) : 0;
    this.kv.append(layer, rows);
    const dropped = this.plan.layers[layer].layout?.type === "ring" ? before + T - this.kv.length(layer) : 0;
    const first = this.tokens.length;
    this.records.append(
      layer,
      Int32Array.from({ length: T }, (_, t) => first + t),
      dropped,
    );
  }

  /**
   * The rows of one layer; shares memory, valid until the next operation on the cache.
   *
   * @throws CapabilityError when the layer is ragged, or some of its key channels are gone
   */
  view(layer: number): KeyValues {
    return this.kv.view(layer);
  }

  /**
   * The rows of one layer as a backend attends over them: one view, or one per key-value head where they are ragged; in
   * two parts where some key channels of older rows are gone.
   */
  attended(layer: number): AttendedKv {
    return this.kv.attended(layer);
  }

  /** Copies of the rows of one layer with keys of full width, channels that are gone as 0: one view, or one per head. */
  wideViews(layer: number): KvView[] {
    return this.kv.wideViews(layer);
  }

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
    this.#notePeak();
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
   * Fills this cache from a snapshot of a cache with the same options.
   *
   * @throws FormatError when it is damaged, or of another model, tokenizer or kind of cache; the cache is then as before,
   * or empty
   */
  async restore(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, name?: string): Promise<void> {
    await restoreCache(this, chunks, name);
    this.#notePeak();
  }

  /** Writes a snapshot to a file, which is replaced at once when all is on disk (Node, Deno, Bun). */
  async save(path: string): Promise<void> {
    await writeChunks(path, this.snapshot());
  }

  /** Fills this cache from a file (Node, Deno, Bun). Throws as {@link restore}. */
  async load(path: string): Promise<void> {
    await this.restore(await chunksOfFile(path), path);
  }

  /** After a step: the tokens behind the rows that were appended. */
  commit(batch: TokenBatch): void {
    this.tokens.append(batch.tokens);
    if (this.onFrequencyChange === "reprefill") this.#history.push(batch);
    this.#notePeak();
  }

  /** All remembered tokens, oldest first, and forgets them together with the rows. */
  takeHistory(): TokenBatch[] {
    const history = this.#history;
    this.clear();
    return history;
  }

  /** Where to roll back to after tokens that shall not stay. */
  mark(): CacheMark {
    return { nextPosition: this.nextPosition, tokens: this.tokens.length };
  }

  /** Forgets the tokens since a mark; their positions were the last ones. */
  rollBack({ nextPosition, tokens }: CacheMark): void {
    this.kv.crop(nextPosition);
    this.#cropRecords();
    this.tokens.crop(tokens);
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

  #cropRecords(): void {
    for (const [layer, { kvHeads }] of this.plan.layers.entries()) {
      const lists = Array.from({ length: kvHeads }, (_, head) =>
        Int32Array.from({ length: this.kv.length(layer, head) }, (_, slot) => slot),
      );
      this.records.keep(layer, lists, this.kv.isRagged(layer));
    }
  }

  /** Gives every head of an empty cache rows of its own. */
  #splitHeads(): void {
    const perHead = this.plan.layers.map(() => true);
    this.kv.prepare(perHead, 0, 0);
    for (const [layer, { kvHeads }] of this.plan.layers.entries()) this.records.reset(layer, kvHeads);
  }

  #forgetProgress(): void {
    if (this.plan.perHead) this.#splitHeads();
    for (const [layer, { kvHeads }] of this.plan.layers.entries()) {
      this.records.reset(layer, this.kv.isRagged(layer) ? kvHeads : 1);
    }
    this.tokens.crop(0);
    this.#history = [];
    Object.assign(this.progress, { sinceLast: 0, count: 0, hadQuestion: false });
    this.scheduleLength = 0;
  }

  #firstUnusedSource(): number {
    let first = 0;
    for (const [layer, { kvHeads }] of this.plan.layers.entries()) {
      for (let head = 0; head < kvHeads; head++) first = Math.max(first, (this.sources(layer, head).at(-1) ?? -1) + 1);
    }
    return first;
  }

  #notePeak(): void {
    this.#peakBytes = Math.max(this.#peakBytes, this.bytes);
    this.#peakAllocatedBytes = Math.max(this.#peakAllocatedBytes, this.allocatedBytes);
  }
}

/** Rows of a fork: shared, or copied where a pool of pages is as large as one cache needs. */
function forkRows(from: ModelCache, backend: Backend): PositionedCache {
  const { layers, axes, capacity } = from.plan;
  if (capacity === undefined || layers[0].layout?.type !== "paged") return from.kv.fork();
  const copy = createKvCache(layers, { memory: backend, axes });
  copy.merge(from.kv);
  return copy;
}
