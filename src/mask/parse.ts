/**
 * Masks from JSON. The text is not trusted: everything is rebuilt through the builders, nesting and size are
 * bounded, and unknown operations and keys are refused.
 */

import { ConfigError } from "../errors.ts";
import {
  and,
  bidirectionalSpans,
  blockCausal,
  causal,
  chunked,
  dilated,
  full,
  globalTokens,
  lengths,
  type Mask,
  not,
  or,
  prefix,
  sameSegment,
  slidingWindow,
  table,
  tree,
} from "./expression.ts";
import { type IntegerExpression, integer, lookup, operate, relate, variable } from "./integer-expression.ts";
import {
  BINARY_NAMES,
  type BinaryName,
  MAX_DEPTH,
  MAX_NODES,
  RELATION_NAMES,
  type RelationName,
  VARIABLE_NAMES,
  type VariableName,
} from "./node.ts";

const WHERE = "parseMask";

/** Keys that each operation has beside `op`. */
const KEYS: Readonly<Record<string, readonly string[]>> = {
  full: [],
  causal: [],
  window: ["left", "right"],
  chunked: ["size"],
  blockCausal: ["size"],
  dilated: ["left", "right", "step"],
  global: ["ranges"],
  segment: [],
  prefix: ["length"],
  span: [],
  tree: ["parents"],
  length: [],
  table: ["name"],
  compare: ["relation", "left", "right"],
  and: ["args"],
  or: ["args"],
  not: ["arg"],
};

/** Counts what is still allowed while a value is read. */
type Allowance = { nodes: number };

/**
 * Reads a mask from its JSON form.
 *
 * @param json - what `mask.toJSON()` gives, or its text
 * @returns the same mask, with the same hash
 * @throws ConfigError when the value is malformed, too deep, too large, or has an unknown operation
 */
export function parseMask(json: unknown): Mask {
  return readMask(typeof json === "string" ? parseText(json) : json, 1, { nodes: MAX_NODES });
}

function parseText(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ConfigError(WHERE, "text must be JSON", { text });
  }
}

function readMask(json: unknown, depth: number, allowance: Allowance): Mask {
  const node = readObject(json, depth, allowance);
  const op = node.op;
  if (typeof op !== "string" || !Object.hasOwn(KEYS, op)) {
    throw new ConfigError(WHERE, `op must be one of ${Object.keys(KEYS).join(", ")}`, { op });
  }
  checkKeys(node, op, KEYS[op] as readonly string[]);
  switch (op) {
    case "full":
      return full();
    case "causal":
      return causal();
    case "window":
      return slidingWindow(readReach(node));
    case "chunked":
      return chunked(node.size as number);
    case "blockCausal":
      return blockCausal(node.size as number);
    case "dilated":
      return dilated(readReach(node), node.step as number);
    case "global":
      return globalTokens(readPairs(readCounted(node, "ranges", allowance)));
    case "segment":
      return sameSegment();
    case "prefix":
      return prefix(node.length as number | undefined);
    case "span":
      return bidirectionalSpans();
    case "tree":
      return tree(readCounted(node, "parents", allowance) as number[]);
    case "length":
      return lengths();
    case "table":
      return table(node.name as string);
    case "compare":
      return relate(
        readName(node, "relation", RELATION_NAMES) as RelationName,
        readInteger(node.left, depth + 1, allowance),
        readInteger(node.right, depth + 1, allowance),
      );
    case "not":
      return not(readMask(node.arg, depth + 1, allowance));
    default: {
      const args = readList(node, "args").map((arg) => readMask(arg, depth + 1, allowance));
      return op === "and" ? and(...args) : or(...args);
    }
  }
}

function readInteger(json: unknown, depth: number, allowance: Allowance): IntegerExpression {
  const node = readObject(json, depth, allowance);
  switch (node.op) {
    case "constant":
      checkKeys(node, "constant", ["value"]);
      return integer(node.value as number);
    case "variable":
      checkKeys(node, "variable", ["name"]);
      return variable(readName(node, "name", VARIABLE_NAMES) as VariableName);
    case "lookup":
      checkKeys(node, "lookup", ["table", "index"]);
      return lookup(node.table as string, readInteger(node.index, depth + 1, allowance));
  }
  const op = readName(node, "op", [...BINARY_NAMES, "constant", "variable", "lookup"]) as BinaryName;
  checkKeys(node, op, ["left", "right"]);
  const left = readInteger(node.left, depth + 1, allowance);
  const right = readInteger(node.right, depth + 1, allowance);
  if (op !== "floorDiv" && op !== "mod") return operate(op, left, right);
  if (right.node.op !== "constant") {
    throw new ConfigError(WHERE, `the divisor of ${op} must be a constant`, { op: right.node.op });
  }
  return op === "mod" ? left.mod(right.node.value) : left.floorDiv(right.node.value);
}

function readObject(json: unknown, depth: number, allowance: Allowance): Readonly<Record<string, unknown>> {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new ConfigError(WHERE, "every node must be an object with an op", { node: json });
  }
  if (depth > MAX_DEPTH) throw new ConfigError(WHERE, `a mask may nest at most ${MAX_DEPTH} deep`, { depth });
  take(allowance, 1);
  return json as Record<string, unknown>;
}

function readList(node: Readonly<Record<string, unknown>>, key: string): unknown[] {
  const list = node[key];
  if (!Array.isArray(list)) throw new ConfigError(WHERE, `${key} must be a list`, { [key]: list });
  return list;
}

/** A list of numbers; every entry counts as a part. */
function readCounted(node: Readonly<Record<string, unknown>>, key: string, allowance: Allowance): unknown[] {
  const list = readList(node, key);
  take(allowance, list.length);
  return list;
}

function readReach(node: Readonly<Record<string, unknown>>): { left: number; right: number } {
  return { left: node.left as number, right: node.right as number };
}

function readPairs(list: unknown[]): [number, number][] {
  if (list.length % 2 !== 0) throw new ConfigError(WHERE, "ranges must have an even length", { length: list.length });
  const pairs: [number, number][] = [];
  for (let i = 0; i < list.length; i += 2) pairs.push([list[i] as number, list[i + 1] as number]);
  return pairs;
}

function readName(node: Readonly<Record<string, unknown>>, key: string, names: readonly string[]): string {
  const name = node[key];
  if (typeof name !== "string" || !names.includes(name)) {
    throw new ConfigError(WHERE, `${key} must be one of ${names.join(", ")}`, { [key]: name });
  }
  return name;
}

function checkKeys(node: Readonly<Record<string, unknown>>, op: string, allowed: readonly string[]): void {
  for (const key of Object.keys(node)) {
    if (key !== "op" && !allowed.includes(key)) throw new ConfigError(WHERE, `${op} has no such key`, { key });
  }
}

function take(allowance: Allowance, count: number): void {
  allowance.nodes -= count;
  if (allowance.nodes < 0) throw new ConfigError(WHERE, `a mask may have at most ${MAX_NODES} parts`);
}
