/**
 * Logits of a few queries on all keys, by the backend: a product of matrices for each key-value head, many times faster
 * than loops in JavaScript.
 */

import type { HeadRows, Observation, Queries } from "../compress/index.ts";
import type { Backend } from "../engine/index.ts";
import { rows, type Tensor } from "../tensor.ts";

/** Multiplications below which loops in JavaScript are as fast. */
const WORTH_ISSUING = 2 ** 18;
/** Logits held at a time; more queries are left to loops that hold a row. */
const MOST_LOGITS = 2 ** 24;

/** Logits in the backend's memory. */
export type BorrowedLogits = {
  /** [H][W, T]. */
  readonly logits: readonly Float32Array[];
  release(): void;
};

/**
 * Computes scaled logits.
 *
 * @param observation - the keys
 * @param queries - rotated
 * @returns undefined where it is not worth it
 */
export async function queryLogits(
  backend: Backend,
  observation: Observation,
  queries: Queries,
): Promise<BorrowedLogits | undefined> {
  const { keys, heads, scale } = observation;
  const { dim: D } = keys;
  const W = queries.positions.length;
  const total = Array.from(keys.lengths).reduce((sum, T) => sum + T, 0) * (heads / keys.starts.length) * W;
  if (total * D < WORTH_ISSUING || total > MOST_LOGITS) return undefined;
  const group = heads / keys.starts.length;
  const borrowed: Tensor<"f32">[] = [];
  const allocate = (shape: readonly number[]): Tensor<"f32"> => {
    const tensor = backend.allocate(shape);
    borrowed.push(tensor);
    return tensor;
  };
  const release = (): void => {
    for (const tensor of borrowed) backend.release(tensor);
  };
  try {
    const logits: Tensor<"f32">[] = [];
    for (const [kvHead, T] of Array.from(keys.lengths).entries()) {
      const k = allocate([T, D]);
      gatherHead(k.data as Float32Array, keys, kvHead, 1);
      const q = allocate([group * W, D]);
      const out = allocate([group * W, T]);
      for (let g = 0; g < group; g++) {
        gatherHead(rows(q, g * W, (g + 1) * W).data as Float32Array, queries.rows, kvHead * group + g, scale);
        logits.push(rows(out, g * W, (g + 1) * W));
      }
      backend.linear(out, q, k);
    }
    await backend.flush();
    return { logits: logits.map(({ data }) => data as Float32Array), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** The rows of one head, one after the other, times a factor. */
function gatherHead(
  out: Float32Array,
  { data, dim, starts, stride, lengths }: HeadRows,
  head: number,
  factor: number,
): void {
  for (let t = 0; t < lengths[head]; t++) {
    const from = starts[head] + t * stride;
    for (let d = 0; d < dim; d++) out[t * dim + d] = factor * data[from + d];
  }
}
