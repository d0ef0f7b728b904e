/**
 * A mask as the code that builds it.
 */

import type { IntegerNode, MaskNode } from "./node.ts";

/** Code of a mask: `causal().and(slidingWindow(4096))`. */
export function printMask(node: MaskNode): string {
  switch (node.op) {
    case "full":
    case "causal":
      return `${node.op}()`;
    case "window":
      return `slidingWindow(${printReach(node.left, node.right)})`;
    case "dilated":
      return `dilated(${printReach(node.left, node.right)}, ${node.step})`;
    case "chunked":
    case "blockCausal":
      return `${node.op}(${node.size})`;
    case "global":
      return `globalTokens(${printGlobal(node.ranges)})`;
    case "segment":
      return "sameSegment()";
    case "prefix":
      return `prefix(${node.length ?? ""})`;
    case "span":
      return "bidirectionalSpans()";
    case "tree":
      return `tree([${node.parents.join(", ")}])`;
    case "length":
      return "lengths()";
    case "table":
      return `table(${JSON.stringify(node.name)})`;
    case "compare":
      return `${printInteger(node.left)}.${node.relation}(${printArgument(node.right)})`;
    case "and":
    case "or": {
      const [first, ...rest] = node.args.map(printMask);
      return `${first}.${node.op}(${rest.join(", ")})`;
    }
    case "not":
      return `${printMask(node.arg)}.not()`;
  }
}

/** Code of an integer expression: `queryPosition.sub(keyPosition)`. */
export function printInteger(node: IntegerNode): string {
  switch (node.op) {
    case "constant":
      return `integer(${node.value})`;
    case "variable":
      return node.name;
    case "lookup":
      return `lookup(${JSON.stringify(node.table)}, ${printArgument(node.index)})`;
    default:
      return `${printInteger(node.left)}.${node.op}(${printArgument(node.right)})`;
  }
}

function printArgument(node: IntegerNode): string {
  return node.op === "constant" ? String(node.value) : printInteger(node);
}

function printReach(left: number, right: number): string {
  return right === 0 ? String(left + 1) : `{ left: ${left}, right: ${right} }`;
}

function printGlobal(ranges: readonly number[]): string {
  if (ranges.length === 0) return "0";
  if (ranges.length === 2 && ranges[0] === 0) return String((ranges[1] as number) + 1);
  const parts: string[] = [];
  for (let i = 0; i < ranges.length; i += 2) {
    const [first, last] = [ranges[i], ranges[i + 1]];
    parts.push(first === last ? `${first}` : `[${first}, ${last}]`);
  }
  return `[${parts.join(", ")}]`;
}
