/**
 * One tile of a mask as packed bits, on demand: for partial tiles, and for masks that no closed form fits.
 */

import { ConfigError } from "../errors.ts";
import type { Mask } from "./expression.ts";
import { checkMaskInputs, type MaskInputs, own, requirements } from "./inputs.ts";
import { type CoreInteger, type CoreMask, forEachVariableOf, lowerMask } from "./lower.ts";
import type { RelationName, VariableName } from "./node.ts";
import { binary, compare } from "./predicate.ts";

/** Fills tiles with bits; made once, allocates nothing per tile. */
export type TileBits = {
  /** Words of 32 bits per row: ceil(keyTile / 32). */
  readonly wordsPerRow: number;
  /**
   * Writes the bits of one tile.
   *
   * @param batch - batch entry
   * @param kvHead - key-value head; its query heads are kvHead·G to kvHead·G + G − 1
   * @param rowStart - first packed row (token·G + head of the group)
   * @param rowEnd - after the last packed row
   * @param keyStart - first key slot
   * @param keyEnd - after the last key slot, at most keyTile after the first
   * @param out - u32 [rowEnd − rowStart, wordsPerRow]; bit i of word w is key keyStart + 32·w + i; unused bits are 0
   * @returns the number of allowed pairs
   */
  fill(
    batch: number,
    kvHead: number,
    rowStart: number,
    rowEnd: number,
    keyStart: number,
    keyEnd: number,
    out: Uint32Array,
  ): number;
};

/** Sizes that packed bits depend on, as in `TileOptions`. */
export type TileBitsOptions = {
  /** Largest number of keys of a tile. */
  readonly keyTile: number;
  /** G, query heads packed as rows; 1 when absent. */
  readonly group?: number | undefined;
};

/** Where the evaluation stands. `query` and `key` are flat indices into [B, Tq] and [B, Tk]. */
class Cursor {
  batch = 0;
  head = 0;
  query = 0;
  key = 0;
  keySlot = 0;
  /** First key of the tile, flat and as a slot, and the number of keys. */
  firstKey = 0;
  firstSlot = 0;
  count = 0;
}

/** A node of the mask that writes the bits of one row of a tile. */
type RowWriter = {
  readonly words: Uint32Array;
  /** Reads what depends on the tile only. */
  readonly prepare: () => void;
  /** Writes `words` for the row of the cursor; bits after the last key are undefined. */
  readonly write: () => void;
};

/**
 * Prepares a mask for packed bits.
 *
 * @param inputs - what the mask needs; read at each tile, not copied
 * @throws ConfigError, ShapeError when inputs or sizes do not fit
 */
export function createTileBits(mask: Mask, inputs: MaskInputs, options: TileBitsOptions): TileBits {
  checkMaskInputs("createTileBits", mask, inputs);
  const { keyTile, group = 1 } = options;
  for (const [name, value] of Object.entries({ keyTile, group })) {
    if (!Number.isSafeInteger(value) || value < 1 || value > 2 ** 24) {
      throw new ConfigError("createTileBits", `${name} must be an integer from 1 to 2^24`, { [name]: value });
    }
  }
  const wordsPerRow = Math.ceil(keyTile / 32);
  const { headDependent } = requirements(mask);
  const cursor = new Cursor();
  const writer = compileRow(lowerMask(mask, inputs), inputs, cursor, keyTile);

  const fill: TileBits["fill"] = (batch, kvHead, rowStart, rowEnd, keyStart, keyEnd, out) => {
    cursor.batch = batch;
    cursor.firstKey = batch * inputs.keyLength + keyStart;
    cursor.firstSlot = keyStart;
    cursor.count = keyEnd - keyStart;
    writer.prepare();
    const used = Math.ceil(cursor.count / 32);
    const tail = cursor.count % 32 === 0 ? -1 : 2 ** (cursor.count % 32) - 1;
    let allowed = 0;
    let allowedInRow = 0;
    for (let row = rowStart; row < rowEnd; row++) {
      const token = Math.floor(row / group);
      const offset = (row - rowStart) * wordsPerRow;
      if (!headDependent && row > rowStart && row % group !== 0) {
        out.copyWithin(offset, offset - wordsPerRow, offset); // another head of the same token
      } else {
        cursor.head = kvHead * group + (row % group);
        cursor.query = batch * inputs.queryLength + token;
        writer.write();
        allowedInRow = 0;
        for (let w = 0; w < wordsPerRow; w++) {
          let word = w < used ? (writer.words[w] as number) : 0;
          if (w === used - 1) word &= tail;
          out[offset + w] = word;
          allowedInRow += countBits(word);
        }
      }
      allowed += allowedInRow;
    }
    return allowed;
  };
  return Object.freeze({ wordsPerRow, fill });
}

