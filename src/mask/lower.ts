/**
 * Masks in few operations: comparisons of integers, tables, and/or/not. The evaluators of tiles work on this form.
 * Comparisons are arranged so that one side belongs to the query and the other to the key wherever that is possible.
 */

import type { Mask } from "./expression.ts";
import type { MaskInputs } from "./inputs.ts";
import type { BinaryName, MaskNode, RelationName, VariableName } from "./node.ts";

/** An integer; as `IntegerNode`, and lookups in tables that belong to the mask. */
export type CoreInteger =
  | { readonly op: "constant"; readonly value: number }
  | { readonly op: "variable"; readonly name: VariableName }
  | { readonly op: "lookup"; readonly table: string; readonly index: CoreInteger }
  | { readonly op: "constantLookup"; readonly values: Int32Array; readonly index: CoreInteger }
  | { readonly op: BinaryName; readonly left: CoreInteger; readonly right: CoreInteger };

/** A truth value in few operations. */
export type CoreMask =
  | { readonly op: "constant"; readonly value: boolean }
  | { readonly op: "compare"; readonly relation: RelationName; readonly left: CoreInteger; readonly right: CoreInteger }
  | { readonly op: "table"; readonly name: string }
  | { readonly op: "and" | "or"; readonly args: readonly CoreMask[] }
  | { readonly op: "not"; readonly arg: CoreMask };

/** Which segments the inputs have; without them there is no padding and spans are not cut. */
export type GivenSegments = Pick<MaskInputs, "querySegments" | "keySegments">;

/**
 * The mask in few operations, the rule for padding included.
 *
 * @param given - the segments of the inputs, or undefined where there are none
 */
export function lowerMask(mask: Mask, given: GivenSegments): CoreMask {
  const parts: CoreMask[] = [];
  if (given.querySegments !== undefined) parts.push(compare("ge", qSegment, constant(0)));
  if (given.keySegments !== undefined) parts.push(compare("ge", kSegment, constant(0)));
  parts.push(lower(mask.node, given.querySegments !== undefined && given.keySegments !== undefined));
  return parts.length === 1 ? (parts[0] as CoreMask) : all(...parts);
}

const q: CoreInteger = { op: "variable", name: "queryPosition" };
const k: CoreInteger = { op: "variable", name: "keyPosition" };
const qSegment: CoreInteger = { op: "variable", name: "querySegment" };
const kSegment: CoreInteger = { op: "variable", name: "keySegment" };
const qSpan: CoreInteger = { op: "variable", name: "querySpan" };
const kSpan: CoreInteger = { op: "variable", name: "keySpan" };
const qNode: CoreInteger = { op: "variable", name: "queryNode" };
const kNode: CoreInteger = { op: "variable", name: "keyNode" };

function lower(node: MaskNode, segments: boolean): CoreMask {
  switch (node.op) {
    case "full":
      return { op: "constant", value: true };
    case "causal":
      return compare("le", k, q);
    case "window":
      return windowOf(node.left, node.right);
    case "dilated": {
      const steps = compare("eq", binary("mod", q, node.step), binary("mod", k, node.step));
      return all(windowOf(node.left * node.step, node.right * node.step), steps);
    }
    case "chunked":
      return all(
        compare("le", k, q),
        compare("eq", binary("floorDiv", q, node.size), binary("floorDiv", k, node.size)),
      );
    case "blockCausal":
      return compare("le", binary("floorDiv", k, node.size), binary("floorDiv", q, node.size));
    case "global":
      return any(...inRanges(node.ranges, q), ...inRanges(node.ranges, k));
    case "segment":
      return all(compare("eq", qSegment, kSegment), compare("ge", qSegment, constant(0)));
    case "prefix":
      return compare("lt", k, node.length === undefined ? variable("prefixLength") : constant(node.length));
    case "span": {
      const sameSpan = all(compare("gt", qSpan, constant(0)), compare("eq", qSpan, kSpan));
      return segments ? all(sameSpan, compare("eq", qSegment, kSegment)) : sameSpan;
    }
    case "tree":
      return lowerTree(node.parents);
    case "length":
      return compare("lt", variable("keySlot"), variable("length"));
    case "table":
      return node;
    case "compare":
      return compare(node.relation, node.left, node.right);
    case "and":
    case "or":
      return join(
        node.op,
        node.args.map((arg) => lower(arg, segments)),
      );
    case "not":
      return { op: "not", arg: lower(node.arg, segments) };
  }
}

