/**
 * KVCompose: heads choose their own tokens, layers compete for how many.
 *
 * @see https://arxiv.org/abs/2509.05165
 */

import { keptCount } from "./amount.ts";
import { checkWhole } from "./check-options.ts";
import { bestOfAll } from "./compete.ts";
import { groupMean } from "./group-mean.ts";
import { evenLength, groupOf, type Observation, observed } from "./observation.ts";
import { givenAmount, type HeadScores, type Policy, type ScorePolicy, scorePolicy } from "./policy.ts";
import { repeatPeaks } from "./repeat-attention.ts";
import { topSlots } from "./top-slots.ts";
import { norm } from "./vectors.ts";

/** Options of {@link kvCompose}. */
export type KVComposeOptions = {
  /** Whether all heads of a layer keep the same number; true unless told. */
  readonly structured?: boolean;
  /** Tokens that every layer (structured) or head wins before the others compete, as far as the amount goes; 0 unless told. */
  readonly leastTokens?: number;
  /** Multiply by ‖v‖; false unless told. */
  readonly valueNorm?: boolean;
  /** Add the mean over the layer's heads; true unless told. */
  readonly addHeadMean?: boolean;
};

const NO_ENDS = { first: 0, last: 0 };

/**
 * Scores a token by the largest attention that the context, fed once more, pays to it, averaged over query heads.
 * Each head's scores are sorted; the sorted lists, averaged over heads when structured, compete over all layers; how
 * many of a list win is how many of its best tokens stay. The first layer competes with the best of all lists.
 *
 * @throws ConfigError when an option is out of range
 */
export function kvCompose(options: KVComposeOptions = {}): ScorePolicy {
  const { structured = true, leastTokens = 0, valueNorm = false, addHeadMean = true } = options;
  checkWhole("kvCompose", { leastTokens }, 0);
  const base = scorePolicy({
    name: "kvCompose",
    evenHeads: true,
    needs: { repeats: "whole" },
    takes: { repeatSinks: 0 },
    moments: ["prefill"],
    score: (observation) => composeScores(observation, valueNorm, addHeadMean),
  });
  const plan: Policy["plan"] = (layers, amount) => {
    const given = givenAmount("kvCompose", amount);
    const scores = layers.map((observation) => base.score(observation, given));
    const lists = structured ? layerLists(scores) : scores.flat().map(descending);
    for (const list of lists) list.fill(Infinity, 0, leastTokens);
    const total = lists.reduce((sum, list) => sum + list.length, 0);
    const stay =
      given.budget === undefined
        ? keptCount(given, total)
        : lists.reduce((sum, list) => sum + keptCount(given, list.length), 0);
    const counts = bestOfAll(lists, stay).map((kept) => kept.length);
    return scores.map((rows, layer) => ({
      kept: rows.map((row, head) => {
        const count = structured ? Math.max(1, counts[layer]) : counts[layer * rows.length + head];
        return topSlots(row, count, NO_ENDS);
      }),
    }));
  };
  return { ...base, scope: "model", ragged: !structured, plan };
}

function composeScores(observation: Observation, valueNorm: boolean, addHeadMean: boolean): HeadScores {
  const T = evenLength("kvCompose", observation);
  const { heads, values } = observation;
  const largest = Array.from({ length: heads }, () => new Float64Array(T));
  for (const pass of observed("kvCompose", observation, "repeats")) {
    for (const [head, peaks] of repeatPeaks(observation, pass, 0).entries()) {
      const row = largest[head];
      for (let n = 0; n < peaks.length; n++) row[pass.start + n] = Math.max(row[pass.start + n], peaks[n]);
    }
  }
  const grouped = groupMean(largest, groupOf(observation)).map((row, head) => {
    if (!valueNorm) return row;
    return row.map((score, t) => score * norm(values.data, values.starts[head] + t * values.stride, values.dim));
  });
  if (!addHeadMean) return grouped;
  const [mean] = groupMean(grouped, grouped.length);
  return grouped.map((row) => row.map((score, t) => score + mean[t]));
}

/** One list per layer: the mean over heads of their sorted scores; the first layer has the largest of all. */
function layerLists(scores: readonly HeadScores[]): Float64Array[] {
  const lists = scores.map((rows) => {
    const [mean] = groupMean(rows.map(descending), rows.length);
    return mean;
  });
  lists[0] = lists[0].map((_, rank) => Math.max(...lists.map((list) => list[rank])));
  return lists;
}

function descending(row: Float64Array): Float64Array {
  return row.slice().sort().reverse();
}
