/**
 * A plan of single queries as the words that the decode kernel reads: items of all heads and a run of key tiles.
 */

import type { AttentionPlan } from "../../attention/index.ts";
import { type CallMemory, type KvLayout, type LoweredPlan, lowerEntries } from "./attention-lowering.ts";
import { DECODE_ITEM, DECODE_ITEM_WORDS, type DecodeSpec, decodeScratch } from "./kernels/attention-decode-rows.ts";
import { ENTRY_BYTES } from "./kernels/attention-tile.ts";

/** Whether the decode kernel can run a plan: one query per key-value head, f32 keys and values, whole vectors. */
export function isDecodePlan({ dims, tiles }: AttentionPlan, { keys, values }: KvLayout): boolean {
  const { Tq, H, Hk, D, Dv } = dims;
  const plain = keys.type === "f32" && values.type === "f32";
  const wholeVectors = D % 4 === 0 && Dv % 4 === 0 && Dv > 0;
  return Tq === 1 && H === Hk && wholeVectors && tiles.planes === 1 && plain;
}

/**
 * Writes a plan's entries, bits, items and merges; every batch entry's tiles are split evenly among the workers.
 */
export function lowerDecodePlan(
  plan: AttentionPlan,
  spec: DecodeSpec,
  { slots }: Pick<KvLayout, "slots">,
  memory: CallMemory,
): LoweredPlan {
  const { tiles, work, dims, bits } = plan;
  const workers = work.workerPointers.length - 1;
  const { words: entryWords, starts } = lowerEntries(plan, slots, memory.place(bits.data));
  const entries = memory.place(entryWords);
  const layout = decodeScratch(spec);
  const stateBytes = layout.end - layout.max;

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
      items.push({ batch, start: from, end: to, part: parts > 1 });
    }
  }
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
