/**
 * A place in a tile, and integers of a mask as functions of it.
 */

import { type MaskInputs, own } from "./inputs.ts";
import { Interval } from "./interval.ts";
import { type CoreInteger, forEachVariableOf } from "./lower.ts";
import type { VariableName } from "./node.ts";
import { binary } from "./predicate.ts";

/**
 * Where the evaluation stands. `query` and `key` are flat indices into [B, Tq] and [B, Tk]. A line is a query, or a
 * query of one head where heads differ.
 */
export class TileCursor {
  batch = 0;
  head = 0;
  query = 0;
  key = 0;
  keySlot = 0;
  /** First key of the tile, flat and as a slot, and the number of keys. */
  firstKey = 0;
  firstSlot = 0;
  count = 0;
  /** Number of lines of the tile, and query and head of each. */
  lines = 0;
  lineQueries = new Int32Array(0);
  lineHeads = new Int32Array(0);
  /** Counted up whenever the lines, or the keys, are others. */
  lineTurn = 0;
  keyTurn = 0;

  addLine(query: number, head: number): void {
    if (this.lines === this.lineQueries.length) {
      this.lineQueries = grown(this.lineQueries);
      this.lineHeads = grown(this.lineHeads);
    }
    this.lineQueries[this.lines] = query;
    this.lineHeads[this.lines++] = head;
  }

  goToLine(line: number): void {
    this.query = this.lineQueries[line] as number;
    this.head = this.lineHeads[line] as number;
  }

  goToKey(i: number): void {
    this.key = this.firstKey + i;
    this.keySlot = this.firstSlot + i;
  }
}

/** Runs of ascending values that are worth being looked at one by one. */
export const MAX_RUNS = 4;

/** An integer of every line, or of every key, of the tile: read once for all comparisons that ask for it. */
export class TileColumn {
  values: Int32Array<ArrayBuffer> = new Int32Array(64);
  /** Smallest and largest value. */
  readonly range: Interval = new Interval();
  /** Where values begin to ascend: at 0, and wherever one is smaller than the one before; MAX_RUNS + 1 at most. */
  readonly runs: number[] = [];
  readonly #cursor: TileCursor;
  readonly #isOfKeys: boolean;
  readonly #row: { values: Int32Array; shift: number } | undefined;
  readonly #constant: number | undefined;
  readonly #value: () => number;
  #turn = 0;

  constructor(node: CoreInteger, inputs: MaskInputs, cursor: TileCursor, isOfKeys: boolean) {
    this.#cursor = cursor;
    this.#isOfKeys = isOfKeys;
    this.#row = readRow(node, inputs);
    this.#constant = node.op === "constant" ? node.value : undefined;
    this.#value = compileInteger(node, inputs, cursor);
  }

  /** Reads the values, if the cursor has turned to others. */
  load(): void {
    const cursor = this.#cursor;
    const turn = this.#isOfKeys ? cursor.keyTurn : cursor.lineTurn;
    if (turn === this.#turn) return;
    this.#turn = turn;
    const count = this.#isOfKeys ? cursor.count : cursor.lines;
    const isLonger = this.values.length < count;
    if (isLonger) this.values = new Int32Array(count);
    if (this.#constant !== undefined) {
      if (isLonger || this.runs.length === 0) this.#fill(this.#constant);
      return;
    }
    if (this.#isOfKeys) this.#readKeys(count);
    else this.#readLines(count);
    this.#measure(count);
  }

  #fill(value: number): void {
    this.values.fill(value);
    this.range.set(value, value);
    this.runs[0] = 0;
  }

  #readKeys(count: number): void {
    const { values } = this;
    const cursor = this.#cursor;
    const row = this.#row;
    for (let i = 0; i < count; i++) {
      if (row !== undefined) values[i] = (row.values[cursor.firstKey + i] as number) + row.shift;
      else {
        cursor.goToKey(i);
        values[i] = this.#value();
      }
    }
  }

