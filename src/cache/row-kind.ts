/**
 * What rows must have in common to be in one cache, as text that can be compared.
 */

import { dependsOnLength, scheduleId } from "../rope/index.ts";
import type { ResolvedLayer } from "./layer-spec.ts";

/**
 * @param axes - positions per slot beside the one that masks compare
 * @param scheduleLength - the length that length-dependent schedules were resolved for
 */
export function rowKind(layers: readonly ResolvedLayer[], axes: number, scheduleLength: number): string {
  const kinds = layers.map((layer) => {
    const { kvHeads, keyDim, valueDim, elements, pristineKeys } = layer;
    return [kvHeads, keyDim, valueDim, elements, pristineKeys, rotationId(layer, scheduleLength)];
  });
  return JSON.stringify([axes, kinds]);
}

function rotationId({ rotary }: ResolvedLayer, scheduleLength: number): unknown {
  if (!rotary) return rotary === null ? "none" : "unknown";
  const { rotaryDim, rotaryOffset, pairing, pairAxes = null, schedule } = rotary;
  const id = scheduleId(schedule, dependsOnLength(schedule) ? scheduleLength : 1);
  return [rotaryDim, rotaryOffset, pairing, pairAxes, id];
}
