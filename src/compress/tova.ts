/**
 * What the last query attends to stays: one choice for all heads.
 *
 * @see https://arxiv.org/abs/2401.06104
 */

import { groupMean } from "./group-mean.ts";
import { evenLength, groupOf } from "./observation.ts";
import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { windowAttention, withWindow } from "./snap-kv.ts";

/** Scores a token by the last query's attention, averaged over all heads of the layer. */
export function tova(): ScorePolicy {
  return scorePolicy({
    name: "tova",
    evenHeads: true,
    needs: { queries: 1 },
    takes: { querySums: { queries: 1, weights: "equal" } },
    protects: () => ({ first: 0, last: 1 }),
    score: (observation) => {
      evenLength("tova", observation);
      const perHead = windowAttention("tova", observation, 1, "equal");
      const [mean] = groupMean(perHead, observation.heads);
      const kvHeads = observation.heads / groupOf(observation);
      return withWindow(new Array<Float64Array>(kvHeads).fill(mean), observation, 1);
    },
  });
}
