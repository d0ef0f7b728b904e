/**
 * The oracle: one pair at a time, straight from the definition of each operation. Everything faster is tested
 * against it.
 */

import type { Mask } from "./expression.ts";
import { checkMaskInputs, type MaskInputs, own } from "./inputs.ts";
import type { BinaryName, IntegerNode, MaskNode, RelationName, VariableName } from "./node.ts";

/** Whether a query may attend to a key; indices of batch entry, query head, query row and key slot. */
export type MaskPredicate = (batch: number, head: number, queryIndex: number, keyIndex: number) => boolean;

/** One (query, key) pair. `query` and `key` are flat indices into [B, Tq] and [B, Tk]. */
type Pair = {
  readonly batch: number;
  readonly head: number;
  readonly query: number;
  readonly key: number;
  readonly keySlot: number;
};

/**
 * The mask as a function of one pair.
 *
 * @param inputs - what `requirements(mask)` lists; read at each call, not copied
 * @returns the predicate; a pair with a negative segment on either side is never allowed
 * @throws ConfigError, ShapeError when inputs are missing or do not fit
 */
export function maskPredicate(mask: Mask, inputs: MaskInputs): MaskPredicate {
  checkMaskInputs("maskPredicate", mask, inputs);
  const { queryLength, keyLength, querySegments, keySegments } = inputs;
  return (batch, head, queryIndex, keyIndex) => {
    const query = batch * queryLength + queryIndex;
    const key = batch * keyLength + keyIndex;
    if (querySegments !== undefined && at(querySegments, query) < 0) return false;
    if (keySegments !== undefined && at(keySegments, key) < 0) return false;
    return allows(mask.node, inputs, { batch, head, query, key, keySlot: keyIndex });
  };
}

function allows(node: MaskNode, inputs: MaskInputs, pair: Pair): boolean {
  const q = at(inputs.queryPositions, pair.query);
  const k = at(inputs.keyPositions, pair.key);
  switch (node.op) {
    case "full":
      return true;
    case "causal":
      return k <= q;
    case "window":
      return q - node.left <= k && k <= q + node.right;
    case "dilated":
      return mod(q - k, node.step) === 0 && q - node.left * node.step <= k && k <= q + node.right * node.step;
    case "chunked":
      return Math.floor(q / node.size) === Math.floor(k / node.size) && k <= q;
    case "blockCausal":
      return Math.floor(k / node.size) <= Math.floor(q / node.size);
    case "global":
      return inRanges(node.ranges, q) || inRanges(node.ranges, k);
    case "segment":
      return sameSegment(inputs, pair) && at(inputs.querySegments, pair.query) >= 0;
    case "prefix":
      return k < (node.length ?? at(inputs.prefixLengths, pair.batch));
    case "span": {
      const span = at(inputs.querySpans, pair.query);
      return span > 0 && span === at(inputs.keySpans, pair.key) && sameSegment(inputs, pair);
    }
    case "tree": {
      const draft = at(inputs.keyNodes, pair.key);
      return draft < 0 ? k <= q : isAncestor(node.parents, draft, at(inputs.queryNodes, pair.query));
    }
    case "length":
      return pair.keySlot < at(inputs.lengths, pair.batch);
    case "table":
      return own(inputs.tables, node.name)?.[pair.query * inputs.keyLength + pair.keySlot] !== 0;
    case "compare":
      return compare(node.relation, integer(node.left, inputs, pair), integer(node.right, inputs, pair));
    case "and":
      return node.args.every((arg) => allows(arg, inputs, pair));
    case "or":
      return node.args.some((arg) => allows(arg, inputs, pair));
    case "not":
      return !allows(node.arg, inputs, pair);
  }
}

/** The value of an integer expression at one pair. */
function integer(node: IntegerNode, inputs: MaskInputs, pair: Pair): number {
  switch (node.op) {
    case "constant":
      return node.value;
    case "variable":
      return variable(node.name, inputs, pair);
    case "lookup":
      return own(inputs.integerTables, node.table)?.[integer(node.index, inputs, pair)] ?? 0;
    default:
      return binary(node.op, integer(node.left, inputs, pair), integer(node.right, inputs, pair));
  }
}

function variable(name: VariableName, inputs: MaskInputs, pair: Pair): number {
  switch (name) {
    case "queryPosition":
      return at(inputs.queryPositions, pair.query);
    case "keyPosition":
      return at(inputs.keyPositions, pair.key);
    case "querySegment":
      return at(inputs.querySegments, pair.query);
    case "keySegment":
      return at(inputs.keySegments, pair.key);
    case "querySpan":
      return at(inputs.querySpans, pair.query);
    case "keySpan":
      return at(inputs.keySpans, pair.key);
    case "queryNode":
      return at(inputs.queryNodes, pair.query);
    case "keyNode":
      return at(inputs.keyNodes, pair.key);
    case "prefixLength":
      return at(inputs.prefixLengths, pair.batch);
    case "length":
      return at(inputs.lengths, pair.batch);
    case "keySlot":
    case "batch":
    case "head":
      return pair[name];
  }
}

/** `a op b` in 32-bit arithmetic. The divisor of `floorDiv` and `mod` is positive. */
export function binary(op: BinaryName, a: number, b: number): number {
  switch (op) {
    case "add":
      return (a + b) | 0;
    case "sub":
      return (a - b) | 0;
    case "mul":
      return Math.imul(a, b);
    case "floorDiv":
      return Math.floor(a / b);
    case "mod":
      return mod(a, b);
    case "min":
      return Math.min(a, b);
    case "max":
      return Math.max(a, b);
  }
}

/** `a relation b`. */
export function compare(relation: RelationName, a: number, b: number): boolean {
  switch (relation) {
    case "eq":
      return a === b;
    case "ne":
      return a !== b;
    case "lt":
      return a < b;
    case "le":
      return a <= b;
    case "gt":
      return a > b;
    case "ge":
      return a >= b;
  }
}

function mod(a: number, b: number): number {
  return a - b * Math.floor(a / b);
}

function at(values: Int32Array | undefined, index: number): number {
  return values?.[index] as number;
}

/** Segments equal; true where no segments are given. */
function sameSegment(inputs: MaskInputs, pair: Pair): boolean {
  const { querySegments, keySegments } = inputs;
  if (querySegments === undefined || keySegments === undefined) return true;
  return querySegments[pair.query] === keySegments[pair.key];
}

function inRanges(ranges: readonly number[], position: number): boolean {
  for (let i = 0; i < ranges.length; i += 2) {
    if ((ranges[i] as number) <= position && position <= (ranges[i + 1] as number)) return true;
  }
  return false;
}

/** Whether `ancestor` is `node` or on its way to the root. */
function isAncestor(parents: readonly number[], ancestor: number, node: number): boolean {
  for (let i = node; i >= 0; i = parents[i] as number) {
    if (i === ancestor) return true;
  }
  return false;
}
