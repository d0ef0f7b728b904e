/**
 * Heavy hitters: tokens that got much attention from the queries that could see them stay.
 *
 * @see https://arxiv.org/abs/2306.14048
 */

import { groupMean } from "./group-mean.ts";
import { groupOf, observed } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";

/** Scores a token by its attention mass over the number of queries that could see it, averaged over query heads. */
export function observedAttention(): ScorePolicy {
  return scorePolicy({
    name: "observedAttention",
    needs: { attentionMass: true },
    moments: ["prefill"],
    score: (observation) => {
      const { sums, counts } = observed("observedAttention", observation, "attentionMass");
      const means = groupMean(sums, groupOf(observation));
      return means.map((row, head) => row.map((mass, t) => mass / Math.max(1, counts[head][t])));
    },
  });
}