  #readLines(count: number): void {
    const { values } = this;
    const cursor = this.#cursor;
    const row = this.#row;
    for (let line = 0; line < count; line++) {
      if (row !== undefined) values[line] = (row.values[cursor.lineQueries[line] as number] as number) + row.shift;
      else {
        cursor.goToLine(line);
        values[line] = this.#value();
      }
    }
  }

  #measure(count: number): void {
    const { values, runs } = this;
    let last = values[0] as number;
    let lo = last;
    let hi = last;
    runs.length = 0;
    runs.push(0);
    for (let i = 1; i < count; i++) {
      const value = values[i] as number;
      if (value < last && runs.length <= MAX_RUNS) runs.push(i);
      if (value < lo) lo = value;
      if (value > hi) hi = value;
      last = value;
    }
    this.range.set(lo, hi);
  }
}

/** A row of the inputs plus a constant, if that is what the integer is. Int32Array wraps sums as the language does. */
function readRow(node: CoreInteger, inputs: MaskInputs): { values: Int32Array; shift: number } | undefined {
  if (node.op === "variable") {
    const name = ROW_OF[node.name];
    return name && { values: inputs[name] as Int32Array, shift: 0 };
  }
  if ((node.op !== "add" && node.op !== "sub") || node.right.op !== "constant") return undefined;
  const row = readRow(node.left, inputs);
  return row && { ...row, shift: row.shift + (node.op === "add" ? node.right.value : -node.right.value) };
}

/** Rows of the inputs that variables of queries and keys are read from. */
const ROW_OF: { readonly [name in VariableName]?: keyof MaskInputs } = {
  queryPosition: "queryPositions",
  querySegment: "querySegments",
  querySpan: "querySpans",
  queryNode: "queryNodes",
  keyPosition: "keyPositions",
  keySegment: "keySegments",
  keySpan: "keySpans",
  keyNode: "keyNodes",
};

/** An integer at the cursor. */
export function compileInteger(node: CoreInteger, inputs: MaskInputs, cursor: TileCursor): () => number {
  switch (node.op) {
    case "constant": {
      const { value } = node;
      return () => value;
    }
    case "variable":
      return compileVariable(node.name, inputs, cursor);
    case "lookup": {
      const values = own(inputs.integerTables, node.table) as Int32Array;
      const index = compileInteger(node.index, inputs, cursor);
      return () => values[index()] ?? 0;
    }
    case "constantLookup": {
      const { values } = node;
      const index = compileInteger(node.index, inputs, cursor);
      return () => values[index()] ?? 0;
    }
    default: {
      const { op } = node;
      const left = compileInteger(node.left, inputs, cursor);
      const right = compileInteger(node.right, inputs, cursor);
      return () => binary(op, left(), right());
    }
  }
}

function compileVariable(name: VariableName, inputs: MaskInputs, cursor: TileCursor): () => number {
  switch (name) {
    case "queryPosition":
      return () => inputs.queryPositions[cursor.query] as number;
    case "querySegment":
      return () => inputs.querySegments?.[cursor.query] as number;
    case "querySpan":
      return () => inputs.querySpans?.[cursor.query] as number;
    case "queryNode":
      return () => inputs.queryNodes?.[cursor.query] as number;
    case "keyPosition":
      return () => inputs.keyPositions[cursor.key] as number;
    case "keySegment":
      return () => inputs.keySegments?.[cursor.key] as number;
    case "keySpan":
      return () => inputs.keySpans?.[cursor.key] as number;
    case "keyNode":
      return () => inputs.keyNodes?.[cursor.key] as number;
    case "prefixLength":
      return () => inputs.prefixLengths?.[cursor.batch] as number;
    case "length":
      return () => inputs.lengths?.[cursor.batch] as number;
    case "keySlot":
    case "batch":
    case "head":
      return () => cursor[name];
  }
}

/** What belongs to a line. */
export const ROW_VARIABLES: ReadonlySet<VariableName> = new Set<VariableName>([
  "queryPosition",
  "querySegment",
  "querySpan",
  "queryNode",
  "head",
]);
/** What belongs to a key. */
export const KEY_VARIABLES: ReadonlySet<VariableName> = new Set<VariableName>([
  "keyPosition",
  "keySegment",
  "keySpan",
  "keyNode",
  "keySlot",
]);

/** Whether the integer reads one of the variables. */
export function dependsOn(names: ReadonlySet<VariableName>, node: CoreInteger): boolean {
  let found = false;
  forEachVariableOf(node, (name) => {
    found ||= names.has(name);
  });
  return found;
}

/** A longer array with the same beginning. */
function grown(values: Int32Array): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(Math.max(64, 2 * values.length));
  larger.set(values);
  return larger;
}
