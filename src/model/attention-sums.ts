/**
 * Attention that keys get from many queries, by the backend: logits as products of matrices, softmax and sums by
 * `columnMass`. Policies take the sums in place of loops of their own, which give the same numbers.
 */

import {
  type ChunkSumsNeed,
  type HeadRows,
  type Observation,
  type Queries,
  type QueryWeights,
  queryWeight,
  visibleSlots,
} from "../compress/index.ts";
import type { ColumnMassCall } from "../engine/index.ts";
import { rows, type Tensor, tensor } from "../tensor.ts";
import { copyRows, paddedRows, type Scratch, withScratch } from "./scratch.ts";

/** Logits at a time, as many as the second cache holds; more where that is not even some rows of every head. */
const MOST_LOGITS = 2 ** 18;
const LEAST_ROWS = 4;
/** Rows whose probabilities are added up in f32; the rest is added in f64. */
const MOST_ROWS = 64;

/** Some queries of key-value heads whose keys lie in the backend's memory, and what they see of them. */
type Task = {
  /** [Hk][T, D], with rows behind the last key up to `paddedRows(T)`. */
  readonly keys: readonly Tensor<"f32">[];
  /** Query heads of a key-value head. */
  readonly group: number;
  /** [H][W, D]; rows that are not there are zeros. */
  readonly queries: HeadRows;
  /** The first query head, which looks at the first keys. */
  readonly firstHead: number;
  /** W. */
  readonly count: number;
  readonly scale: number;
  /** Keys that a row sees, by number of the key-value head among these. */
  readonly sees: (kvHead: number, row: number) => readonly [start: number, end: number];
  readonly weight: (kvHead: number, row: number) => number;
  readonly reduce: ColumnMassCall["reduce"];
};

/** Takes what columns `start`, `start` + 1, … of a query head get from some of its rows; the array is used again. */
type Collect = (head: number, start: number, columns: Float32Array) => void;

/**
 * Sums of the attention that slots get from queries.
 *
 * @param observation - the keys
 * @param queries - rotated
 * @param weights - what a query counts
 * @returns f64 [H][T]; undefined where it is not worth it, or the backend's memory does not suffice
 */
export function querySums(
  scratch: Scratch,
  observation: Observation,
  queries: Queries,
  weights: QueryWeights,
): Promise<Float64Array[] | undefined> {
  const { keys, heads, scale } = observation;
  const lengths = Array.from(keys.lengths);
  const group = heads / lengths.length;
  const count = queries.positions.length;
  const products = count * group * keys.dim * lengths.reduce((sum, T) => sum + T, 0);
  return withScratch(scratch, products, async () => {
    const sums = Array.from({ length: heads }, (_, head) => new Float64Array(lengths[Math.floor(head / group)]));
    // Heads of one length together, ragged ones each for itself.
    const even = lengths.every((T) => T === lengths[0]);
    const parts = even ? [Array.from(lengths.keys())] : Array.from(lengths.keys(), (kvHead) => [kvHead]);
    for (const kvHeads of parts) {
      const [first] = kvHeads;
      const T = lengths[first];
      const ranges = kvHeads.map((kvHead) => visibleSlots(observation, kvHead, queries.positions));
      const copied = kvHeads.map(() => scratch.take(paddedRows(T), keys.dim));
      copyRows(scratch.backend, copied, 0, keys, { head: first, start: 0, end: T });
      const task: Task = {
        ...{ group, count, scale, queries: queries.rows, firstHead: first * group, reduce: "sum" },
        keys: copied,
        sees: (kvHead, row) => ranges[kvHead][row],
        weight: (_, row) => queryWeight(weights, T - count + row),
      };
      await run(scratch, task, (head, start, columns) => addAt(sums[head], start, columns));
    }
    return sums;
  });
}

/**
 * Sums of the attention that tokens get from all tokens of their chunk, unmasked and unscaled; a last chunk that is not
 * full is filled up with queries and keys of zeros.
 *
 * @param observation - with a query for every token of even heads
 * @returns f64 [H][tokens between the ends]; undefined as `querySums`
 */
export function chunkSums(
  scratch: Scratch,
  { keys, heads }: Observation,
  { rows: queries }: Queries,
  { chunkTokens, first, last }: ChunkSumsNeed,
): Promise<Float64Array[] | undefined> {
  const { dim, starts, lengths } = keys;
  const group = heads / starts.length;
  const tokens = Math.max(0, lengths[0] - first - last);
  const size = chunkTokens;
  if (size > 2 * tokens) return Promise.resolve(undefined); // zeros for the most part
  return withScratch(scratch, tokens * size * heads * dim, async () => {
    const sums = Array.from({ length: heads }, () => new Float64Array(tokens));
    const held = Array.from(starts, () => scratch.take(paddedRows(size), dim));
    for (let start = 0; start < tokens; start += size) {
      const there = Math.min(size, tokens - start);
      for (const { data } of held) data.fill(0, there * dim);
      copyRows(scratch.backend, held, 0, keys, { head: 0, start: first + start, end: first + start + there });
      const task: Task = {
        ...{ keys: held, group, firstHead: 0, count: size, scale: 1, reduce: "sum" },
        queries: {
          ...queries,
          starts: Array.from(queries.starts, (at) => at + (first + start) * queries.stride),
          lengths: Array.from(queries.starts, () => there),
        },
        sees: () => [0, size],
        weight: () => 1,
      };
      await run(scratch, task, (head, _, columns) => addAt(sums[head], start, columns.subarray(0, there)));
    }
    return sums;
  });
}

