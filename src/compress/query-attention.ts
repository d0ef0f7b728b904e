/** Softmax attention of a few queries over the cached keys, row by row: O(T) memory. */

import { exponential } from "./exponential.ts";
import type { AttentionMass, Observation, Queries, QueryWeights } from "./observation.ts";
import { groupOf } from "./observation.ts";

/** Looks at one row of attention; `probabilities` f64 [T] is reused for the next row. */
export type AttentionVisitor = (head: number, query: number, probabilities: Float64Array) => void;

/**
 * Visits the attention of every query over all slots of its head. Slots that the query may not see (at later positions,
 * or outside the layer's sliding window) have probability 0.
 *
 * @param observation - the keys
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
 * Sums of the attention that slots get from queries, each query's times its weight. Sums that the observation has for
 * these queries are taken from there.
 *
 * @returns f64 [H][T]
 */
export function attentionSums(
  observation: Observation,
  queries: Queries,
  weights: QueryWeights,
): readonly Float64Array[] {
  const known = knownSums(observation, queries, weights);
  if (known) return known;
  const { keys, heads } = observation;
  const group = groupOf(observation);
  const count = queries.positions.length;
  const sums = Array.from({ length: heads }, (_, h) => new Float64Array(keys.lengths[Math.floor(h / group)]));
  visitWeights(observation, queries, (head, query, powers, start, end, total) => {
    const factor = queryWeight(weights, powers.length - count + query) / total;
    const sum = sums[head];
    for (let t = start; t < end; t++) sum[t] += factor * powers[t];
  });
  return sums;
}

/** What a query in a slot counts. */
export function queryWeight(weights: QueryWeights, slot: number): number {
  return weights === "equal" ? 1 : slot;
}

/** The sums that came with the observation, where they are of these queries. */
function knownSums(
  { querySums, queries: all }: Observation,
  { rows, positions }: Queries,
  weights: QueryWeights,
): readonly Float64Array[] | undefined {
  if (querySums === undefined || querySums.weights !== weights || querySums.queries !== positions.length)
    return undefined;
  if (all === undefined || all.rows.data !== rows.data) return undefined;
  const skipped = (rows.starts[0] - all.rows.starts[0]) / rows.stride;
  return skipped === all.positions.length - positions.length ? querySums.sums : undefined;
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
  const { keys, heads } = observation;
  const group = groupOf(observation);
  const count = queries.positions.length;
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / group);
    const T = keys.lengths[kvHead];
    const weights = new Float64Array(T);
    const scored = Array.from({ length: AT_ONCE }, () => new Float32Array(T));
    const ranges = visibleSlots(observation, kvHead, queries.positions);
    for (let i = 0; i < count; i++) {
      if (i % AT_ONCE === 0) scoreRows(scored, observation, queries, head, i);
      const [start, end] = ranges[i];
      visit(head, i, weights, start, end, exponentialsInto(weights, scored[i % AT_ONCE], start, end));
    }
  }
}

/** The slots of a key-value head that queries at some positions see: [start, end) each. */
export function visibleSlots(
  { positions, slidingWindow = Infinity }: Observation,
  kvHead: number,
  queryPositions: Int32Array,
): [start: number, end: number][] {
  return Array.from(queryPositions, (position) => [
    slotAfter(positions[kvHead], position - slidingWindow),
    slotAfter(positions[kvHead], position),
  ]);
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
  const counts = observation.positions.map((own, kvHead) => {
    const changes = new Float64Array(own.length + 1);
    for (const [start, end] of visibleSlots(observation, kvHead, queries.positions)) {
      changes[start]++;
      changes[end]--;
    }
    let seenBy = 0;
    return Float64Array.from(own, (_, t) => {
      seenBy += changes[t];
      return seenBy;
    });
  });
  return { sums: attentionSums(observation, queries, "equal"), counts };
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
