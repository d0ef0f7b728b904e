/**
 * ThinK: key channels that matter little to the scores go; every token stays.
 *
 * @see https://arxiv.org/abs/2407.21018
 */

import { largestIndices } from "../attention/top-k.ts";
import { checkRange, checkWhole } from "./check-options.ts";
import { groupOf, type Observation, observed } from "./observation.ts";
import { type HeadScores, type Policy, refuseAmount } from "./policy.ts";
import { lastQueries } from "./query-attention.ts";
import { allSlots } from "./top-slots.ts";

/** Options of {@link think}. */
export type ThinkOptions = {
  /** Fraction of the key channels that go, 0 to below 1; 0.5 unless told. */
  readonly channelRatio?: number;
  /** Last queries that are looked from; 32 unless told. */
  readonly window?: number;
};

/**
 * Drops the floor(D · channelRatio) key channels of every head with the lowest mean q² · mean k².
 *
 * @throws ConfigError when an option is out of range
 */
export function think({ channelRatio = 0.5, window = 32 }: ThinkOptions = {}): Policy {
  checkRange("think", { channelRatio }, 0, 1 - Number.EPSILON);
  checkWhole("think", { window }, 1);
  return {
    name: "think",
    needs: { queries: window },
    moments: ["prefill"],
    scope: "layer",
    amount: "own",
    ragged: false,
    effects: ["drops channels"],
    plan: (layers, amount) => {
      refuseAmount("think", amount);
      return layers.map((observation) => ({
        kept: Array.from(observation.keys.lengths, allSlots),
        droppedChannels: channelScores(observation, window).map((scores) => {
          const stay = scores.length - Math.floor(scores.length * channelRatio);
          const dropped = new Uint8Array(scores.length).fill(1);
          for (const channel of largestIndices(scores, stay)) dropped[channel] = 0;
          return dropped;
        }),
      }));
    },
  };
}

/**
 * Mean q² of the last queries, averaged over query heads, times mean k², for every channel.
 *
 * @returns f64 [Hk][D]
 */
export function channelScores(observation: Observation, window: number): HeadScores {
  const { keys } = observation;
  const group = groupOf(observation);
  const { rows } = lastQueries(observed("think", observation, "queries"), window);
  return Array.from(keys.starts, (start, kvHead) => {
    const ofKeys = meanSquares(keys.data, start, keys.stride, keys.lengths[kvHead], keys.dim);
    const ofQueries = Array.from({ length: group }, (_, g) => {
      const head = kvHead * group + g;
      return meanSquares(rows.data, rows.starts[head], rows.stride, rows.lengths[head], rows.dim);
    });
    return ofKeys.map((k, d) => k * (ofQueries.reduce((sum, q) => sum + q[d], 0) / group));
  });
}

function meanSquares(data: Float32Array, start: number, stride: number, rows: number, dim: number): Float64Array {
  const means = new Float64Array(dim);
  for (let t = 0; t < rows; t++) for (let d = 0; d < dim; d++) means[d] += data[start + t * stride + d] ** 2 / rows;
  return means;
}
