/** What repeated tokens look at in the context they repeat. */

import { groupOf, type Observation, type RepeatPass } from "./observation.ts";
import { dot } from "./vectors.ts";

/** Looks at the attention of one repeated token on slots start..end; `probabilities` f64 [end − start] is reused. */
type RepeatVisitor = (head: number, query: number, probabilities: Float64Array) => void;

/**
 * The largest attention that any repeated token of a query head pays to the slots of a pass: a softmax over the first
 * `sinks` slots before the part, the part, and the repeated tokens up to its own. Taken from the pass where it has it.
 *
 * @param norms - what a token's attention is divided by
 * @returns f64 [H][end − start]
 */
export function repeatPeaks(
  observation: Observation,
  pass: RepeatPass,
  sinks: number,
  norms?: Float64Array,
): readonly Float64Array[] {
  const { start, end, peaks } = pass;
  if (peaks?.sinks === sinks && peaks.normalized === (norms !== undefined)) return peaks.rows;
  const rows = Array.from({ length: observation.heads }, () => new Float64Array(end - start));
  visitRepeat(observation, pass, sinks, (head, query, attention) => {
    const row = rows[head];
    const weight = norms ? 1 / norms[query] : 1;
    for (let n = 0; n < row.length; n++) row[n] = Math.max(row[n], attention[n] * weight);
  });
  return rows;
}

function visitRepeat(observation: Observation, pass: RepeatPass, sinks: number, visit: RepeatVisitor): void {
  const { keys, heads, scale } = observation;
  const { start, end, queries, keys: repeated } = pass;
  const before = Math.min(sinks, start);
  const part = new Float64Array(end - start);
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / groupOf(observation));
    const count = queries.lengths[head];
    for (let i = 0; i < count; i++) {
      const query = queries.starts[head] + i * queries.stride;
      const score = (rows: typeof keys, t: number): number =>
        scale * dot(queries.data, query, rows.data, rows.starts[kvHead] + t * rows.stride, rows.dim);
      const others = Float64Array.from({ length: before + i + 1 }, (_, n) =>
        n < before ? score(keys, n) : score(repeated, n - before),
      );
      let max = -Infinity;
      for (let t = start; t < end; t++) {
        part[t - start] = score(keys, t);
        max = Math.max(max, part[t - start]);
      }
      for (const other of others) max = Math.max(max, other);
      let total = 0;
      for (const other of others) total += Math.exp(other - max);
      for (let n = 0; n < part.length; n++) {
        part[n] = Math.exp(part[n] - max);
        total += part[n];
      }
      for (let n = 0; n < part.length; n++) part[n] /= total;
      visit(head, i, part);
    }
  }
}
