/** Softmax attention of a few queries over the cached keys, row by row: O(T) memory. */

import { exponential } from "./exponential.ts";
import type { AttentionMass, Observation, Queries } from "./observation.ts";
import { groupOf } from "./observation.ts";

/** Looks at one row of attention; `probabilities` f64 [T] is reused for the next row. */
export type AttentionVisitor = (head: number, query: number, probabilities: Float64Array) => void;

/**
 * Visits the attention of every query over all slots of its head. Slots that the query may not see (at later positions,
 * or outside the layer's sliding window) have probability 0.
 *
 * @param observation - the keys; their logits are used where the observation has those of these queries
 * @param queries - rotated
 * @param visit - called for head after head, query after query
 */
export function visitAttention(observation: Observation, queries: Queries, visit: AttentionVisitor): void {
  visitWeights(observation, queries, (head, query, weights, start, end, total) => {
    weights.fill(0, 0, start);
    weights.fill(0, Math.max(start, end));
    const inverse = 1 / total;
    for (let t = start; t < end; t++) weights[t] *= inverse;
    visit(head, query, weights);
  });
}

/**
 * Sums of the attention that slots get from queries, each query's times a weight.
 *
 * @param weightOf - from the number of the query and the rows of its head
 * @returns f64 [H][T]
 */
export function attentionSums(
  observation: Observation,
  queries: Queries,
  weightOf: (query: number, rows: number) => number,
): Float64Array[] {
  const { keys, heads } = observation;
  const group = groupOf(observation);
  const sums = Array.from({ length: heads }, (_, h) => new Float64Array(keys.lengths[Math.floor(h / group)]));
  visitWeights(observation, queries, (head, query, weights, start, end, total) => {
    const factor = weightOf(query, weights.length) / total;
    const sum = sums[head];
    for (let t = start; t < end; t++) sum[t] += factor * weights[t];
  });
  return sums;
}

/** Looks at the weights of a query on the slots from `start` to `end` − 1, which add up to `total`. */
type WeightVisitor = (
  head: number,
  query: number,
  weights: Float64Array,
  start: number,
  end: number,
  total: number,
) => void;

function visitWeights(observation: Observation, queries: Queries, visit: WeightVisitor): void {
  const { keys, positions, heads, slidingWindow = Infinity } = observation;
  const group = groupOf(observation);
  const count = queries.positions.length;
  const known = knownLogits(observation, queries);
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / group);
    const T = keys.lengths[kvHead];
    const weights = new Float64Array(T);
    const scored = known ? [] : Array.from({ length: AT_ONCE }, () => new Float32Array(T));
    for (let i = 0; i < count; i++) {
      if (!known && i % AT_ONCE === 0) scoreRows(scored, observation, queries, head, i);
      const row = (known?.first ?? 0) + i;
      const logits = known ? known.logits[head].subarray(row * T, (row + 1) * T) : scored[i % AT_ONCE];
      const end = slotAfter(positions[kvHead], queries.positions[i]);
      const start = slotAfter(positions[kvHead], queries.positions[i] - slidingWindow);
      visit(head, i, weights, start, end, exponentialsInto(weights, logits, start, end));
    }
  }
}

/** Logits that came with the observation, and which of their rows is the first of these queries. */
function knownLogits(
  { queryLogits, queries: all }: Observation,
  { rows, positions }: Queries,
): { readonly logits: readonly Float32Array[]; readonly first: number } | undefined {
  if (queryLogits === undefined || all === undefined || all.rows.data !== rows.data) return undefined;
  const first = (rows.starts[0] - all.rows.starts[0]) / rows.stride;
  const isTail = first + positions.length === all.positions.length && Number.isInteger(first);
  return isTail ? { logits: queryLogits, first } : undefined;
}

/** Queries whose scores are computed together, so that a key is read once for all. */
const AT_ONCE = 4;

/** Scores of queries first, first + 1, … of a head with all keys; missing queries repeat the last one. */
function scoreRows(
  rows: readonly Float32Array[],
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

/**
 * Exponentials of logits, less the largest, for slots from `start` to `end` − 1; what lies outside is not touched.
 *
 * @returns their sum
 */
function exponentialsInto(out: Float64Array, logits: Float32Array, start: number, end: number): number {
  let max = -Infinity;
  for (let t = start; t < end; t++) {
    const logit = logits[t];
    if (logit > max) max = logit;
  }
  let total = 0;
  for (let t = start; t < end; t++) {
    const weight = exponential(logits[t] - max);
    out[t] = weight;
    total += weight;
  }
  return total;
}

/** The first slot behind a position; positions ascend. */
export function slotAfter(positions: Int32Array, position: number): number {
  let [low, high] = [0, positions.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (positions[middle] <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The attention every slot gets, added up over the queries.
 *
 * @param observation - the keys
 * @param queries - rotated, usually of the whole prompt
 * @returns sums f64 [H][T] and counts f64 [Hk][T]
 */
export function attentionMassOf(observation: Observation, queries: Queries): AttentionMass {
  const { positions, slidingWindow = Infinity } = observation;
  const sums = attentionSums(observation, queries, () => 1);
  const counts = positions.map((own) => {
    const count = new Float64Array(own.length);
    for (const position of queries.positions) {
      const end = slotAfter(own, position);
      for (let t = slotAfter(own, position - slidingWindow); t < end; t++) count[t]++;
    }
    return count;
  });
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
