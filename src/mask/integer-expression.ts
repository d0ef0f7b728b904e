/**
 * A small language of integers for masks that have no builder of their own. Expressions are traced from objects,
 * not parsed from functions, so that every backend can evaluate them.
 */

import { ConfigError } from "../errors.ts";
import { checkMask, checkName, Mask } from "./expression.ts";
import {
  type BinaryName,
  checkInteger,
  type Extent,
  extentOver,
  type IntegerNode,
  type RelationName,
  type VariableName,
} from "./node.ts";
import { printInteger } from "./print.ts";

const INT32_MIN = -(2 ** 31);
const INT32_MAX = 2 ** 31 - 1;

/** An integer expression or a 32-bit integer. */
export type IntegerLike = IntegerExpression | number;

/**
 * An integer per (batch, head, query, key). Arithmetic is that of 32-bit integers and wraps around. Comparisons
 * make masks.
 */
export class IntegerExpression {
  /** The expression as plain frozen data. */
  readonly node: IntegerNode;
  /** How large the expression is. */
  readonly extent: Extent;

  /** Use `integer`, `lookup` and the variables; they check what they are given. */
  constructor(node: IntegerNode, extent: Extent) {
    this.node = Object.freeze(node);
    this.extent = extent;
    Object.freeze(this);
  }

  /** this + other */
  add(other: IntegerLike): IntegerExpression {
    return operate("add", this, other);
  }
  /** this − other */
  sub(other: IntegerLike): IntegerExpression {
    return operate("sub", this, other);
  }
  /** this · other */
  mul(other: IntegerLike): IntegerExpression {
    return operate("mul", this, other);
  }
  /** floor(this / divisor), for a positive constant. */
  floorDiv(divisor: number): IntegerExpression {
    return operate("floorDiv", this, checkInteger("floorDiv", "divisor", divisor, 1, INT32_MAX));
  }
  /** this − divisor·floor(this / divisor), so never negative, for a positive constant. */
  mod(divisor: number): IntegerExpression {
    return operate("mod", this, checkInteger("mod", "divisor", divisor, 1, INT32_MAX));
  }
  /** The smaller of both. */
  min(other: IntegerLike): IntegerExpression {
    return operate("min", this, other);
  }
  /** The larger of both. */
  max(other: IntegerLike): IntegerExpression {
    return operate("max", this, other);
  }

  /** this = other */
  eq(other: IntegerLike): Mask {
    return relate("eq", this, other);
  }
  /** this ≠ other */
  ne(other: IntegerLike): Mask {
    return relate("ne", this, other);
  }
  /** this < other */
  lt(other: IntegerLike): Mask {
    return relate("lt", this, other);
  }
  /** this ≤ other */
  le(other: IntegerLike): Mask {
    return relate("le", this, other);
  }
  /** this > other */
  gt(other: IntegerLike): Mask {
    return relate("gt", this, other);
  }
  /** this ≥ other */
  ge(other: IntegerLike): Mask {
    return relate("ge", this, other);
  }

  /** The plain data. */
  toJSON(): IntegerNode {
    return this.node;
  }

  /** The expression as the code that builds it. */
  toString(): string {
    return printInteger(this.node);
  }

  /** Refuses `a < b` and `a + b` on expressions, which would silently compare or join texts. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new ConfigError(
      "custom",
      "operators of the language do not work on expressions",
      {
        expression: this.toString(),
      },
      "Use the methods: a.lt(b), a.add(b).",
    );
  }
}

/**
 * A constant.
 *
 * @throws ConfigError when `value` is no 32-bit integer
 */
export function integer(value: number): IntegerExpression {
  const node = { op: "constant", value: checkInteger("integer", "value", value, INT32_MIN, INT32_MAX) } as const;
  return new IntegerExpression(node, extentOver("integer", []));
}

/** A number of the query, the key, the batch entry or the head. */
export function variable(name: VariableName): IntegerExpression {
  return new IntegerExpression({ op: "variable", name }, extentOver("variable", []));
}

/**
 * An entry of a one-dimensional table of the inputs; 0 where the index lies outside.
 *
 * @param name - key in `integerTables`
 * @param index - what the table is indexed by: a position, the head, `batch.mul(width).add(...)`
 * @throws ConfigError when the name is empty or too long, or the index no integer
 */
export function lookup(name: string, index: IntegerLike): IntegerExpression {
  const at = toInteger("lookup", index);
  const node = { op: "lookup", table: checkName("lookup", name), index: at.node } as const;
  return new IntegerExpression(node, extentOver("lookup", [at.extent]));
}

/** What a custom mask can be built from. */
export type MaskVocabulary = {
  /** Position of the query. */
  readonly qPosition: IntegerExpression;
  /** Position of the key. */
  readonly kvPosition: IntegerExpression;
  /** Segment of the query; needs `querySegments`. */
  readonly qSegment: IntegerExpression;
  /** Segment of the key; needs `keySegments`. */
  readonly kvSegment: IntegerExpression;
  /** Query head, 0 to H − 1. */
  readonly head: IntegerExpression;
  /** Batch entry, 0 to B − 1. */
  readonly batch: IntegerExpression;
  /** A constant. */
  readonly integer: (value: number) => IntegerExpression;
  /** An entry of an integer table. */
  readonly lookup: (name: string, index: IntegerLike) => IntegerExpression;
};

/**
 * A mask from comparisons of integers: `custom(({ qPosition, kvPosition }) => qPosition.sub(kvPosition).lt(8))`.
 *
 * @param build - called once; returns comparisons joined by `and`, `or`, `not`
 * @throws ConfigError when `build` returns anything else
 */
export function custom(build: (vocabulary: MaskVocabulary) => Mask): Mask {
  const mask = build({
    qPosition: variable("queryPosition"),
    kvPosition: variable("keyPosition"),
    qSegment: variable("querySegment"),
    kvSegment: variable("keySegment"),
    head: variable("head"),
    batch: variable("batch"),
    integer,
    lookup,
  });
  checkMask("custom", mask);
  return mask;
}

/** `left op right`; the divisor of floorDiv and mod must be a positive constant. */
export function operate(op: BinaryName, left: IntegerExpression, right: IntegerLike): IntegerExpression {
  const other = toInteger(op, right);
  const node = { op, left: left.node, right: other.node };
  return new IntegerExpression(node, extentOver(op, [left.extent, other.extent]));
}

/** `left relation right`. */
export function relate(relation: RelationName, left: IntegerExpression, right: IntegerLike): Mask {
  const other = toInteger(relation, right);
  const node = { op: "compare", relation, left: left.node, right: other.node } as const;
  return new Mask(node, extentOver(relation, [left.extent, other.extent]));
}

function toInteger(where: string, value: unknown): IntegerExpression {
  if (value instanceof IntegerExpression) return value;
  if (typeof value === "number") {
    return new IntegerExpression(
      { op: "constant", value: checkInteger(where, "value", value, INT32_MIN, INT32_MAX) },
      extentOver(where, []),
    );
  }
  throw new ConfigError(where, "an integer expression or an integer", { value });
}
