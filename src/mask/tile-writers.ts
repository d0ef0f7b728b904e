/**
 * Masks as writers of packed bits: every operation writes a whole tile, and what is alike in the whole tile is told
 * instead of written.
 */

import { type MaskInputs, own } from "./inputs.ts";
import { compareIntervals, EMPTY, FULL, opposite, PARTIAL, type Verdict } from "./interval.ts";
import type { CoreInteger, CoreMask } from "./lower.ts";
import type { RelationName } from "./node.ts";
import { compare } from "./predicate.ts";
import {
  compileInteger,
  dependsOn,
  KEY_VARIABLES,
  MAX_RUNS,
  ROW_VARIABLES,
  TileColumn,
  type TileCursor,
} from "./tile-cursor.ts";

/** A node of the mask that writes the bits of a tile. */
export abstract class Writer {
  /** [lines, wordsPerLine]; bits after the last key are undefined. Signed, because V8 boxes large unsigned numbers. */
  words: Int32Array = new Int32Array(0);
  readonly cursor: TileCursor;
  readonly wordsPerLine: number;

  constructor(cursor: TileCursor, wordsPerLine: number) {
    this.cursor = cursor;
    this.wordsPerLine = wordsPerLine;
  }

  /** Reads the tile; tells when all its bits are alike, which need not be written then. */
  abstract prepare(): Verdict;

  /** Writes `words`. Only for tiles that are partial. */
  write(): void {
    const size = this.cursor.lines * this.wordsPerLine;
    if (this.words.length < size) this.words = new Int32Array(size);
    this.writeLines();
  }

  protected abstract writeLines(): void;
}

/** What all writers of one mask are made of. */
type Place = {
  readonly inputs: MaskInputs;
  readonly cursor: TileCursor;
  readonly keyTile: number;
  /** Columns by the integer that they hold. */
  readonly columns: Map<string, TileColumn>;
};

/** A mask as a writer. */
export function compileWriter(mask: CoreMask, inputs: MaskInputs, cursor: TileCursor, keyTile: number): Writer {
  return compile(mask, { inputs, cursor, keyTile, columns: new Map() });
}

function compile(mask: CoreMask, place: Place): Writer {
  const { inputs, cursor, keyTile } = place;
  switch (mask.op) {
    case "constant":
      return new ConstantWriter(mask.value, cursor, keyTile);
    case "compare": {
      const { relation, left, right } = mask;
      return dependsOn(KEY_VARIABLES, left) && !dependsOn(KEY_VARIABLES, right)
        ? compileCompare(FLIPPED[relation], right, left, place)
        : compileCompare(relation, left, right, place);
    }
    case "table":
      return new TableWriter(own(inputs.tables, mask.name) as Uint8Array, inputs, cursor, keyTile);
    case "not":
      return new NotWriter(compile(mask.arg, place), cursor, keyTile);
    default: {
      const parts = mask.args.map((arg) => compile(arg, place));
      return new JoinWriter(mask.op === "and", parts, cursor, keyTile);
    }
  }
}

class ConstantWriter extends Writer {
  readonly #value: boolean;

  constructor(value: boolean, cursor: TileCursor, keyTile: number) {
    super(cursor, Math.ceil(keyTile / 32));
    this.#value = value;
  }

  prepare(): Verdict {
    return this.#value ? FULL : EMPTY;
  }

  protected writeLines(): void {}
}

class TableWriter extends Writer {
  readonly #table: Uint8Array;
  readonly #keyLength: number;

  constructor(table: Uint8Array, { keyLength }: MaskInputs, cursor: TileCursor, keyTile: number) {
    super(cursor, Math.ceil(keyTile / 32));
    this.#table = table;
    this.#keyLength = keyLength;
  }

  prepare(): Verdict {
    return PARTIAL;
  }