/** A part of a context that is repeated behind it, in rows of its keys. */
export type RepeatedPart = {
  readonly start: number;
  readonly end: number;
  /** The first repeated token. */
  readonly repeatedFrom: number;
  /** First slots before the part that join the softmax. */
  readonly sinks: number;
  /** f64 [Tr] what attention is divided by. */
  readonly norms?: Float64Array | undefined;
};

/**
 * The largest attention that any repeated token of a query head pays to the slots of a part.
 *
 * @param observation - keys of the context and, behind it, the repeated tokens; even heads
 * @param queries - [H][Tr, D] of the repeated tokens, rotated
 * @returns f64 [H][end − start]; undefined as `querySums`
 */
export function repeatPeaks(
  scratch: Scratch,
  { keys, heads, scale }: Observation,
  queries: HeadRows,
  { start, end, repeatedFrom, sinks, norms }: RepeatedPart,
): Promise<Float64Array[] | undefined> {
  const before = Math.min(sinks, start);
  const count = queries.lengths[0];
  const ahead = before + end - start;
  const products = count * (ahead + count / 2) * heads * keys.dim;
  return withScratch(scratch, products, async () => {
    const peaks = Array.from({ length: heads }, () => new Float64Array(end - start));
    const copied = Array.from(keys.starts, () => scratch.take(paddedRows(ahead + count), keys.dim));
    copyRows(scratch.backend, copied, 0, keys, { head: 0, start: 0, end: before });
    copyRows(scratch.backend, copied, before, keys, { head: 0, start, end });
    copyRows(scratch.backend, copied, ahead, keys, { head: 0, start: repeatedFrom, end: repeatedFrom + count });
    const task: Task = {
      ...{ group: heads / keys.starts.length, count, scale, queries, firstHead: 0, reduce: "max" },
      keys: copied,
      sees: (_, row) => [0, ahead + row + 1],
      weight: (_, row) => (norms ? 1 / norms[row] : 1),
    };
    await run(scratch, task, (head, _, columns) => {
      const row = peaks[head];
      for (let n = 0; n < row.length; n++) row[n] = Math.max(row[n], columns[before + n]);
    });
    return peaks;
  });
}

/** Issues and awaits some rows at a time. */
async function run(scratch: Scratch, task: Task, collect: Collect): Promise<void> {
  const { keys, group, queries, firstHead, count, scale, sees, weight, reduce } = task;
  const [most, D] = keys[0].shape;
  const { backend } = scratch;
  const heads = keys.length * group;
  const fitting = Math.max(LEAST_ROWS, Math.floor(MOST_LOGITS / (heads * most)));
  const atOnce = Math.min(MOST_ROWS, count, fitting);
  const queryRows = scratch.take(heads * atOnce, D);
  const held = [scratch.take(heads * atOnce * most), scratch.take(heads * most)];
  const [logits, out] = held.map(({ data }) => data);
  for (let first = 0; first < count; first += atOnce) {
    const size = Math.min(atOnce, count - first);
    const ofRow = <A extends Float32Array | Int32Array>(
      array: A,
      value: (kvHead: number, row: number) => number,
    ): A => {
      for (let n = 0; n < array.length; n++) array[n] = value(Math.floor(n / (group * size)), first + (n % size));
      return array;
    };
    const starts = ofRow(new Int32Array(heads * size), (kvHead, row) => sees(kvHead, row)[0]);
    const ends = ofRow(new Int32Array(heads * size), (kvHead, row) => sees(kvHead, row)[1]);
    // Only keys that are seen by some row; widths are rounded, because kernels are made for a width.
    const end = ends.reduce((a, b) => Math.max(a, b), 0);
    const least = Math.min(
      end,
      starts.reduce((a, b) => Math.min(a, b), end),
    );
    const width = paddedRows(end - least);
    const start = Math.min(least, most - width);
    for (let n = 0; n < starts.length; n++) {
      starts[n] -= start;
      ends[n] -= start;
    }
    for (let head = 0; head < heads; head++) {
      gatherScaled(rows(queryRows, head * size, (head + 1) * size).data, queries, firstHead + head, first, scale);
    }
    for (const [kvHead, all] of keys.entries()) {
      const [from, to] = [kvHead * group * size, (kvHead + 1) * group * size];
      const product = tensor("f32", [to - from, width], logits.subarray(from * width, to * width));
      backend.linear(product, rows(queryRows, from, to), rows(all, start, start + width));
    }
    const weights = ofRow(new Float32Array(heads * size), weight);
    const columns = tensor("f32", [heads, width], out.subarray(0, heads * width));
    const all = tensor("f32", [heads, size, width], logits.subarray(0, heads * size * width));
    backend.columnMass(columns, all, { starts, ends, weights, reduce });
    await backend.flush();
    for (let head = 0; head < heads; head++) {
      collect(firstHead + head, start, out.subarray(head * width, (head + 1) * width));
    }
  }
  for (const done of [queryRows, ...held]) scratch.giveBack(done);
}

/** Queries of one head, from row `first` on, times a factor; zeros where there are none. */
function gatherScaled(out: Float32Array, from: HeadRows, head: number, first: number, factor: number): void {
  const { data, dim, starts, stride, lengths } = from;
  for (let n = 0, i = first; n < out.length; n += dim, i++) {
    const at = starts[head] + i * stride;
    const isThere = i < lengths[head];
    for (let d = 0; d < dim; d++) out[n + d] = isThere ? factor * data[at + d] : 0;
  }
}

/** Adds to numbers from `start` on; what lies behind the last is padding. */
function addAt(sums: Float64Array, start: number, columns: Float32Array): void {
  const end = Math.min(sums.length, start + columns.length);
  for (let t = start, n = 0; t < end; t++, n++) sums[t] += columns[n];
}
