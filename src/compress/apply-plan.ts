/** What a layer's rows become under a plan: in a cache, and as the definition that caches must agree with. */

import type { KeyValues } from "../attention/index.ts";
import { dropKeyChannels, type PositionedCache, replaceValues } from "../cache/index.ts";
import { rerotationTable, rotateInto } from "../rope/index.ts";
import { gatherRows, type HeadRows, type Observation } from "./observation.ts";
import type { LayerPlan } from "./policy.ts";

/** The rows that stay. */
export type CompressedLayer = {
  /** [Hk][n, D]; dropped channels are 0. */
  readonly keys: HeadRows;
  /** [Hk][n, Dv]. */
  readonly values: HeadRows;
  /** i32 [Hk][n]. */
  readonly positions: readonly Int32Array[];
};

/**
 * Carries a plan out on one layer of a cache: lets go of rows, moves keys, puts merged values in place and lets go of
 * dropped key channels, as `dropKeyChannels` does. A head that would keep nothing keeps its first row, because attention
 * over no rows has no answer.
 *
 * @param cache - between two steps of its model
 * @param plan - what a policy decided for this layer
 * @returns i32 [Hk][n] the slots that stayed
 * @throws ConfigError when a slot is out of range, or keys shall move whose rotation is not known
 */
export function applyPlanToCache<View extends KeyValues>(
  cache: PositionedCache<View>,
  layer: number,
  plan: LayerPlan,
): readonly Int32Array[] {
  const kept = plan.kept.map((slots) => (slots.length > 0 ? slots : Int32Array.of(0)));
  const wasEmpty = (head: number): boolean => plan.kept[head].length === 0;
  cache.compact(layer, kept);
  if (plan.positions) {
    const positions = plan.positions.map((to, head) => (wasEmpty(head) ? Int32Array.of(0) : to));
    cache.moveTo(layer, cache.isRagged(layer) ? { perHead: positions } : positions[0]);
  }
  if (plan.values) {
    const values = plan.values.map((rows, head) => (wasEmpty(head) ? undefined : rows));
    replaceValues(cache, layer, values);
  }
  if (plan.droppedChannels) dropKeyChannels(cache, layer, plan.droppedChannels);
  return kept;
}

/**
 * Gathers the rows that stay, turns keys that move (the attention factor in them stays as it is), puts merged values
 * in place and clears dropped channels.
 *
 * @param observation - keys, values and positions of the layer
 * @param plan - what a policy decided for it
 * @returns new arrays
 * @throws as `rerotationTable`
 */
export function applyPlan(observation: Observation, plan: LayerPlan): CompressedLayer {
  const { rotary, scheduleLength } = observation;
  const keys = gatherRows(observation.keys, plan.kept);
  const values = gatherRows(observation.values, plan.kept);
  const from = plan.kept.map((slots, head) => slots.map((slot) => observation.positions[head][slot]));
  const positions = plan.positions ?? from;
  for (const [head, slots] of plan.kept.entries()) {
    const rows = keys.data.subarray(keys.starts[head], keys.starts[head] + slots.length * keys.dim);
    if (plan.positions && rotary) {
      const length = scheduleLength === undefined ? {} : { length: scheduleLength };
      const to = { positions: positions[head], ...length };
      const table = rerotationTable(rotary, { positions: from[head], ...length }, to);
      rotateInto(rows, rows, table, { heads: 1, headDim: keys.dim });
    }
    const dropped = plan.droppedChannels?.[head];
    if (dropped) for (let n = 0; n < rows.length; n++) if (dropped[n % keys.dim]) rows[n] = 0;
    if (plan.values) values.data.set(plan.values[head], values.starts[head]);
  }
  return { keys, values, positions };
}
