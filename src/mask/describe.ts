/**
 * A mask in words.
 */

import type { BinaryName, IntegerNode, MaskNode, RelationName, VariableName } from "./node.ts";

/** One sentence about what a query sees. */
export function describeMask(node: MaskNode): string {
  return `A query sees ${words(node)}.`;
}

function words(node: MaskNode): string {
  switch (node.op) {
    case "full":
      return "every key";
    case "causal":
      return "keys at or before its position";
    case "window":
      if (node.right > 0) return `keys from ${node.left} positions before it to ${node.right} after`;
      return node.left === 0
        ? "keys at its own position"
        : `keys of the ${node.left + 1} positions that end at its own`;
    case "dilated": {
      const after = node.right > 0 ? ` and up to ${node.right} after it` : "";
      return `every ${ordinal(node.step)} position, up to ${node.left} steps before its own${after}`;
    }
    case "chunked":
      return `keys at or before its position in its chunk of ${node.size}`;
    case "blockCausal":
      return `keys of its block of ${node.size} positions and of earlier blocks`;
    case "global":
      return node.ranges.length === 0
        ? "nothing (there are no global tokens)"
        : `keys at global positions (${positions(node.ranges)}), or every key if it is global`;
    case "segment":
      return "keys of its segment";
    case "prefix":
      return node.length === undefined ? "keys in the prefix" : `keys before position ${node.length}`;
    case "span":
      return "keys of its bidirectional span";
    case "tree":
      return `committed keys at or before its position, and its ancestors in a tree of ${node.parents.length} drafts`;
    case "length":
      return "key slots in use";
    case "table":
      return `what table ${JSON.stringify(node.name)} allows`;
    case "compare":
      return `keys where ${integer(node.left)} ${RELATIONS[node.relation]} ${integer(node.right)}`;
    case "and":
      return node.args.map((arg) => (arg.op === "or" ? `(${words(arg)})` : words(arg))).join(", and only ");
    case "or":
      return node.args.map((arg) => (arg.op === "and" ? `(${words(arg)})` : words(arg))).join(", or ");
    case "not":
      return `all but (${words(node.arg)})`;
  }
}

const RELATIONS: Record<RelationName, string> = { eq: "=", ne: "≠", lt: "<", le: "≤", gt: ">", ge: "≥" };
const OPERATORS: Partial<Record<BinaryName, string>> = { add: "+", sub: "−", mul: "·", mod: "mod" };
const VARIABLES: Partial<Record<VariableName, string>> = {
  queryPosition: "qPos",
  keyPosition: "kvPos",
  querySegment: "qSegment",
  keySegment: "kvSegment",
};

function integer(node: IntegerNode): string {
  switch (node.op) {
    case "constant":
      return String(node.value);
    case "variable":
      return VARIABLES[node.name] ?? node.name;
    case "lookup":
      return `${node.table}[${integer(node.index)}]`;
    case "floorDiv":
      return `floor(${integer(node.left)} / ${integer(node.right)})`;
    case "min":
    case "max":
      return `${node.op}(${integer(node.left)}, ${integer(node.right)})`;
    default:
      return `(${integer(node.left)} ${OPERATORS[node.op]} ${integer(node.right)})`;
  }
}

function positions(ranges: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < ranges.length; i += 2) {
    const [first, last] = [ranges[i], ranges[i + 1]];
    parts.push(first === last ? `${first}` : `${first} to ${last}`);
  }
  return parts.length > 8 ? `${parts.slice(0, 8).join(", ")}, …` : parts.join(", ");
}

function ordinal(n: number): string {
  const tens = n % 100;
  const suffix = tens >= 11 && tens <= 13 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th");
  return `${n}${suffix}`;
}
