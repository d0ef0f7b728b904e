/** What a layer's rows become under a plan: the definition that caches must agree with. */

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
