/**
 * What attention kernels have written, as results.
 */

import type { AttentionDims, ReferenceOutput } from "../../attention/index.ts";
import { tensor } from "../../tensor.ts";

/** What results depend on beside the numbers. */
export type ResultShape = {
  readonly dims: AttentionDims;
  /** Whether results have the batch axis. */
  readonly batched: boolean;
};

/**
 * The results of a call.
 *
 * @param out - f32 [B, Tq, H, Dv], the caller's own
 * @param stats - f32 [B, Tq, H, 2], largest score and sum of exponentials
 * @param sinks - [H]
 */
export function readResults(
  { dims, batched }: ResultShape,
  out: Float32Array,
  stats: Float32Array,
  sinks: ArrayLike<number> | undefined,
): ReferenceOutput {
  const { B, Tq, H, Dv } = dims;
  const lse = new Float32Array(B * Tq * H);
  const maxLogits = new Float64Array(B * H).fill(-Infinity);
  for (let row = 0; row < lse.length; row++) {
    const max = stats[2 * row];
    const sum = stats[2 * row + 1];
    const own = sum > 0 ? max + Math.log(sum) : -Infinity;
    lse[row] = sinks === undefined ? own : logAddExp(own, sinks[row % H]);
    const head = Math.floor(row / (Tq * H)) * H + (row % H);
    if (sum > 0) maxLogits[head] = Math.max(maxLogits[head], max);
  }
  const batch = batched ? [B] : [];
  return {
    out: tensor("f32", [...batch, Tq, H, Dv], out),
    lse: tensor("f32", [...batch, Tq, H], lse),
    maxLogits: tensor("f64", [...batch, H], maxLogits),
  };
}

/** ln(e^a + e^b); −Infinity when both are. */
function logAddExp(a: number, b: number): number {
  const top = Math.max(a, b);
  return top === -Infinity ? top : top + Math.log1p(Math.exp(Math.min(a, b) - top));
}