function compileRow(mask: CoreMask, inputs: MaskInputs, cursor: Cursor, keyTile: number): RowWriter {
  const words = new Uint32Array(Math.ceil(keyTile / 32));
  switch (mask.op) {
    case "constant":
      words.fill(mask.value ? 0xffffffff : 0);
      return { words, prepare: nothing, write: nothing };
    case "compare":
      return compileCompare(mask.relation, mask.left, mask.right, inputs, cursor, keyTile);
    case "table": {
      const table = own(inputs.tables, mask.name) as Uint8Array;
      const write = (): void => {
        const start = cursor.query * inputs.keyLength + cursor.firstSlot;
        words.fill(0);
        for (let i = 0; i < cursor.count; i++) if (table[start + i] !== 0) words[i >> 5]! |= 1 << (i & 31);
      };
      return { words, prepare: nothing, write };
    }
    case "not": {
      const inner = compileRow(mask.arg, inputs, cursor, keyTile);
      const write = (): void => {
        inner.write();
        for (let w = 0; w < words.length; w++) words[w] = ~(inner.words[w] as number);
      };
      return { words, prepare: inner.prepare, write };
    }
    default: {
      const parts = mask.args.map((arg) => compileRow(arg, inputs, cursor, keyTile));
      const isAnd = mask.op === "and";
      const write = (): void => {
        words.fill(isAnd ? 0xffffffff : 0);
        for (const part of parts) {
          part.write();
          for (let w = 0; w < words.length; w++) {
            if (isAnd) words[w]! &= part.words[w] as number;
            else words[w]! |= part.words[w] as number;
          }
        }
      };
      return { words, prepare: () => parts.forEach((part) => void part.prepare()), write };
    }
  }
}

const FLIPPED: Readonly<Record<RelationName, RelationName>> = {
  eq: "eq",
  ne: "ne",
  lt: "gt",
  le: "ge",
  gt: "lt",
  ge: "le",
};

function compileCompare(
  relation: RelationName,
  left: CoreInteger,
  right: CoreInteger,
  inputs: MaskInputs,
  cursor: Cursor,
  keyTile: number,
): RowWriter {
  if (dependsOn(KEY_VARIABLES, left) && !dependsOn(KEY_VARIABLES, right)) {
    return compileCompare(FLIPPED[relation], right, left, inputs, cursor, keyTile);
  }
  const words = new Uint32Array(Math.ceil(keyTile / 32));
  const leftValue = compileInteger(left, inputs, cursor);
  const rightValue = compileInteger(right, inputs, cursor);
  if (dependsOn(KEY_VARIABLES, left) || dependsOn(ROW_VARIABLES, right)) {
    const write = (): void => {
      words.fill(0);
      for (let i = 0; i < cursor.count; i++) {
        cursor.key = cursor.firstKey + i;
        cursor.keySlot = cursor.firstSlot + i;
        if (compare(relation, leftValue(), rightValue())) words[i >> 5]! |= 1 << (i & 31);
      }
    };
    return { words, prepare: nothing, write };
  }
  const values = new Int32Array(keyTile); // the right side, the same for every row of the tile
  let ascending = true;
  const prepare = (): void => {
    ascending = true;
    for (let i = 0; i < cursor.count; i++) {
      cursor.key = cursor.firstKey + i;
      cursor.keySlot = cursor.firstSlot + i;
      values[i] = rightValue();
      if (i > 0 && (values[i] as number) < (values[i - 1] as number)) ascending = false;
    }
  };
  const write = (): void => {
    if (ascending) writeRange(relation, leftValue(), values, cursor.count, words);
    else writeCompared(relation, leftValue(), values, cursor.count, words);
  };
  return { words, prepare, write };
}

/** Bit i of `words`: scalar relation values[i]. */
function writeCompared(relation: RelationName, scalar: number, values: Int32Array, count: number, words: Uint32Array) {
  words.fill(0);
  for (let i = 0; i < count; i++) {
    if (compare(relation, scalar, values[i] as number)) words[i >> 5]! |= 1 << (i & 31);
  }
}

/** As `writeCompared`, for ascending values: all bits of a relation but `ne` lie in one run. */
function writeRange(relation: RelationName, scalar: number, values: Int32Array, count: number, words: Uint32Array) {
  const isEqual = relation === "eq" || relation === "ne";
  const isBelow = relation === "lt" || relation === "ge"; // scalar < value: the run begins after all equal values
  const start = countBelow(isBelow ? scalar + 1 : scalar, values, count);
  const end = isEqual ? countBelow(scalar + 1, values, count) : count;
  fillRun(words, start, end, relation === "ne" || relation === "gt" || relation === "ge");
}

/** How many of the first `count` ascending values are below `limit`. */
function countBelow(limit: number, values: Int32Array, count: number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((values[middle] as number) < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Sets the bits from `start` to `end` − 1 and clears the others, or the reverse. */
function fillRun(words: Uint32Array, start: number, end: number, inverted: boolean): void {
  for (let w = 0; w < words.length; w++) {
    const word = bitsBelow(end - 32 * w) & ~bitsBelow(start - 32 * w);
    words[w] = inverted ? ~word : word;
  }
}

/** The lowest `count` bits; none below 0, all from 32 on. */
function bitsBelow(count: number): number {
  if (count <= 0) return 0;
  return count >= 32 ? -1 : (1 << count) - 1;
}

function compileInteger(node: CoreInteger, inputs: MaskInputs, cursor: Cursor): () => number {
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

function compileVariable(name: VariableName, inputs: MaskInputs, cursor: Cursor): () => number {
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

const ROW_VARIABLES: ReadonlySet<VariableName> = new Set<VariableName>([
  "queryPosition",
  "querySegment",
  "querySpan",
  "queryNode",
  "head",
]);
const KEY_VARIABLES: ReadonlySet<VariableName> = new Set<VariableName>([
  "keyPosition",
  "keySegment",
  "keySpan",
  "keyNode",
  "keySlot",
]);

function dependsOn(names: ReadonlySet<VariableName>, node: CoreInteger): boolean {
  let found = false;
  forEachVariableOf(node, (name) => {
    found ||= names.has(name);
  });
  return found;
}

function countBits(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

function nothing(): void {}
