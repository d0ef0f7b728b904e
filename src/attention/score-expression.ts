/**
 * A small language of real numbers for score modifiers: what a score becomes, given the score and whom it belongs
 * to. Like masks, expressions are traced from objects, not parsed from functions, so that every backend can evaluate
 * them:
 *
 *     scoreModifier(({ score, qPosition, kvPosition }) => score.sub(qPosition.sub(kvPosition).abs().mul(0.1)))
 *
 * Arithmetic is real: f64 in the reference, f32 in kernels, with the rules of IEEE 754 (1 / 0 is Infinity, log 0 is
 * −Infinity). A score may become −Infinity, which hides the key. It must not become NaN or Infinity: the reference
 * refuses that, kernels leave the result undefined.
 */

import { ConfigError } from "../errors.ts";
import { hashText } from "../mask/hash.ts";
import { Mask, type MaskNode } from "../mask/index.ts";
import { printMask } from "../mask/print.ts";

/** The score, or a number of the query, the key, the head or the batch entry it belongs to. */
export type ScoreVariable =
  | "score"
  | "queryPosition"
  | "keyPosition"
  | "querySegment"
  | "keySegment"
  | "head"
  | "batch";

/** Operations on one number. */
export type ScoreUnary = "exp" | "log" | "tanh" | "abs";

/** Operations on two numbers. */
export type ScoreBinary = "add" | "sub" | "mul" | "div" | "min" | "max";

/** A real number per (batch, head, query, key): plain frozen data, and its JSON form. */
export type ScoreNode =
  | { readonly op: "constant"; readonly value: number }
  | { readonly op: "variable"; readonly name: ScoreVariable }
  | { readonly op: "perHead"; readonly values: readonly number[] }
  | { readonly op: ScoreUnary; readonly arg: ScoreNode }
  | { readonly op: ScoreBinary; readonly left: ScoreNode; readonly right: ScoreNode }
  | { readonly op: "select"; readonly mask: MaskNode; readonly inside: ScoreNode; readonly outside: ScoreNode };

/** All variables, in the order they are listed in messages. */
export const SCORE_VARIABLES: readonly ScoreVariable[] = [
  "score",
  "queryPosition",
  "keyPosition",
  "querySegment",
  "keySegment",
  "head",
  "batch",
];

/** All operations on one number. */
export const SCORE_UNARIES: readonly ScoreUnary[] = ["exp", "log", "tanh", "abs"];

/** All operations on two numbers. */
export const SCORE_BINARIES: readonly ScoreBinary[] = ["add", "sub", "mul", "div", "min", "max"];

/** Deepest nesting of one expression. */
export const MAX_SCORE_DEPTH = 64;

/** Largest number of operations of one expression, entries of per-head tables and parts of masks included. */
export const MAX_SCORE_NODES: number = 1 << 16;

/** An expression or a finite number. */
export type ScoreLike = ScoreExpression | number;

type Size = { readonly depth: number; readonly nodes: number };

/** A real number per (batch, head, query, key), immutable. */
export class ScoreExpression {
  /** The expression as plain frozen data; also what `JSON.stringify` writes. */
  readonly node: ScoreNode;
  /** How large the expression is. */
  readonly size: Size;

  /** Use `scoreModifier`; its vocabulary checks what it is given. */
  constructor(node: ScoreNode, size: Size) {
    this.node = Object.freeze(node);
    this.size = size;
    Object.freeze(this);
  }

  /** this + other */
  add(other: ScoreLike): ScoreExpression {
    return operateScore("add", this, other);
  }
  /** this − other */
  sub(other: ScoreLike): ScoreExpression {
    return operateScore("sub", this, other);
  }
  /** this · other */
  mul(other: ScoreLike): ScoreExpression {
    return operateScore("mul", this, other);
  }
  /** this / other */
  div(other: ScoreLike): ScoreExpression {
    return operateScore("div", this, other);
  }
  /** The smaller of both. */
  min(other: ScoreLike): ScoreExpression {
    return operateScore("min", this, other);
  }
  /** The larger of both. */
  max(other: ScoreLike): ScoreExpression {
    return operateScore("max", this, other);
  }
  /** e to the power of this */
  exp(): ScoreExpression {
    return applyScore("exp", this);
  }
  /** Natural logarithm. */
  log(): ScoreExpression {
    return applyScore("log", this);
  }
  /** Hyperbolic tangent. */
  tanh(): ScoreExpression {
    return applyScore("tanh", this);
  }
  /** Magnitude. */
  abs(): ScoreExpression {
    return applyScore("abs", this);
  }

  /** Sixteen hexadecimal digits; equal for equal expressions, on every platform. */
  hash(): string {
    return hashText(JSON.stringify(this.node));
  }

  /** The plain data; `parseScore` reads it back. */
  toJSON(): ScoreNode {
    return this.node;
  }

  /** The expression as the code that builds it. */
  toString(): string {
    return print(this.node);
  }

