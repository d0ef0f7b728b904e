/**
 * Integers of masks, one pair at a time: for those that belong to the query or to the key alone.
 */

import type { VariableName } from "../../mask/index.ts";
import { type MaskInputs, own } from "../../mask/inputs.ts";
import type { CoreInteger } from "../../mask/lower.ts";
import { binary } from "../../mask/predicate.ts";

/** Indices of batch entry, query head, query row and key slot. */
export type Pair = { readonly b: number; readonly h: number; readonly i: number; readonly j: number };

/** Variables of the query. */
export const rowVariables: ReadonlySet<VariableName> = new Set<VariableName>([
  "queryPosition",
  "querySegment",
  "querySpan",
  "queryNode",
  "head",
]);

/** Variables of the key; what is in neither set belongs to the batch entry. */
export const keyVariables: ReadonlySet<VariableName> = new Set<VariableName>([
  "keyPosition",
  "keySegment",
  "keySpan",
  "keyNode",
  "keySlot",
]);

/** The value of an integer expression at one pair. */
export function evaluateInteger(node: CoreInteger, inputs: MaskInputs, pair: Pair): number {
  switch (node.op) {
    case "constant":
      return node.value;
    case "variable":
      return variable(node.name, inputs, pair);
    case "lookup":
      return own(inputs.integerTables, node.table)?.[evaluateInteger(node.index, inputs, pair)] ?? 0;
    case "constantLookup":
      return node.values[evaluateInteger(node.index, inputs, pair)] ?? 0;
    default:
      return binary(node.op, evaluateInteger(node.left, inputs, pair), evaluateInteger(node.right, inputs, pair));
  }
}

function variable(name: VariableName, inputs: MaskInputs, { b, h, i, j }: Pair): number {
  switch (name) {
    case "batch":
      return b;
    case "head":
      return h;
    case "keySlot":
      return j;
    case "length":
    case "prefixLength":
      return inputs[`${name}s`]?.[b] as number;
    case "queryPosition":
    case "querySegment":
    case "querySpan":
    case "queryNode":
      return inputs[`${name}s`]?.[b * inputs.queryLength + i] as number;
    default:
      return inputs[`${name}s`]?.[b * inputs.keyLength + j] as number;
  }
}
