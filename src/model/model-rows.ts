/**
 * The rows of a model's cache, step by step: keys and values with their positions, which tokens they are, and the queries
 * that policies look from. What changes rows is in `model-cache.ts`.
 */

import type { KeyValues, KvView } from "../attention/index.ts";
import { createKvCache, type KvCache, type KvRows, type PositionedCache } from "../cache/index.ts";
import type { AttendedKv, Backend } from "../engine/index.ts";
import type { FrequencyChange } from "../rope/index.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import { type CachePlan, planCache } from "./cache-plan.ts";
import type { TextOf } from "./cache-report.ts";
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

/** How far compression has come; plain data. */
export type CompressionProgress = {
  /** Tokens generated since the last compression. */
  sinceLast: number;
  /** Compressions so far. */
  count: number;
  /** Whether a prompt came with a question. */
  hadQuestion: boolean;
  /** What the next step compresses first: a compression threw, or a snapshot held more than the budget. */
  overdue: "prompt" | "generated" | undefined;
};

/** A mark to roll back to: where the next token goes, and the tokens before it. */
export type CacheMark = { readonly nextPosition: number; readonly tokens: number };

/** Rows, and what their owner remembers beside them. */
export abstract class ModelRows implements KvCache<KeyValues> {
  readonly options: ModelCacheOptions;
  readonly onFrequencyChange: FrequencyChange | undefined;
  readonly pinnedLength: number | undefined;
  /** For the parts of the model only, like everything that follows up to `layers`. */
  readonly plan: CachePlan;
  readonly owner: CacheOwner;
  readonly progress: CompressionProgress = { sinceLast: 0, count: 0, hadQuestion: false, overdue: undefined };
  readonly tokens: TokenLog;
  readonly records: SlotRecords;
  readonly queries: QueryWindow;
  readonly kv: PositionedCache;
  protected history: TokenBatch[] = [];
  /** [L] rows of the step under way. */
  #uncommitted: number[];
  #positionBefore = 0;
  #asideBytes = 0;
  #peakBytes = 0;
  #peakAllocatedBytes = 0;

  /** Use `model.createCache`. */
  constructor(owner: CacheOwner, options: ModelCacheOptions = {}, from?: ModelRows) {
    const { config, backend, tokenizer } = owner;
    this.owner = owner;
    this.options = options;
    this.plan = from?.plan ?? planCache(config, options, tokenizer !== undefined);
    const { layers, axes, capacity, compression, heads } = this.plan;
    const staysShort = compression?.moves === true && capacity !== undefined;
    this.onFrequencyChange = options.onFrequencyChange ?? (staysShort ? "pin" : undefined);
    this.pinnedLength = options.pinnedLength ?? (staysShort && this.onFrequencyChange === "pin" ? capacity : undefined);
    this.#uncommitted = layers.map(() => 0);
    if (from) {
      this.kv = forkRows(from, backend);
      this.tokens = from.tokens.clone();
      this.records = from.records.clone();
      this.queries = from.queries.fork();
      this.progress = { ...from.progress };
      this.history = from.history.slice();
      this.notePeak();
      return;
    }
    this.kv = createKvCache(layers, { memory: backend, axes, heads });
    this.tokens = new TokenLog();
    const mass = compression?.prefill?.needs.attentionMass === true;
    this.records = new SlotRecords({ layers: config.layers, mass, capacity, pages: heads === "pooled" });
    this.queries = new QueryWindow(backend, config.layers);
    this.resetRecords();
  }

  /** Number of layers. */
  get layers(): number {
    return this.kv.layers;
  }

  /** Bytes of the rows held: keys, values and scales, without spare capacity. */
  get bytes(): number {
    return this.kv.bytes;
  }

  /** Bytes taken: rows with spare capacity, positions, what is known about every slot, and what policies look from. */
  get allocatedBytes(): number {
    return this.kv.allocatedBytes + this.records.allocatedBytes + this.queries.allocatedBytes + this.#asideBytes;
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
    if (this.#uncommitted.every((count) => count === 0)) this.#positionBefore = this.kv.nextPosition;
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
    this.#uncommitted[layer] += T;
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

  /** After a step: the tokens behind the rows that were appended. */
  commit(batch: TokenBatch): void {
    this.tokens.append(batch.tokens);
    if (this.onFrequencyChange === "reprefill") this.history.push(batch);
    this.#uncommitted.fill(0);
    this.notePeak();
  }

  /** After a step that failed: takes back what it had appended. */
  abandon(): void {
    const counts = this.#uncommitted;
    if (counts.some((count) => count > 0)) this.#takeBack(counts, this.#positionBefore);
    this.#uncommitted.fill(0);
  }

  /** Where to roll back to after tokens that shall not stay. */
  mark(): CacheMark {
    return { nextPosition: this.nextPosition, tokens: this.tokens.length };
  }

  /** Forgets the tokens since a mark, of which nothing may be gone yet. */
  rollBack({ nextPosition, tokens }: CacheMark): void {
    const count = this.tokens.length - tokens;
    if (count <= 0) return;
    this.#takeBack(
      this.#uncommitted.map(() => count),
      nextPosition,
    );
    this.tokens.crop(tokens);
  }

  /** Notes bytes that are held for this cache beside its rows: more, or fewer when negative. */
  holdAside(bytes: number): void {
    this.#asideBytes += bytes;
    this.notePeak();
  }

  abstract clear(): void;

  protected notePeak(): void {
    this.#peakBytes = Math.max(this.#peakBytes, this.bytes);
    this.#peakAllocatedBytes = Math.max(this.#peakAllocatedBytes, this.allocatedBytes);
  }

  /** Empty records, as many as there are lanes. */
  protected resetRecords(): void {
    for (const [layer, { kvHeads }] of this.plan.layers.entries()) {
      this.records.reset(layer, this.kv.isRagged(layer) ? kvHeads : 1);
    }
  }

  #takeBack(counts: readonly number[], nextPosition: number): void {
    this.kv.takeBack(counts, nextPosition);
    for (const [layer, count] of counts.entries()) this.records.fit(layer, count, this.kv);
  }
}

/** Rows of a fork: shared, or copied where a pool of pages is as large as one cache needs. */
function forkRows(from: ModelRows, backend: Backend): PositionedCache {
  const { layers, axes, capacity, heads } = from.plan;
  if (capacity === undefined || layers[0].layout?.type !== "paged") return from.kv.fork();
  const copy = createKvCache(layers, { memory: backend, axes, heads });
  copy.merge(from.kv);
  return copy;
}