/** kvPos in [qPos − left, qPos + right]. */
function windowOf(left: number, right: number): CoreMask {
  return all(compare("le", binary("sub", q, left), k), compare("le", k, right === 0 ? q : binary("add", q, right)));
}

function inRanges(ranges: readonly number[], position: CoreInteger): CoreMask[] {
  const masks: CoreMask[] = [];
  for (let i = 0; i < ranges.length; i += 2) {
    const [first, last] = [constant(ranges[i] as number), constant(ranges[i + 1] as number)];
    masks.push(all(compare("ge", position, first), compare("le", position, last)));
  }
  return masks;
}

/**
 * Ancestors by a depth-first numbering: a node's descendants, itself included, are numbered enter[node] to
 * exit[node] − 1 without a gap.
 */
function lowerTree(parents: readonly number[]): CoreMask {
  const { enter, exit } = numberTree(parents);
  const numberOfQuery: CoreInteger = { op: "constantLookup", values: enter, index: qNode };
  const enterOfKey: CoreInteger = { op: "constantLookup", values: enter, index: kNode };
  const exitOfKey: CoreInteger = { op: "constantLookup", values: exit, index: kNode };
  const committed = all(compare("lt", kNode, constant(0)), compare("le", k, q));
  const ancestor = all(
    compare("ge", kNode, constant(0)),
    compare("ge", qNode, constant(0)),
    compare("le", enterOfKey, numberOfQuery),
    compare("lt", numberOfQuery, exitOfKey),
  );
  return any(committed, ancestor);
}

function numberTree(parents: readonly number[]): { enter: Int32Array; exit: Int32Array } {
  const count = parents.length;
  const firstChild = new Int32Array(count + 1).fill(-1); // the last entry holds the roots
  const nextSibling = new Int32Array(count).fill(-1);
  for (let i = count - 1; i >= 0; i--) {
    const parent = parents[i] === -1 ? count : (parents[i] as number);
    nextSibling[i] = firstChild[parent] as number;
    firstChild[parent] = i;
  }
  const enter = new Int32Array(count);
  const exit = new Int32Array(count);
  let next = 0;
  let node = firstChild[count] as number;
  while (node !== -1) {
    enter[node] = next++;
    if (firstChild[node] !== -1) {
      node = firstChild[node] as number;
      continue;
    }
    while (node !== -1) {
      exit[node] = next;
      if (nextSibling[node] !== -1) break;
      node = parents[node] as number;
    }
    if (node !== -1) node = nextSibling[node] as number;
  }
  return { enter, exit };
}

function constant(value: number): CoreInteger {
  return { op: "constant", value };
}

function variable(name: VariableName): CoreInteger {
  return { op: "variable", name };
}

function binary(op: BinaryName, left: CoreInteger, right: number): CoreInteger {
  return { op, left, right: constant(right) };
}

function compare(relation: RelationName, left: CoreInteger, right: CoreInteger): CoreMask {
  return { op: "compare", relation, left, right };
}

function all(...args: CoreMask[]): CoreMask {
  return join("and", args);
}

function any(...args: CoreMask[]): CoreMask {
  return join("or", args);
}

/** Flat and without repetitions: causal and a window both ask for kvPos ≤ qPos. */
function join(op: "and" | "or", masks: readonly CoreMask[]): CoreMask {
  const args = masks.flatMap((mask) => (mask.op === op ? mask.args : [mask]));
  return { op, args: [...new Map(args.map((arg) => [JSON.stringify(arg), arg])).values()] };
}

/** Calls `visit` with the name of every variable of the mask. */
export function forEachVariable(mask: CoreMask, visit: (name: VariableName) => void): void {
  switch (mask.op) {
    case "compare":
      forEachVariableOf(mask.left, visit);
      forEachVariableOf(mask.right, visit);
      break;
    case "and":
    case "or":
      for (const arg of mask.args) forEachVariable(arg, visit);
      break;
    case "not":
      forEachVariable(mask.arg, visit);
  }
}

/** Calls `visit` with the name of every variable of the integer. */
export function forEachVariableOf(node: CoreInteger, visit: (name: VariableName) => void): void {
  if (node.op === "constant") return;
  if (node.op === "variable") visit(node.name);
  else if (node.op === "lookup" || node.op === "constantLookup") forEachVariableOf(node.index, visit);
  else {
    forEachVariableOf(node.left, visit);
    forEachVariableOf(node.right, visit);
  }
}
