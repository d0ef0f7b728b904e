/**
 * SimLayerKV: layers whose last queries look at the start and the end only keep nothing else.
 *
 * @see https://arxiv.org/abs/2410.13846
 */

import { checkRange, checkWhole } from "./check-options.ts";
import type { Observation } from "./observation.ts";
import { type Policy, refuseAmount } from "./policy.ts";
import { windowAttention } from "./snap-kv.ts";
import { allSlots, topSlots } from "./top-slots.ts";

/** Options of {@link simLayerKV}. */
export type SimLayerKVOptions = {
  /** Attention on the ends above which a layer is lazy, 0 to 1. The last queries' own keys are not counted. */
  readonly threshold: number;
  /** Queries that are looked from; 1 unless told. */
  readonly lastQueries?: number;
  /** Tokens at the end that count; a lazy layer keeps this many less `lastQueries`. 1024 unless told. */
  readonly recent?: number;
  /** Tokens at the start that count and stay; 4 unless told. */
  readonly sinks?: number;
};

/**
 * Lazy layers keep `sinks` and `recent − lastQueries` tokens, the others all; so do prompts shorter than the ends.
 *
 * @throws ConfigError when an option is out of range
 */
export function simLayerKV(options: SimLayerKVOptions): Policy {
  const { threshold, lastQueries = 1, recent = 1024, sinks = 4 } = options;
  checkRange("simLayerKV", { threshold }, 0, 1);
  checkWhole("simLayerKV", { lastQueries }, 1);
  checkWhole("simLayerKV", { sinks }, 0);
  checkWhole("simLayerKV", { recent }, lastQueries + 1);
  return {
    name: "simLayerKV",
    needs: { queries: lastQueries },
    takes: { querySums: { queries: lastQueries, weights: "equal" } },
    moments: ["prefill"],
    scope: "layer",
    amount: "own",
    ragged: false,
    effects: ["evicts"],
    plan: (layers, amount) => {
      refuseAmount("simLayerKV", amount);
      return layers.map((observation) => {
        const lengths = Array.from(observation.keys.lengths);
        const long = lengths.every((T) => T >= sinks + recent);
        if (!long || lazyScore(observation, options) <= threshold) return { kept: lengths.map(allSlots) };
        const ends = { first: sinks, last: recent - lastQueries };
        return { kept: lengths.map((T) => topSlots(new Float64Array(T), ends.first + ends.last, ends)) };
      });
    },
  };
}

/** Mean attention of the last queries on the first `sinks` and the last `recent` keys before them. */
export function lazyScore(observation: Observation, options: Omit<SimLayerKVOptions, "threshold">): number {
  const { lastQueries = 1, recent = 1024, sinks = 4 } = options;
  const means = windowAttention("simLayerKV", observation, lastQueries, "equal");
  const onEnds = means.map((row) => {
    let sum = 0;
    for (let t = 0; t < row.length; t++) {
      sum += (Number(t < sinks) + Number(t >= row.length - recent)) * row[t];
    }
    return sum;
  });
  return onEnds.reduce((sum, one) => sum + one, 0) / onEnds.length;
}
