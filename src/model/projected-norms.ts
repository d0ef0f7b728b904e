/** How large values are behind the output projection, by the backend. */

import type { Observation } from "../compress/index.ts";
import { rows, tensor } from "../tensor.ts";
import { copyRows, type Scratch, withScratch } from "./scratch.ts";

/** Values that are projected at a time. */
const MOST_ROWS = 512;

/**
 * Norms of W_o·v for every query head.
 *
 * @param observation - the values
 * @param weight - f32 [C, H·Dv], of the output projection
 * @param order - 1 for the sum of magnitudes, 2 for the Euclidean norm
 * @returns f64 [H][T]; undefined where it is not worth it, or the backend's memory does not suffice
 */
export function projectedNorms(
  scratch: Scratch,
  { heads, values }: Observation,
  weight: Float32Array,
  order: 1 | 2,
): Promise<Float64Array[] | undefined> {
  const { dim, lengths } = values;
  const group = heads / lengths.length;
  const C = weight.length / (heads * dim);
  const longest = Math.max(...Array.from(lengths));
  return withScratch(scratch, heads * longest * dim * C, async () => {
    const { backend } = scratch;
    const projection = tensor("f32", [C, heads, dim], weight);
    const own = scratch.take(C, dim);
    const taken = scratch.take(MOST_ROWS, dim);
    const projected = scratch.take(MOST_ROWS, C);
    const norms: Float64Array[] = [];
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / group);
      const T = lengths[kvHead];
      const row = new Float64Array(T);
      backend.copy(own, projection, head);
      for (let start = 0; start < T; start += MOST_ROWS) {
        const end = Math.min(T, start + MOST_ROWS);
        copyRows(scratch.backend, [taken], 0, values, { head: kvHead, start, end });
        const out = rows(projected, 0, end - start);
        backend.linear(out, rows(taken, 0, end - start), own);
        await backend.flush();
        row.set(rowNorms(out.data, C, order), start);
      }
      norms.push(row);
    }
    return norms;
  });
}

function rowNorms(data: Float32Array, width: number, order: 1 | 2): Float64Array {
  return Float64Array.from({ length: data.length / width }, (_, t) => {
    let total = 0;
    for (let at = t * width; at < (t + 1) * width; at++) total += order === 1 ? Math.abs(data[at]) : data[at] ** 2;
    return order === 1 ? total : Math.sqrt(total);
  });
}
