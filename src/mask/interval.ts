/**
 * Interval analysis: what a mask says about a whole box of pairs when of each variable only the smallest and the
 * largest value are known. Variables are taken as independent, so EMPTY and FULL are certain and PARTIAL means
 * "both, or not known".
 */

import { type MaskInputs, own } from "./inputs.ts";
import type { CoreInteger, CoreMask } from "./lower.ts";
import { MinMaxTree } from "./min-max-tree.ts";
import { type BinaryName, type RelationName, VARIABLE_NAMES, type VariableName } from "./node.ts";

/** What is known about a box of pairs. */
export type Verdict = 0 | 1 | 2;
/** No pair is allowed. */
export const EMPTY: Verdict = 0;
/** Every pair is allowed. */
export const FULL: Verdict = 1;
/** Some pairs may be allowed and some may not. */
export const PARTIAL: Verdict = 2;

/** All integers from lo to hi. */
export class Interval {
  lo = 0;
  hi = 0;

  /** Sets both ends. */
  set(lo: number, hi: number): void {
    this.lo = lo;
    this.hi = hi;
  }
}

/** A box of pairs; the planner sets it, the verdict reads it. */
export class Box {
  /** Values of the variables in the box. */
  readonly variables: Readonly<Record<VariableName, Interval>>;
  batch = 0;
  /** Query rows [queryStart, queryEnd). */
  queryStart = 0;
  queryEnd = 0;
  /** Key slots [keyStart, keyEnd). */
  keyStart = 0;
  keyEnd = 0;
  /** Whether the box is a single tile, small enough to read tables. */
  isTile = false;

  constructor() {
    const entries = VARIABLE_NAMES.map((name) => [name, new Interval()]);
    this.variables = Object.fromEntries(entries) as Record<VariableName, Interval>;
  }
}

/**
 * Compiles the verdict on `box`.
 *
 * @param mask - lowered
 * @param inputs - tables are read from here, rows are not
 * @returns a function of the present state of `box`
 */
export function compileVerdict(mask: CoreMask, inputs: MaskInputs, box: Box): () => Verdict {
  switch (mask.op) {
    case "constant": {
      const verdict = mask.value ? FULL : EMPTY;
      return () => verdict;
    }
    case "compare": {
      const left = compileInterval(mask.left, inputs, box);
      const right = compileInterval(mask.right, inputs, box);
      switch (mask.relation) {
        case "eq":
          return equal(left, right);
        case "ne":
          return negate(equal(left, right));
        case "lt":
          return less(left, right);
        case "le":
          return negate(less(right, left));
        case "gt":
          return less(right, left);
        case "ge":
          return negate(less(left, right));
      }
      break;
    }
    case "table": {
      const table = own(inputs.tables, mask.name) as Uint8Array;
      return () => (box.isTile ? scanTable(table, inputs, box) : PARTIAL);
    }
    case "and":
      return every(mask.args.map((arg) => compileVerdict(arg, inputs, box)));
    case "or": // a or b = not (not a and not b)
      return negate(every(mask.args.map((arg) => negate(compileVerdict(arg, inputs, box)))));
    case "not":
      return negate(compileVerdict(mask.arg, inputs, box));
  }
}

/** An interval and how to bring it up to date. */
type Computed = { readonly value: Interval; readonly update: () => void };

const nothing = (): void => {};

function compileInterval(node: CoreInteger, inputs: MaskInputs, box: Box): Computed {
  const value = new Interval();
  switch (node.op) {
    case "constant":
      value.set(node.value, node.value);
      return { value, update: nothing };
    case "variable":
      return { value: box.variables[node.name], update: nothing };
    case "lookup":
      return lookupIn(own(inputs.integerTables, node.table) as Int32Array, compileInterval(node.index, inputs, box));
    case "constantLookup":
      return lookupIn(node.values, compileInterval(node.index, inputs, box));
    default: {
      const left = compileInterval(node.left, inputs, box);
      const right = compileInterval(node.right, inputs, box);
      const operate = OPERATIONS[node.op];
      const update = (): void => {
        left.update();
        right.update();
        operate(left.value, right.value, value);
      };
      return { value, update };
    }
  }
}

