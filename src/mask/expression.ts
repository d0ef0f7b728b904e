/**
 * The mask algebra: which query may attend to which key, as immutable data. Masks are functions of positions,
 * never of slots (`lengths` and `table` excepted).
 */

import { ConfigError } from "../errors.ts";
import { describeMask } from "./describe.ts";
import { hashText } from "./hash.ts";
import { checkInteger, type Extent, extentOver, type MaskNode, POSITION_LIMIT } from "./node.ts";
import { printMask } from "./print.ts";

const LEAF: Extent = { depth: 1, nodes: 1 };
const MAX_SIZE = POSITION_LIMIT - 1;

/** A set of allowed (query, key) pairs. Made by the builders of this file, combined by its methods. */
export class Mask {
  /** The mask as plain frozen data; also what `JSON.stringify` writes. */
  readonly node: MaskNode;
  /** How large the expression is. */
  readonly extent: Extent;

  /** Use the builders; they check what they are given. */
  constructor(node: MaskNode, extent: Extent = LEAF) {
    this.node = Object.freeze(node);
    this.extent = extent;
    Object.freeze(this);
  }

  /** Pairs allowed by this mask and by all others. */
  and(...others: Mask[]): Mask {
    return and(this, ...others);
  }

  /** Pairs allowed by this mask or by any other. */
  or(...others: Mask[]): Mask {
    return or(this, ...others);
  }

  /** Pairs that this mask does not allow. Padding stays invisible all the same. */
  not(): Mask {
    return not(this);
  }

  /** The mask in words. */
  describe(): string {
    return describeMask(this.node);
  }

  /** Sixteen hexadecimal digits; equal for equal expressions, on every platform. */
  hash(): string {
    return hashText(JSON.stringify(this.node));
  }

  /** The plain data; `parseMask` reads it back. */
  toJSON(): MaskNode {
    return this.node;
  }

  /** The mask as the code that builds it. */
  toString(): string {
    return printMask(this.node);
  }
}

/** Every key. */
export function full(): Mask {
  return new Mask({ op: "full" });
}

/** Keys whose position is not after the query's: kvPos ≤ qPos. */
export function causal(): Mask {
  return new Mask({ op: "causal" });
}

/** How far a window reaches beside the query itself. */
export type WindowReach = {
  /** Positions before the query. */
  readonly left: number;
  /** Positions after the query. */
  readonly right: number;
};

/**
 * A window around the query. A number w means w visible keys, itself included: qPos − w < kvPos ≤ qPos.
 * `{ left, right }` means qPos − left ≤ kvPos ≤ qPos + right.
 *
 * @param reach - visible keys, at least 1; or the reach to both sides, each at least 0; positions
 * @throws ConfigError when a size is not such an integer
 */
export function slidingWindow(reach: number | WindowReach): Mask {
  return new Mask({ op: "window", ...checkReach("slidingWindow", reach) });
}

/**
 * A window that looks at every `step`-th position only, the query's own included. A number w means w visible keys;
 * `{ left, right }` counts visible keys before and after the query.
 *
 * @param reach - visible keys, as in `slidingWindow`, times `step` below 2^30
 * @param step - distance of visible keys, positions, at least 1
 * @throws ConfigError when a size is not such an integer
 * @see Longformer, arXiv:2004.05150, section 3.1
 */
export function dilated(reach: number | WindowReach, step: number): Mask {
  const { left, right } = checkReach("dilated", reach);
  checkInteger("dilated", "step", step, 1, MAX_SIZE);
  if (Math.max(left, right) * step > MAX_SIZE) {
    throw new ConfigError("dilated", `the reach times step must be at most ${MAX_SIZE}`, { left, right, step });
  }
  return new Mask({ op: "dilated", left, right, step });
}

/**
 * Causal inside chunks: floor(qPos / size) = floor(kvPos / size) and kvPos ≤ qPos.
 *
 * @param size - positions of a chunk, at least 1
 * @throws ConfigError when `size` is not such an integer
 * @see Llama 4's chunked attention
 */
