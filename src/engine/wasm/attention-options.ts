/**
 * The block of numbers that attention kernels read beside their arguments.
 */

import type { KvStore } from "../../attention/index.ts";
import type { LoweredScore } from "./attention-score-lowering.ts";
import { OPTIONS, OPTIONS_BYTES } from "./kernels/attention-tile.ts";

/** The stored numbers: codes where they are quantised. */
export function numbersOf(store: KvStore): ArrayBufferView {
  return "codes" in store ? store.codes.data : store.data;
}

/**
 * The options of one attention.
 *
 * @param locate - the address of numbers
 * @param lowered - tables and dropout, where there are any
 */
export function attentionOptions(
  locate: (numbers: ArrayBufferView) => number,
  { keys, values }: { readonly keys: KvStore; readonly values: KvStore },
  { rowTable, keyTable, dropout }: Partial<LoweredScore> = {},
): DataView {
  const block = new DataView(new ArrayBuffer(OPTIONS_BYTES));
  const address = (name: keyof typeof OPTIONS, numbers: ArrayBufferView | undefined): void => {
    if (numbers) block.setInt32(OPTIONS[name], locate(numbers), true);
  };
  address("rowTable", rowTable);
  address("keyTable", keyTable);
  address("keyScales", "codes" in keys ? keys.scales.data : undefined);
  address("valueScales", "codes" in values ? values.scales.data : undefined);
  if (dropout) {
    block.setUint32(OPTIONS.dropThreshold, dropout.threshold, true);
    block.setFloat32(OPTIONS.dropKept, dropout.kept, true);
  }
  return block;
}