function lookupIn(table: Int32Array, index: Computed): Computed {
  const value = new Interval();
  const tree = new MinMaxTree(table, 1);
  const update = (): void => {
    index.update();
    const { lo, hi } = index.value;
    const first = Math.max(lo, 0);
    const last = Math.min(hi, table.length - 1);
    if (first === lo && last === hi) value.set(Infinity, -Infinity);
    else value.set(0, 0); // an index outside reads 0
    tree.widen(first, last, value);
  };
  return { value, update };
}

const OPERATIONS: Readonly<Record<BinaryName, (a: Interval, b: Interval, out: Interval) => void>> = {
  add: (a, b, out) => setWrapped(out, a.lo + b.lo, a.hi + b.hi),
  sub: (a, b, out) => setWrapped(out, a.lo - b.hi, a.hi - b.lo),
  mul: (a, b, out) => {
    const [ll, lh, hl, hh] = [a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi];
    setWrapped(out, Math.min(ll, lh, hl, hh), Math.max(ll, lh, hl, hh));
  },
  floorDiv: (a, b, out) => out.set(Math.floor(a.lo / b.lo), Math.floor(a.hi / b.lo)),
  mod: (a, b, out) => {
    const divisor = b.lo;
    const turn = Math.floor(a.lo / divisor);
    if (turn === Math.floor(a.hi / divisor)) out.set(a.lo - divisor * turn, a.hi - divisor * turn);
    else out.set(0, divisor - 1);
  },
  min: (a, b, out) => out.set(Math.min(a.lo, b.lo), Math.min(a.hi, b.hi)),
  max: (a, b, out) => out.set(Math.max(a.lo, b.lo), Math.max(a.hi, b.hi)),
};

/** Sets the interval; where a value may wrap around, to all 32-bit integers. */
function setWrapped(out: Interval, lo: number, hi: number): void {
  if (lo < -(2 ** 31) || hi > 2 ** 31 - 1) out.set(-(2 ** 31), 2 ** 31 - 1);
  else out.set(lo, hi);
}

/** What `a relation b` is for all a and b of two intervals that are not empty. */
export function compareIntervals(relation: RelationName, a: Interval, b: Interval): Verdict {
  switch (relation) {
    case "eq":
      return compareEqual(a, b);
    case "ne":
      return opposite(compareEqual(a, b));
    case "lt":
      return compareLess(a, b);
    case "le":
      return opposite(compareLess(b, a));
    case "gt":
      return compareLess(b, a);
    case "ge":
      return opposite(compareLess(a, b));
  }
}

function compareEqual(a: Interval, b: Interval): Verdict {
  if (a.hi < b.lo || b.hi < a.lo) return EMPTY;
  return a.lo === b.hi && a.hi === b.lo ? FULL : PARTIAL;
}

function compareLess(a: Interval, b: Interval): Verdict {
  if (a.lo >= b.hi) return EMPTY;
  return a.hi < b.lo ? FULL : PARTIAL;
}

/** The verdict on the pairs that are left out. */
export function opposite(verdict: Verdict): Verdict {
  return verdict === PARTIAL ? PARTIAL : verdict === FULL ? EMPTY : FULL;
}

function equal(left: Computed, right: Computed): () => Verdict {
  return () => {
    left.update();
    right.update();
    return compareEqual(left.value, right.value);
  };
}

function less(left: Computed, right: Computed): () => Verdict {
  return () => {
    left.update();
    right.update();
    return compareLess(left.value, right.value);
  };
}

function negate(verdict: () => Verdict): () => Verdict {
  return () => opposite(verdict());
}

function every(verdicts: readonly (() => Verdict)[]): () => Verdict {
  return () => {
    let result = FULL;
    for (let i = 0; i < verdicts.length; i++) {
      const verdict = (verdicts[i] as () => Verdict)();
      if (verdict === EMPTY) return EMPTY;
      if (verdict === PARTIAL) result = PARTIAL;
    }
    return result;
  };
}

function scanTable(table: Uint8Array, inputs: MaskInputs, box: Box): Verdict {
  const first = table[rowStart(inputs, box, box.queryStart) + box.keyStart] !== 0;
  for (let query = box.queryStart; query < box.queryEnd; query++) {
    const row = rowStart(inputs, box, query);
    for (let i = row + box.keyStart; i < row + box.keyEnd; i++) {
      if ((table[i] !== 0) !== first) return PARTIAL;
    }
  }
  return first ? FULL : EMPTY;
}

function rowStart(inputs: MaskInputs, box: Box, query: number): number {
  return (box.batch * inputs.queryLength + query) * inputs.keyLength;
}