export function chunked(size: number): Mask {
  return new Mask({ op: "chunked", size: checkInteger("chunked", "size", size, 1, MAX_SIZE) });
}

/**
 * Causal between blocks, free inside a block: floor(kvPos / size) ≤ floor(qPos / size).
 *
 * @param size - positions of a block, at least 1
 * @throws ConfigError when `size` is not such an integer
 */
export function blockCausal(size: number): Mask {
  return new Mask({ op: "blockCausal", size: checkInteger("blockCausal", "size", size, 1, MAX_SIZE) });
}

/**
 * Pairs of which at least one side is a global token. Combine with a window by `or`, with `causal()` by `and`.
 *
 * @param tokens - a count (positions 0 to count − 1 are global), or a list of global positions and `[first, last]`
 *   ranges of them, both ends included
 * @throws ConfigError when the count is negative, a position is no integer below 2^30 in magnitude, or a range is empty
 * @see Longformer, arXiv:2004.05150, section 3.1; StreamingLLM, arXiv:2309.17453
 */
export function globalTokens(tokens: number | readonly (number | readonly [number, number])[]): Mask {
  if (typeof tokens === "number") {
    const count = checkInteger("globalTokens", "count", tokens, 0, MAX_SIZE);
    return globalTokens(count === 0 ? [] : [[0, count - 1]]);
  }
  if (!Array.isArray(tokens)) throw new ConfigError("globalTokens", "a count or a list of positions", { tokens });
  const ranges = joinRanges(tokens.map(checkRange));
  const extent = extentOver("globalTokens", [], ranges.length);
  return new Mask({ op: "global", ranges: Object.freeze(ranges) as number[] }, extent);
}

/** Keys of the query's segment: segments equal and not negative. Needs segments. */
export function sameSegment(): Mask {
  return new Mask({ op: "segment" });
}

/**
 * Keys in the prefix: kvPos < length.
 *
 * @param length - one length for all, at least 0, positions; absent: `prefixLengths` of the inputs, per batch entry
 * @throws ConfigError when `length` is not such an integer
 */
export function prefix(length?: number): Mask {
  if (length === undefined) return new Mask({ op: "prefix" });
  return new Mask({ op: "prefix", length: checkInteger("prefix", "length", length, 0, MAX_SIZE) });
}

/** Causal, and the prefix is visible to all: `causal().or(prefix(length))`. */
export function prefixLm(length?: number): Mask {
  return causal().or(prefix(length));
}

/**
 * Keys of the query's span (an image, say): span ids equal and above 0, and segments equal where segments are given.
 * Needs spans.
 */
export function bidirectionalSpans(): Mask {
  return new Mask({ op: "span" });
}

/** Key slots in use: slot < lengths[batch]. Needs lengths. */
export function lengths(): Mask {
  return new Mask({ op: "length" });
}

/**
 * Drafted tokens that form trees: a draft sees itself, its ancestors, and committed keys at or before its position.
 * A committed query sees committed keys only. Needs `queryNodes` and `keyNodes`: the index of each token in
 * `parents`, −1 for committed tokens.
 *
 * @param parents - parent of each draft by index, −1 for a root
 * @throws ConfigError when an index is out of range or the parents form a cycle
 * @see SpecInfer, arXiv:2305.09781
 */
export function tree(parents: readonly number[]): Mask {
  if (!Array.isArray(parents)) throw new ConfigError("tree", "parents must be a list of indices", { parents });
  const extent = extentOver("tree", [], parents.length);
  const copy = parents.map((p, i) => checkInteger("tree", `parents[${i}]`, p, -1, parents.length - 1));
  checkAcyclic(copy);
  return new Mask({ op: "tree", parents: Object.freeze(copy) as number[] }, extent);
}

/**
 * An explicit table of the inputs: u8 [B, Tq, Tk], not 0 = allowed.
 *
 * @param name - key in `tables`
 * @throws ConfigError when the name is empty or too long
 */
export function table(name: string): Mask {
  return new Mask({ op: "table", name: checkName("table", name) });
}

/** Pairs that all masks allow; `full()` when there are none. */
export function and(...masks: Mask[]): Mask {
  return combine("and", masks);
}