  protected writeLines(): void {
    const { cursor, words, wordsPerLine } = this;
    words.fill(0, 0, cursor.lines * wordsPerLine);
    for (let line = 0; line < cursor.lines; line++) {
      const start = (cursor.lineQueries[line] as number) * this.#keyLength + cursor.firstSlot;
      const to = line * wordsPerLine;
      for (let i = 0; i < cursor.count; i++) {
        if (this.#table[start + i] !== 0) words[to + (i >> 5)]! |= 1 << (i & 31);
      }
    }
  }
}

class NotWriter extends Writer {
  readonly #inner: Writer;

  constructor(inner: Writer, cursor: TileCursor, keyTile: number) {
    super(cursor, Math.ceil(keyTile / 32));
    this.#inner = inner;
  }

  prepare(): Verdict {
    return opposite(this.#inner.prepare());
  }

  protected writeLines(): void {
    this.#inner.write();
    const size = this.cursor.lines * this.wordsPerLine;
    for (let w = 0; w < size; w++) this.words[w] = ~(this.#inner.words[w] as number);
  }
}

class JoinWriter extends Writer {
  readonly #isAnd: boolean;
  readonly #parts: readonly Writer[];
  /** The first `#count` are partial in this tile; the others do not matter. */
  readonly #active: Writer[];
  #count = 0;

  constructor(isAnd: boolean, parts: readonly Writer[], cursor: TileCursor, keyTile: number) {
    super(cursor, Math.ceil(keyTile / 32));
    this.#isAnd = isAnd;
    this.#parts = parts;
    this.#active = [...parts];
  }

  prepare(): Verdict {
    const deciding = this.#isAnd ? EMPTY : FULL;
    this.#count = 0;
    for (const part of this.#parts) {
      const verdict = part.prepare();
      if (verdict === deciding) return deciding;
      if (verdict === PARTIAL) this.#active[this.#count++] = part;
    }
    return this.#count > 0 ? PARTIAL : opposite(deciding);
  }

  protected writeLines(): void {
    const size = this.cursor.lines * this.wordsPerLine;
    const { words } = this;
    for (let n = 0; n < this.#count; n++) {
      const part = this.#active[n] as Writer;
      part.write();
      const other = part.words;
      if (n === 0) for (let w = 0; w < size; w++) words[w] = other[w] as number;
      else if (this.#isAnd) for (let w = 0; w < size; w++) words[w]! &= other[w] as number;
      else for (let w = 0; w < size; w++) words[w]! |= other[w] as number;
    }
  }
}

const INT32_MAX = 2 ** 31 - 1;

const FLIPPED: Readonly<Record<RelationName, RelationName>> = {
  eq: "eq",
  ne: "ne",
  lt: "gt",
  le: "ge",
  gt: "lt",
  ge: "le",
};

function compileCompare(relation: RelationName, left: CoreInteger, right: CoreInteger, place: Place): Writer {
  const { inputs, cursor, keyTile } = place;
  if (dependsOn(KEY_VARIABLES, left) || dependsOn(ROW_VARIABLES, right)) {
    const [valueOfLeft, valueOfRight] = [left, right].map((side) => compileInteger(side, inputs, cursor));
    return new PairWriter(relation, valueOfLeft as () => number, valueOfRight as () => number, cursor, keyTile);
  }
  return new CompareWriter(relation, columnOf(left, false, place), columnOf(right, true, place), cursor, keyTile);
}

/** The column of an integer, the same one for equal integers. */
function columnOf(node: CoreInteger, isOfKeys: boolean, { inputs, cursor, columns }: Place): TileColumn {
  const name = `${isOfKeys ? "keys" : "lines"} ${JSON.stringify(node)}`;
  const column = columns.get(name) ?? new TileColumn(node, inputs, cursor, isOfKeys);
  columns.set(name, column);
  return column;
}

/** A comparison whose sides mix queries and keys. */
class PairWriter extends Writer {
  readonly #allows: () => boolean;

  constructor(relation: RelationName, left: () => number, right: () => number, cursor: TileCursor, keyTile: number) {
    super(cursor, Math.ceil(keyTile / 32));
    this.#allows = () => compare(relation, left(), right());
  }

  prepare(): Verdict {
    return PARTIAL;
  }

  protected writeLines(): void {
    const { cursor, words, wordsPerLine } = this;
    words.fill(0, 0, cursor.lines * wordsPerLine);
    for (let line = 0; line < cursor.lines; line++) {
      cursor.goToLine(line);
      const to = line * wordsPerLine;
      for (let i = 0; i < cursor.count; i++) {
        cursor.goToKey(i);
        if (this.#allows()) words[to + (i >> 5)]! |= 1 << (i & 31);
      }
    }
  }
}

/** A comparison of a number of the query with one of the key. */
class CompareWriter extends Writer {
  readonly #relation: RelationName;
  readonly #lefts: TileColumn;
  readonly #rights: TileColumn;

  constructor(relation: RelationName, lefts: TileColumn, rights: TileColumn, cursor: TileCursor, keyTile: number) {
    super(cursor, Math.ceil(keyTile / 32));
    this.#relation = relation;
    this.#lefts = lefts;
    this.#rights = rights;
  }

  prepare(): Verdict {
    this.#lefts.load();
    this.#rights.load();
    return compareIntervals(this.#relation, this.#lefts.range, this.#rights.range);
  }

  /** left relation right is, or is not, lo ≤ right ≤ hi. */
  protected writeLines(): void {
    const relation = this.#relation;
    const isBounded = relation === "eq" || relation === "ne";
    const shift = relation === "lt" || relation === "ge" ? 1 : 0;
    const inverted = relation === "ne" || relation === "gt" || relation === "ge";
    const { lines, count } = this.cursor;
    const { values: lefts } = this.#lefts;
    const { runs } = this.#rights;
    if (runs.length > MAX_RUNS) {
      for (let line = 0; line < lines; line++) {
        const lo = (lefts[line] as number) + shift;
        this.#writeWithin(line, lo, isBounded ? lo : INT32_MAX, inverted);
      }
      return;
    }
    this.words.fill(0, 0, lines * this.wordsPerLine);
    runs.forEach((first, n) => {
      const last = runs[n + 1] ?? count;
      let start = first; // of the keys of the run that are within the bounds
      let end = last;
      for (let line = 0; line < lines; line++) {
        const lo = (lefts[line] as number) + shift;
        start = this.#countBelow(lo, start, first, last);
        if (isBounded) end = this.#countBelow(lo + 1, end, first, last);
        if (inverted) {
          this.#setBits(line, first, start);
          this.#setBits(line, end, last);
        } else this.#setBits(line, start, end);
      }
    });
  }

  /** The first of the ascending keys `first` to `last` − 1 that is not below `limit`, searched from a guess. */
  #countBelow(limit: number, guess: number, first: number, last: number): number {
    const rights = this.#rights.values;
    let n = guess;
    while (n < last && (rights[n] as number) < limit) n++;
    while (n > first && (rights[n - 1] as number) >= limit) n--;
    return n;
  }

  /** Sets the bits from `start` to `end` − 1. */
  #setBits(line: number, start: number, end: number): void {
    if (start >= end) return;
    const to = line * this.wordsPerLine;
    for (let w = start >> 5; w <= (end - 1) >> 5; w++) {
      this.words[to + w]! |= bitsBelow(end - 32 * w) & ~bitsBelow(start - 32 * w);
    }
  }

  #writeWithin(line: number, lo: number, hi: number, inverted: boolean): void {
    const to = line * this.wordsPerLine;
    const { count } = this.cursor;
    const { values } = this.#rights;
    for (let w = 0; w < this.wordsPerLine; w++) {
      let word = 0;
      for (let i = Math.min(count, 32 * w + 32) - 1; i >= 32 * w; i--) {
        const value = values[i] as number;
        word = (word << 1) | (value >= lo && value <= hi ? 1 : 0);
      }
      this.words[to + w] = inverted ? ~word : word;
    }
  }
}

/** The lowest `count` bits; none below 0, all from 32 on. */
function bitsBelow(count: number): number {
  if (count <= 0) return 0;
  return count >= 32 ? -1 : (1 << count) - 1;
}
