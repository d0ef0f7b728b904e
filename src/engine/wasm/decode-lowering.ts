/**
 * A plan of single queries as the words that the decode kernel reads: items of all heads and a run of key tiles.
 */

import type { WorkPlan } from "../../attention/index.ts";
import { type CallMemory, type KvLayout, type LoweredPlan, lowerEntries } from "./attention-lowering.ts";
import type { KvSide } from "./attention-storage.ts";
import {
  DECODE_ITEM,
  DECODE_ITEM_WORDS,
  type DecodeSide,
  type DecodeSpec,
  decodeKeys,
  decodeScratch,
} from "./kernels/attention-decode-rows.ts";
import { ENTRY_BYTES } from "./kernels/attention-tile.ts";

/** Whether the decode kernel can run a plan: one query, whole vectors. */
export function isDecodePlan({ dims, tiles }: WorkPlan): boolean {
  const { Tq, D, Dv } = dims;
  const wholeVectors = D % 4 === 0 && Dv % 4 === 0 && Dv > 0;
  return Tq === 1 && wholeVectors && tiles.planes === 1 && tiles.rowTiles === 1;
}

/** What the decode kernel for a plan is specialised for. */
export function decodeSpec({ dims }: WorkPlan, { keys, values }: KvLayout, relaxed: boolean): DecodeSpec {
  return {
    relaxed,
    heads: dims.H,
    group: dims.H / dims.Hk,
    keyDim: dims.D,
    valueDim: dims.Dv,
    keys: decodeSide(keys),
    values: decodeSide(values),
  };
}

function decodeSide({ type, stride, scaleStride, scaleHead }: KvSide): DecodeSide {
  return { type, stride, scaleStride, scaleHead };
}

/**
 * Writes a plan's entries, bits, items and merges; every batch entry's tiles are split evenly among the workers.
 */
export function lowerDecodePlan(
  plan: WorkPlan,
  spec: DecodeSpec,
  { slots }: Pick<KvLayout, "slots">,
  memory: CallMemory,
): LoweredPlan {
  const { tiles, work, dims, bits } = plan;
  const workers = work.workerPointers.length - 1;
  const { words: entryWords, starts } = lowerEntries(plan, slots, memory.place(bits.data));
  const layout = decodeScratch(spec);
  const stateBytes = layout.end - layout.max;

  const longer = new LongerEntries(entryWords, decodeKeys(spec.heads));
  const items: { batch: number; start: number; end: number; part: boolean }[] = [];
  const merges: number[] = [];
  for (let batch = 0; batch < dims.B; batch++) {
    const start = starts[tiles.rowPointers[batch]];
    const count = starts[tiles.rowPointers[batch + 1]] - start;
    // Batch entries already keep the workers busy when there are enough of them.
    const parts = Math.max(1, Math.min(count, Math.ceil(workers / dims.B)));
    if (parts > 1) merges.push(items.length, items.length + parts);
    for (let part = 0; part < parts; part++) {
      const from = start + Math.floor((count * part) / parts);
      const to = start + Math.floor((count * (part + 1)) / parts);
      items.push({ batch, ...longer.add(from, to), part: parts > 1 });
    }
  }
  const entries = memory.place(longer.words);
  const states = merges.length > 0 ? memory.take(items.length * stateBytes) : 0;
  const words = new Int32Array(items.length * DECODE_ITEM_WORDS);
  for (const [n, { batch, start, end, part }] of items.entries()) {
    const word = (name: keyof typeof DECODE_ITEM, value: number): void => {
      words[n * DECODE_ITEM_WORDS + DECODE_ITEM[name]] = value;
    };
    word("query", batch);
    word("entries", entries + start * ENTRY_BYTES);
    word("entriesEnd", entries + end * ENTRY_BYTES);
    word("state", part ? states + n * stateBytes : 0);
  }
  const pointers = Int32Array.from({ length: workers + 1 }, (_, w) => Math.floor((items.length * w) / workers));
  return {
    items: memory.place(words),
    itemCount: items.length,
    operations: plan.cost.flops,
    workers,
    workerPointers: memory.place(pointers),
    merges: memory.place(Int32Array.from(merges)),
    mergeCount: merges.length / 2,
  };
}

/** Entries that are put together where their keys follow each other: longer runs through memory. */
class LongerEntries {
  readonly #from: Int32Array;
  readonly #mostKeys: number;
  readonly #words: Int32Array<ArrayBuffer>;
  #length = 0;

  constructor(entries: Int32Array, mostKeys: number) {
    this.#from = entries;
    this.#mostKeys = mostKeys;
    this.#words = new Int32Array(entries.length);
  }

  get words(): Int32Array<ArrayBuffer> {
    return this.#words.subarray(0, this.#length);
  }

  /**
   * Adds the entries from … to − 1.
   *
   * @returns where they are among the longer ones
   */
  add(from: number, to: number): { start: number; end: number } {
    const words = this.#words;
    const width = ENTRY_BYTES / 4;
    const start = this.#length / width;
    for (let entry = from; entry < to; entry++) {
      const [row, count, bits, slot] = this.#from.subarray(entry * width, (entry + 1) * width);
      const last = this.#length - width;
      const follows = entry > from && words[last] + words[last + 1] === row && words[last + 2] === 0 && bits === 0;
      if (follows && words[last + 1] + count <= this.#mostKeys) {
        words[last + 1] += count;
      } else {
        words.set([row, count, bits, slot], this.#length);
        this.#length += width;
      }
    }
    return { start, end: this.#length / width };
  }
}
