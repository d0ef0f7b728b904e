/**
 * DuoAttention without trained patterns: heads that look near keep sinks and a window, heads that look far keep all.
 *
 * @see https://arxiv.org/abs/2410.10819, and kvpress' duo_attention_on_the_fly for the score; there it is taken from
 * sample texts once, here from the prompt itself
 */

import { largestIndices } from "../attention/top-k.ts";
import { roundHalfToEven } from "../dtype.ts";
import { rotaryTable, rotate } from "../rope/index.ts";
import { checkRange, checkWhole } from "./check-options.ts";
import { groupMean } from "./group-mean.ts";
import { groupOf, type HeadRows, type Observation, observed } from "./observation.ts";
import { type Policy, refuseAmount } from "./policy.ts";
import { meanRow } from "./row-products.ts";
import { allSlots, topSlots } from "./top-slots.ts";
import { dot, softmaxInPlace } from "./vectors.ts";

/** Options of {@link duoAttention}. */
export type DuoAttentionOptions = {
  /** Fraction of all heads of the model that stream, 0 to 1; 0.5 unless told. */
  readonly streamingRatio?: number;
  /** First tokens a streaming head keeps; 128 unless told. */
  readonly sinks?: number;
  /** Last tokens a streaming head keeps; 256 unless told. */
  readonly recent?: number;
  /** Distances that the score looks at; 500 unless told. */
  readonly distances?: number;
};

/**
 * The heads with the lowest {@link reachScores} stream; of equal scores the earlier head.
 *
 * @throws ConfigError when an option is out of range
 */
export function duoAttention(options: DuoAttentionOptions = {}): Policy {
  const { streamingRatio = 0.5, sinks = 128, recent = 256, distances = 500 } = options;
  checkRange("duoAttention", { streamingRatio }, 0, 1);
  checkWhole("duoAttention", { sinks }, 0);
  checkWhole("duoAttention", { recent, distances }, 1);
  return {
    name: "duoAttention",
    needs: { unrotatedQueries: Infinity, unrotatedKeys: true },
    moments: ["prefill"],
    scope: "model",
    amount: "own",
    ragged: true,
    effects: ["evicts"],
    plan: (layers, amount) => {
      refuseAmount("duoAttention", amount);
      const scores = layers.map((observation) => reachScores(observation, distances));
      const all = scores.flatMap((row) => Array.from(row, (score) => -score));
      const streaming = new Set(largestIndices(all, roundHalfToEven(all.length * streamingRatio)));
      const before = scores.map((_, n) => scores.slice(0, n).reduce((sum, row) => sum + row.length, 0));
      return layers.map(({ keys }, n) => ({
        kept: Array.from(keys.lengths, (T, head) =>
          streaming.has(before[n] + head)
            ? topSlots(new Float64Array(T), sinks + recent, { first: sinks, last: recent })
            : allSlots(T),
        ),
      }));
    },
  };
}

/**
 * How far each head looks: the head's mean query attends to its mean key at every distance, and the score is the
 * area under the cumulated attention, farthest first: near 1 for a head that looks at the start, near 0 for one that
 * looks at itself.
 *
 * @returns f64 [Hk]
 */
export function reachScores(observation: Observation, distances: number): Float64Array {
  const { rotary, scale, heads } = observation;
  const group = groupOf(observation);
  const queries = meanRows(observed("duoAttention", observation, "unrotatedQueries").rows);
  const keys = meanRows(observed("duoAttention", observation, "unrotatedKeys"));
  const D = observation.keys.dim;
  const length = observation.scheduleLength === undefined ? {} : { length: observation.scheduleLength };
  const turned = (row: Float32Array): Float32Array => {
    const repeated = new Float32Array(distances * D);
    for (let t = 0; t < distances; t++) repeated.set(row, t * D);
    if (rotary === null) return repeated;
    return rotate(repeated, rotaryTable(rotary, allSlots(distances), length), { heads: 1, headDim: D });
  };
  const perHead = Array.from({ length: heads }, (_, head) => {
    const query = turned(queries[head]).subarray(-D);
    const places = turned(keys[Math.floor(head / group)]);
    const attention = Float64Array.from({ length: distances }, (_, t) => scale * dot(query, 0, places, t * D, D));
    softmaxInPlace(attention);
    // The mean of the running sums counts place t once for every place from t on.
    return Float64Array.of(attention.reduce((area, p, t) => area + (p * (distances - t)) / distances, 0));
  });
  return Float64Array.from(groupMean(perHead, group), ([mean]) => mean);
}

function meanRows({ data, dim, starts, stride, lengths }: HeadRows): Float32Array[] {
  return Array.from(starts, (start, head) =>
    Float32Array.from(meanRow({ data, start, stride, count: lengths[head] }, dim)),
  );
}
