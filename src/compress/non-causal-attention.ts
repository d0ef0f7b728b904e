/**
 * What the tokens of a chunk attend to when nothing is masked stays.
 *
 * @see https://arxiv.org/abs/2507.08143
 */

import { ConfigError } from "../errors.ts";
import { checkWhole } from "./check-options.ts";
import { groupMean } from "./group-mean.ts";
import { type ChunkSums, type ChunkSumsNeed, evenLength, groupOf, type Observation, observed } from "./observation.ts";
import { type HeadScores, type ScorePolicy, scorePolicy } from "./policy.ts";
import { averagePool, dot, norm, standardize } from "./vectors.ts";

/** Options of {@link nonCausalAttention}. */
export type NonCausalOptions = {
  /** Tokens of a chunk; 256 unless told. */
  readonly chunkTokens?: number;
};

/**
 * Scores a token by the attention it gets in its chunk (no mask, no scale), summed over queries and averaged over
 * query heads, times ‖v‖, pooled over 3 neighbours and standardised over the layer. A last chunk that is not full
 * is filled up with queries and keys of zeros.
 *
 * @throws ConfigError when an option is out of range
 */
export function nonCausalAttention({ chunkTokens = 256 }: NonCausalOptions = {}): ScorePolicy {
  checkWhole("nonCausalAttention", { chunkTokens }, 1);
  return scorePolicy({
    name: "nonCausalAttention",
    evenHeads: true,
    needs: { queries: Infinity },
    takes: { chunkSums: { chunkTokens, first: 0, last: 0 } },
    moments: ["prefill"],
    score: (observation) => nonCausalScores("nonCausalAttention", observation, chunkTokens),
  });
}

/** The standardised scores of every token. */
export function nonCausalScores(where: string, observation: Observation, chunkTokens: number): HeadScores {
  const T = evenLength(where, observation);
  const { heads, values } = observation;
  const queries = observed(where, observation, "queries");
  if (queries.positions.length !== T) {
    throw new ConfigError(
      where,
      "a query of every cached token",
      { queries: queries.positions.length, tokens: T },
      "It runs after a prefill in one piece.",
    );
  }
  const masses =
    knownChunkSums(observation, { chunkTokens, first: 0, last: 0 }) ??
    Array.from({ length: heads }, (_, head) => {
      const mass = new Float64Array(T);
      for (let start = 0; start < T; start += chunkTokens) addChunk(mass, observation, head, start, chunkTokens);
      return mass;
    });
  const scores = groupMean(masses, groupOf(observation)).map((mass, head) => {
    const weighted = mass.map((m, t) => m * norm(values.data, values.starts[head] + t * values.stride, values.dim));
    return averagePool(weighted, 3);
  });
  return standardize(scores);
}

/** The sums that came with the observation, where they are of these chunks. */
export function knownChunkSums({ chunkSums }: Observation, wanted: ChunkSumsNeed): ChunkSums["sums"] | undefined {
  const isWanted = (["chunkTokens", "first", "last"] as const).every((part) => chunkSums?.[part] === wanted[part]);
  return isWanted ? chunkSums?.sums : undefined;
}

/** Adds the column sums of one chunk's attention. */
function addChunk(mass: Float64Array, observation: Observation, head: number, start: number, chunk: number): void {
  const { keys, queries } = observation as Required<Observation>;
  const { rows } = queries;
  const kvHead = Math.floor(head / groupOf(observation));
  const end = Math.min(mass.length, start + chunk);
  const missing = start + chunk - end;
  const row = new Float64Array(end - start);
  for (let t = start; t < end; t++) mass[t] += missing / chunk; // a query of zeros looks everywhere alike
  for (let i = start; i < end; i++) {
    const query = rows.starts[head] + i * rows.stride;
    let max = missing > 0 ? 0 : -Infinity;
    for (let t = start; t < end; t++) {
      row[t - start] = dot(rows.data, query, keys.data, keys.starts[kvHead] + t * keys.stride, keys.dim);
      max = Math.max(max, row[t - start]);
    }
    let total = missing * Math.exp(-max);
    for (let n = 0; n < row.length; n++) {
      row[n] = Math.exp(row[n] - max);
      total += row[n];
    }
    for (let n = 0; n < row.length; n++) mass[start + n] += row[n] / total;
  }
}
