/** Softmax attention of a few queries over the cached keys, row by row: O(T) memory. */

import type { AttentionMass, Observation, Queries } from "./observation.ts";
import { groupOf } from "./observation.ts";

/** Looks at one row of attention; `probabilities` f64 [T] is reused for the next row. */
export type AttentionVisitor = (head: number, query: number, probabilities: Float64Array) => void;

/**
 * Visits the attention of every query over all slots of its head; slots at later positions have probability 0.
 *
 * @param observation - the keys
 * @param queries - rotated
 * @param visit - called for head after head, query after query
 */
export function visitAttention(observation: Observation, queries: Queries, visit: AttentionVisitor): void {
  const { keys, positions, heads } = observation;
  const group = groupOf(observation);
  const count = queries.positions.length;
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / group);
    const rows = Array.from({ length: AT_ONCE }, () => new Float64Array(keys.lengths[kvHead]));
    for (let first = 0; first < count; first += AT_ONCE) {
      scoreRows(rows, observation, queries, head, first);
      for (let i = first; i < Math.min(count, first + AT_ONCE); i++) {
        const row = rows[i - first];
        softmaxUpTo(row, positions[kvHead], queries.positions[i]);
        visit(head, i, row);
      }
    }
  }
}

/** Queries whose scores are computed together, so that a key is read once for all. */
const AT_ONCE = 4;

/** Scores of queries first, first + 1, … of a head with all keys; missing queries repeat the last one. */
function scoreRows(
  rows: readonly Float64Array[],
  { keys, scale, heads }: Observation,
  { rows: queries, positions }: Queries,
  head: number,
  first: number,
): void {
  const D = keys.dim;
  const kvHead = Math.floor((head * keys.starts.length) / heads);
  const q = new Float64Array(AT_ONCE * D); // [D][AT_ONCE], scaled
  for (let n = 0; n < AT_ONCE; n++) {
    const from = queries.starts[head] + Math.min(positions.length - 1, first + n) * queries.stride;
    for (let d = 0; d < D; d++) q[d * AT_ONCE + n] = scale * queries.data[from + d];
  }
  const [row0, row1, row2, row3] = rows;
  const { data, stride } = keys;
  for (let t = 0, at = keys.starts[kvHead]; t < row0.length; t++, at += stride) {
    let s0 = 0;
    let s1 = 0;
    let s2 = 0;
    let s3 = 0;
    for (let d = 0, n = 0; d < D; d++, n += AT_ONCE) {
      const k = data[at + d];
      s0 += q[n] * k;
      s1 += q[n + 1] * k;
      s2 += q[n + 2] * k;
      s3 += q[n + 3] * k;
    }
    row0[t] = s0;
    row1[t] = s1;
    row2[t] = s2;
    row3[t] = s3;
  }
}

/** Softmax over the keys at positions up to the query's; the others, and all of none, become 0. */
function softmaxUpTo(row: Float64Array, positions: Int32Array, position: number): void {
  let max = -Infinity;
  for (let t = 0; t < row.length; t++) if (positions[t] <= position && row[t] > max) max = row[t];
  let total = 0;
  for (let t = 0; t < row.length; t++) {
    row[t] = positions[t] <= position ? Math.exp(row[t] - max) : 0;
    total += row[t];
  }
  if (total === 0) return;
  for (let t = 0; t < row.length; t++) row[t] /= total;
}

/**
 * The attention every slot gets, added up over the queries.
 *
 * @param observation - the keys
 * @param queries - rotated, usually of the whole prompt
 * @returns sums f64 [H][T] and counts f64 [Hk][T]
 */
export function attentionMassOf(observation: Observation, queries: Queries): AttentionMass {
  const { keys, positions, heads } = observation;
  const group = groupOf(observation);
  const sums = Array.from({ length: heads }, (_, h) => new Float64Array(keys.lengths[Math.floor(h / group)]));
  visitAttention(observation, queries, (head, _, row) => {
    const mass = sums[head];
    for (let t = 0; t < row.length; t++) mass[t] += row[t];
  });
  const counts = positions.map((own) =>
    Float64Array.from(own, (p) => queries.positions.reduce((count, q) => count + Number(q >= p), 0)),
  );
  return { sums, counts };
}

/** The last `count` queries; all when there are fewer. */
export function lastQueries({ rows, positions }: Queries, count: number): Queries {
  const skip = Math.max(0, positions.length - count);
  return {
    rows: {
      ...rows,
      starts: Array.from(rows.starts, (first) => first + skip * rows.stride),
      lengths: Array.from(rows.lengths, (length) => length - skip),
    },
    positions: positions.subarray(skip),
  };
}