/** Pairs that any mask allows. */
export function or(...masks: Mask[]): Mask {
  if (masks.length === 0) throw new ConfigError("or", "at least one mask");
  return combine("or", masks);
}

/** Pairs that `mask` does not allow. */
export function not(mask: Mask): Mask {
  checkMask("not", mask);
  if (mask.node.op === "not") {
    return new Mask(mask.node.arg, { depth: mask.extent.depth - 1, nodes: mask.extent.nodes - 1 });
  }
  return new Mask({ op: "not", arg: mask.node }, extentOver("not", [mask.extent]));
}

/** Refuses anything but a Mask. */
export function checkMask(where: string, value: unknown): asserts value is Mask {
  if (!(value instanceof Mask)) {
    throw new ConfigError(where, "a mask made by the builders", { mask: value }, "Plain JSON is read by parseMask.");
  }
}

/** Refuses anything but a short name. */
export function checkName(where: string, name: unknown): string {
  if (typeof name !== "string" || name.length === 0 || name.length > 64) {
    throw new ConfigError(where, "name must be a string of 1 to 64 characters", { name });
  }
  return name;
}

function combine(op: "and" | "or", masks: readonly Mask[]): Mask {
  for (const mask of masks) checkMask(op, mask);
  if (op === "or" && masks.some((mask) => mask.node.op === "full")) return full();
  const kept = masks.filter((mask) => mask.node.op !== "full");
  if (kept.length === 0) return full();
  if (kept.length === 1) return kept[0] as Mask;
  const args: MaskNode[] = [];
  const extents: Extent[] = [];
  for (const { node, extent } of kept) {
    // (a and b) and c is kept flat: the inner "and" itself goes
    if (node.op === op) {
      args.push(...node.args);
      extents.push({ depth: extent.depth - 1, nodes: extent.nodes - 1 });
    } else {
      args.push(node);
      extents.push(extent);
    }
  }
  return new Mask({ op, args: Object.freeze(args) as MaskNode[] }, extentOver(op, extents));
}

function checkReach(where: string, reach: number | WindowReach): WindowReach {
  if (typeof reach === "object" && reach !== null) {
    return {
      left: checkInteger(where, "left", reach.left, 0, MAX_SIZE),
      right: checkInteger(where, "right", reach.right, 0, MAX_SIZE),
    };
  }
  return { left: checkInteger(where, "size", reach, 1, MAX_SIZE) - 1, right: 0 };
}

function checkRange(token: number | readonly [number, number], index: number): readonly [number, number] {
  const name = `positions[${index}]`;
  const [first, last] = Array.isArray(token) && token.length === 2 ? token : [token, token];
  checkInteger("globalTokens", name, first, -MAX_SIZE, MAX_SIZE);
  checkInteger("globalTokens", name, last, -MAX_SIZE, MAX_SIZE);
  if (last < first) throw new ConfigError("globalTokens", "a range must not end before it starts", { [name]: token });
  return [first + 0, last + 0];
}

/** Any ranges as [first, last, first, last, ...], ascending and apart. */
function joinRanges(ranges: (readonly [number, number])[]): number[] {
  const joined: number[] = [];
  for (const [first, last] of ranges.sort((a, b) => a[0] - b[0])) {
    const end = joined.length - 1;
    if (end > 0 && first <= (joined[end] as number) + 1) joined[end] = Math.max(joined[end] as number, last);
    else joined.push(first, last);
  }
  return joined;
}

function checkAcyclic(parents: readonly number[]): void {
  const done = new Uint8Array(parents.length); // 1 = on the current path, 2 = known to end at a root
  for (let start = 0; start < parents.length; start++) {
    let node = start;
    while (node !== -1 && done[node] === 0) {
      done[node] = 1;
      node = parents[node] as number;
    }
    if (node !== -1 && done[node] === 1) {
      throw new ConfigError("tree", "parents must not form a cycle", { node, parent: parents[node] });
    }
    for (node = start; node !== -1 && done[node] === 1; node = parents[node] as number) done[node] = 2;
  }
}
