/**
 * What may attend to what: masks as immutable data, and their evaluators.
 */

export {
  and,
  bidirectionalSpans,
  blockCausal,
  causal,
  chunked,
  dilated,
  full,
  globalTokens,
  lengths,
  Mask,
  not,
  or,
  prefix,
  prefixLm,
  sameSegment,
  slidingWindow,
  table,
  tree,
  type WindowReach,
} from "./expression.ts";
export {
  checkMaskInputs,
  createMaskInputs,
  type MaskInputs,
  type MaskRequirements,
  type RowName,
  requirements,
} from "./inputs.ts";
export {
  custom,
  IntegerExpression,
  type IntegerLike,
  integer,
  lookup,
  type MaskVocabulary,
  variable,
} from "./integer-expression.ts";
export type { BinaryName, IntegerNode, MaskNode, RelationName, VariableName } from "./node.ts";
export { parseMask } from "./parse.ts";
export { maskPicture, maskPictureSvg, type PictureOptions } from "./picture.ts";
export { type MaskPredicate, maskPredicate } from "./predicate.ts";
export { createTileBits, type TileBits, type TileBitsOptions } from "./tile-bits.ts";
export { planTiles, type TileOptions, type TilePlan } from "./tile-plan.ts";
export { type TilePlanReport, validateTilePlan } from "./validate-tile-plan.ts";
export { planWork, type WorkItems, type WorkOptions } from "./work-items.ts";
