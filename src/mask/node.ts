/**
 * What a mask is made of: plain frozen data, one shape per operation. This is also its JSON form.
 */

import { ConfigError } from "../errors.ts";

/** A number that belongs to the query, the key, the batch entry or the head of a pair. */
export type VariableName =
  | "queryPosition"
  | "keyPosition"
  | "querySegment"
  | "keySegment"
  | "querySpan"
  | "keySpan"
  | "queryNode"
  | "keyNode"
  | "keySlot"
  | "prefixLength"
  | "length"
  | "batch"
  | "head";

/** Operations on two integers. The divisor of `floorDiv` and `mod` is a positive constant. */
export type BinaryName = "add" | "sub" | "mul" | "floorDiv" | "mod" | "min" | "max";

/** Comparisons of two integers. */
export type RelationName = "eq" | "ne" | "lt" | "le" | "gt" | "ge";

/**
 * An integer per (batch, head, query, key). Arithmetic is that of 32-bit integers and wraps around, so that every
 * backend agrees; `floorDiv` rounds down and `mod` is never negative. A lookup outside its table reads 0.
 */
export type IntegerNode =
  | { readonly op: "constant"; readonly value: number }
  | { readonly op: "variable"; readonly name: VariableName }
  | { readonly op: "lookup"; readonly table: string; readonly index: IntegerNode }
  | { readonly op: BinaryName; readonly left: IntegerNode; readonly right: IntegerNode };

/** A truth value per (batch, head, query, key). See the builder of the same meaning for each operation. */
export type MaskNode =
  | { readonly op: "full" }
  | { readonly op: "causal" }
  | { readonly op: "window"; readonly left: number; readonly right: number }
  | { readonly op: "chunked"; readonly size: number }
  | { readonly op: "blockCausal"; readonly size: number }
  | { readonly op: "dilated"; readonly left: number; readonly right: number; readonly step: number }
  | { readonly op: "global"; readonly ranges: readonly number[] }
  | { readonly op: "segment" }
  | { readonly op: "prefix"; readonly length?: number }
  | { readonly op: "span" }
  | { readonly op: "tree"; readonly parents: readonly number[] }
  | { readonly op: "length" }
  | { readonly op: "table"; readonly name: string }
  | { readonly op: "compare"; readonly relation: RelationName; readonly left: IntegerNode; readonly right: IntegerNode }
  | { readonly op: "and" | "or"; readonly args: readonly MaskNode[] }
  | { readonly op: "not"; readonly arg: MaskNode };

/** All variables, in the order they are listed in messages. */
export const VARIABLE_NAMES: readonly VariableName[] = [
  "queryPosition",
  "keyPosition",
  "querySegment",
  "keySegment",
  "querySpan",
  "keySpan",
  "queryNode",
  "keyNode",
  "keySlot",
  "prefixLength",
  "length",
  "batch",
  "head",
];

/** All binary operations. */
export const BINARY_NAMES: readonly BinaryName[] = ["add", "sub", "mul", "floorDiv", "mod", "min", "max"];

/** All comparisons. */
export const RELATION_NAMES: readonly RelationName[] = ["eq", "ne", "lt", "le", "gt", "ge"];

/** Positions and sizes stay below this in magnitude, so that no sum of two of them leaves 32 bits. */
export const POSITION_LIMIT: number = 2 ** 30;

/** Deepest nesting of one mask. */
export const MAX_DEPTH: number = 64;

/** Largest number of operations of one mask, list entries included. */
export const MAX_NODES: number = 1 << 16;

/** Nesting and number of operations of a mask or integer expression. */
export type Extent = { readonly depth: number; readonly nodes: number };

/** The extent of an operation over parts; refuses what is too deep or too large. */
export function extentOver(where: string, parts: readonly Extent[], listEntries = 0): Extent {
  let depth = 0;
  let nodes = 1 + listEntries;
  for (const part of parts) {
    depth = Math.max(depth, part.depth);
    nodes += part.nodes;
  }
  depth += 1;
  if (depth > MAX_DEPTH) throw new ConfigError(where, `a mask may nest at most ${MAX_DEPTH} deep`, { depth });
  if (nodes > MAX_NODES) throw new ConfigError(where, `a mask may have at most ${MAX_NODES} parts`, { parts: nodes });
  return { depth, nodes };
}

/** Refuses anything but an integer within [min, max]. */
export function checkInteger(where: string, name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw new ConfigError(where, `${name} must be an integer from ${min} to ${max}`, { [name]: value });
  }
  return value + 0; // −0 becomes 0
}
