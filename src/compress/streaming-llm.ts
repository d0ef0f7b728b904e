/**
 * Attention sinks and a recent window stay. The paper also moves the kept keys together: `rerotated(streamingLLM())`.
 *
 * @see https://arxiv.org/abs/2309.17453
 */

import { checkWhole } from "./check-options.ts";
import { keptCounts, type ScorePolicy, scorePolicy } from "./policy.ts";

/** Options of {@link streamingLLM}. */
export type StreamingLLMOptions = {
  /** First tokens that always stay; 4 unless told. */
  readonly sinks?: number;
};

/**
 * Scores the first `sinks` and the latest tokens 1 and what lies between 0.
 *
 * @throws ConfigError when an option is out of range
 */
export function streamingLLM({ sinks = 4 }: StreamingLLMOptions = {}): ScorePolicy {
  checkWhole("streamingLLM", { sinks }, 0);
  return scorePolicy({
    name: "streamingLLM",
    comparable: false,
    protects: () => ({ first: sinks, last: 0 }),
    score: (observation, amount) =>
      keptCounts(observation, amount).map((kept, head) => {
        const T = observation.keys.lengths[head];
        return new Float64Array(T).fill(1).fill(0, sinks, sinks + T - kept);
      }),
  });
}