  /** Refuses `a + b` and `a < b` on expressions, which would silently join or compare texts. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new ConfigError(
      "scoreModifier",
      "operators of the language do not work on expressions",
      { expression: this.toString() },
      "Use the methods: a.add(b), a.mul(b).",
    );
  }
}

/** What a score modifier can be built from. */
export type ScoreVocabulary = {
  /** The scaled and capped score. */
  readonly score: ScoreExpression;
  /** Position of the query. */
  readonly qPosition: ScoreExpression;
  /** Position of the key. */
  readonly kvPosition: ScoreExpression;
  /** Segment of the query; needs `querySegments`. */
  readonly qSegment: ScoreExpression;
  /** Segment of the key; needs `keySegments`. */
  readonly kvSegment: ScoreExpression;
  /** Query head, 0 to H − 1. */
  readonly head: ScoreExpression;
  /** Batch entry, 0 to B − 1. */
  readonly batch: ScoreExpression;
  /** A constant. */
  readonly real: (value: number) => ScoreExpression;
  /** [H] one number per query head. */
  readonly perHead: (values: ArrayLike<number>) => ScoreExpression;
  /** `inside` where the mask allows the pair, `outside` elsewhere. */
  readonly select: (mask: Mask, inside: ScoreLike, outside: ScoreLike) => ScoreExpression;
};

/**
 * A score modifier: what the scaled and capped score becomes, before ALiBi and bias.
 *
 * @param build - called once; returns the new score
 * @throws ConfigError when `build` returns anything but an expression or a finite number
 */
export function scoreModifier(build: (vocabulary: ScoreVocabulary) => ScoreLike): ScoreExpression {
  const built = build({
    score: scoreVariable("score"),
    qPosition: scoreVariable("queryPosition"),
    kvPosition: scoreVariable("keyPosition"),
    qSegment: scoreVariable("querySegment"),
    kvSegment: scoreVariable("keySegment"),
    head: scoreVariable("head"),
    batch: scoreVariable("batch"),
    real: (value) => toScore("real", value),
    perHead,
    select: selectScore,
  });
  return toScore("scoreModifier", built);
}

/** The score or one of the numbers it belongs to. */
export function scoreVariable(name: ScoreVariable): ScoreExpression {
  return new ScoreExpression({ op: "variable", name }, sizeOver("scoreModifier", [], 0));
}

/** A table of one finite number per query head. */
export function perHead(values: ArrayLike<number>): ScoreExpression {
  const list = Array.from(values as ArrayLike<unknown>, (value) => checkReal("perHead", value));
  if (list.length === 0) throw new ConfigError("perHead", "one number per query head", { values: list });
  return new ScoreExpression(
    { op: "perHead", values: Object.freeze(list) as number[] },
    sizeOver("perHead", [], list.length),
  );
}

/** `inside` where the mask allows the pair, `outside` elsewhere. */
export function selectScore(mask: Mask, inside: ScoreLike, outside: ScoreLike): ScoreExpression {
  if (!(mask instanceof Mask)) throw new ConfigError("select", "a mask to select by", { mask });
  const parts = [toScore("select", inside), toScore("select", outside)] as const;
  return new ScoreExpression(
    { op: "select", mask: mask.node, inside: parts[0].node, outside: parts[1].node },
    sizeOver("select", parts, mask.extent.nodes),
  );
}

/** `op arg`. */
export function applyScore(op: ScoreUnary, arg: ScoreExpression): ScoreExpression {
  return new ScoreExpression({ op, arg: arg.node }, sizeOver(op, [arg], 0));
}

/** `left op right`. */
export function operateScore(op: ScoreBinary, left: ScoreExpression, right: ScoreLike): ScoreExpression {
  const other = toScore(op, right);
  return new ScoreExpression({ op, left: left.node, right: other.node }, sizeOver(op, [left, other], 0));
}

/** An expression as it is, a finite number as a constant. */
export function toScore(where: string, value: unknown): ScoreExpression {
  if (value instanceof ScoreExpression) return value;
  return new ScoreExpression({ op: "constant", value: checkReal(where, value) }, sizeOver(where, [], 0));
}

function checkReal(where: string, value: unknown): number {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    const hint = value instanceof Mask ? "Use select(mask, inside, outside)." : "";
    throw new ConfigError(where, "a score expression or a finite number", { value }, hint);
  }
  return value + 0; // −0 becomes 0
}

function sizeOver(where: string, parts: readonly ScoreExpression[], entries: number): Size {
  const depth = 1 + Math.max(0, ...parts.map(({ size }) => size.depth));
  const nodes = parts.reduce((sum, { size }) => sum + size.nodes, 1 + entries);
  if (depth > MAX_SCORE_DEPTH) {
    throw new ConfigError(where, `a score expression may nest at most ${MAX_SCORE_DEPTH} deep`, { depth });
  }
  if (nodes > MAX_SCORE_NODES) {
    throw new ConfigError(where, `a score expression may have at most ${MAX_SCORE_NODES} parts`, { parts: nodes });
  }
  return { depth, nodes };
}

function print(node: ScoreNode): string {
  switch (node.op) {
    case "constant":
      return `real(${node.value})`;
    case "variable":
      return NAMES[node.name] ?? node.name;
    case "perHead":
      return `perHead([${node.values.join(", ")}])`;
    case "select":
      return `select(${printMask(node.mask)}, ${printArgument(node.inside)}, ${printArgument(node.outside)})`;
    case "exp":
    case "log":
    case "tanh":
    case "abs":
      return `${print(node.arg)}.${node.op}()`;
    default:
      return `${print(node.left)}.${node.op}(${printArgument(node.right)})`;
  }
}

function printArgument(node: ScoreNode): string {
  return node.op === "constant" ? String(node.value) : print(node);
}

const NAMES: Partial<Record<ScoreVariable, string>> = {
  queryPosition: "qPosition",
  keyPosition: "kvPosition",
  querySegment: "qSegment",
  keySegment: "kvSegment",
};
