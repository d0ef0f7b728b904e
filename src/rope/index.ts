/**
 * Rotary positions: schedules -> tables -> rotation.
 */

export { axialLayer, type VisionRotary, visionLayer } from "./axial.ts";
export { type FrequencyChange, type FrequencyPlan, planFrequencyChange } from "./frequency-change.ts";
export { type ConfigLayerOptions, positionsFromConfig } from "./from-config.ts";
export { type GgufLayerOptions, positionsFromGguf } from "./from-gguf.ts";
export type { LayerPositions, Pairing, QueryTemperature, RotaryLayer } from "./layer.ts";
export { type MropeLayout, mropePairAxes } from "./mrope.ts";
export { convertPairing, type PairingLayout, type WeightArray } from "./pairing.ts";
export {
  centeredGridPositions,
  gridPositions,
  leftPadded,
  llama4GridPositions,
  type MropeSpan,
  mropePositions,
  packedPositions,
  positionRange,
} from "./positions.ts";
export { temperatureAt, temperatureScales } from "./query-temperature.ts";
export { type RotaryState, rerotateFrequencies, rerotateInto, rerotationTable } from "./rerotate.ts";
export { createRotaryCache, type RotaryCache, type RotaryCacheOptions } from "./rotary-cache.ts";
export { type RotateOptions, type RotationDirection, type RotationInput, rotate, rotateInto } from "./rotate.ts";
export {
  type DefaultSchedule,
  type DivisorsSchedule,
  type DynamicSchedule,
  dependsOnLength,
  type ExplicitSchedule,
  type Frequencies,
  frequencies,
  type LinearSchedule,
  type Llama3Schedule,
  type LongRopeSchedule,
  type NtkSchedule,
  type PRopeSchedule,
  type ProportionalSchedule,
  pairCount,
  type RopeSchedule,
  scheduleId,
  type YarnSchedule,
} from "./schedule.ts";
export { type Positions, type RotaryTable, type RotaryTableOptions, rotaryTable } from "./table.ts";
export { type XposOptions, type XposTables, xposTables } from "./xpos.ts";
export { yarnMscale } from "./yarn.ts";
