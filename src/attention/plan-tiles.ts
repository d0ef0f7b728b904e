/**
 * The tiles of a plan with the bits of those that are partial. Tiles that turn out to be empty are dropped, those
 * that turn out to be full lose their bits, and equal tiles share theirs: the diagonal of a causal mask is stored once.
 */

import { BudgetError } from "../errors.ts";
import { createTileBits, type Mask, type MaskInputs, type TilePlan } from "../mask/index.ts";
import type { Selection } from "./selection.ts";
import { createSelectionTiles } from "./selection-tiles.ts";

/**
 * Bits of partial tiles. A tile is stored as blocks of 8 rows, and a block as one byte per key, so that a kernel
 * with 8 rows side by side reads one byte for each key:
 *
 *     byte offset + block·keyTile + key, bit r   ⇔   row 8·block + r of the tile may see the key
 *
 * with bit 0 the lowest. Bits of rows and keys that do not exist are 0.
 */
export type PlanBits = {
  /** Blocks of 8 rows in a tile: ceil(rowTile / 8). */
  readonly rowBlocks: number;
  /** Bytes of a tile: rowBlocks·keyTile. */
  readonly bytesPerTile: number;
  /** i32 [B·planes·rowTiles]: entry e of row tile i, e ≥ firstPartial[i], has offsets[first[i] + e − firstPartial[i]]. */
  readonly first: Int32Array;
  /** u32 [partial entries], offset of each in `data`, in bytes. */
  readonly offsets: Uint32Array;
  /** u8, the different tiles one after the other. */
  readonly data: Uint8Array;
};

/** Tiles, their bits, and how many pairs they hold. */
export type PackedTiles = {
  readonly tiles: TilePlan;
  readonly bits: PlanBits;
  /** Visible pairs of all planes. */
  readonly visiblePairs: number;
};

/** What narrows and bounds the tiles. */
export type PackOptions = {
  /** Hk. */
  readonly kvHeads: number;
  readonly selection: Selection | undefined;
  /** Most bytes of bits. */
  readonly maxBytes: number;
};

/**
 * Looks into every partial tile, and with a selection into every tile.
 *
 * @param source - tiles of the mask
 * @throws BudgetError when the bits would be larger than maxBytes
 */
export function packTiles(source: TilePlan, mask: Mask, inputs: MaskInputs, options: PackOptions): PackedTiles {
  const { rowTile, keyTile, group, queryLength, keyLength, rowTiles } = source;
  const { selection, kvHeads, maxBytes } = options;
  const planes = selection?.kind === "blocks" ? kvHeads : source.planes;
  const maskBits = createTileBits(mask, inputs, { keyTile, group });
  const words = maskBits.wordsPerRow;
  const selectionTiles = selection && createSelectionTiles(selection, group, words);
  const patterns = new PatternStore(rowTile, keyTile, words, maxBytes);
  const tile = new Uint32Array(rowTile * words);
  const selected = new Uint32Array(rowTile * words);
  const signed = new Int32Array(tile.buffer); // the same bits; V8 boxes large unsigned numbers

  const rowCount = source.batch * planes * rowTiles;
  const rowPointers = new Int32Array(rowCount + 1);
  const firstPartial = new Int32Array(rowCount);
  const firstOffset = new Int32Array(rowCount);
  const columns = new Columns(source.columns.length * (planes / source.planes));
  const offsets = new Columns(64);
  const partial = new Columns(64);
  let visiblePairs = 0;

  /** Files one key tile of the present row tile by what is visible in it. */
  const file = (b: number, plane: number, start: number, end: number, column: number, isFull: boolean): void => {
    const keyStart = column * keyTile;
    const keyEnd = Math.min(keyStart + keyTile, keyLength);
    const area = (end - start) * (keyEnd - keyStart);
    let count = area;
    if (!isFull) {
      tile.fill(0);
      count = maskBits.fill(b, plane, start, end, keyStart, keyEnd, tile);
    }
    if (selectionTiles !== undefined && count > 0) {
      const chosen = selectionTiles.fill(keyStart, keyEnd, selected);
      if (count === area) {
        tile.set(selected);
        count = chosen;
      } else if (chosen !== area) {
        count = intersect(tile, selected);
      }
    }
    visiblePairs += count;
    if (count === area) columns.push(column);
    else if (count > 0) {
      partial.push(column);
      offsets.push(patterns.offsetOf(signed));
    }
  };

  let row = 0;
  for (let b = 0; b < source.batch; b++) {
    for (let plane = 0; plane < planes; plane++) {
      for (let t = 0; t < rowTiles; t++, row++) {
        const from = (b * source.planes + (source.planes === 1 ? 0 : plane)) * rowTiles + t;
        const [full, mixed, stop] = [source.rowPointers[from], source.firstPartial[from], source.rowPointers[from + 1]];
        const start = t * rowTile;
        const end = Math.min(start + rowTile, queryLength * group);
        const begin = columns.length;
        firstOffset[row] = offsets.length;
        partial.length = 0;
        if (selectionTiles === undefined) {
          columns.append(source.columns.subarray(full, mixed));
          visiblePairs += (end - start) * countKeys(source, full, mixed);
          for (let e = mixed; e < stop; e++) file(b, plane, start, end, source.columns[e], false);
          if (columns.length - begin > mixed - full) columns.sortFrom(begin); // a partial tile was full
        } else {
          selectionTiles.loadRows(b, plane, start, end);
          let [f, m] = [full, mixed];
          while (f < mixed || m < stop) {
            const isFull = m === stop || (f < mixed && source.columns[f] < source.columns[m]);
            file(b, plane, start, end, source.columns[isFull ? f++ : m++], isFull);
          }
        }
        firstPartial[row] = columns.length;
        columns.append(partial.view());
        rowPointers[row + 1] = columns.length;
      }
    }
  }
  return {
    tiles: Object.freeze({ ...source, planes, rowPointers, firstPartial, columns: Int32Array.from(columns.view()) }),
    bits: Object.freeze({
      rowBlocks: patterns.rowBlocks,
      bytesPerTile: patterns.rowBlocks * keyTile,
      first: firstOffset,
      offsets: Uint32Array.from(offsets.view()),
      data: patterns.toArray(),
    }),
    visiblePairs,
  };
}

/** Keys of the ascending entries `from` to `to` − 1. */
export function countKeys({ columns, keyTile, keyTiles, keyLength }: TilePlan, from: number, to: number): number {
  if (to === from) return 0;
  const cut = columns[to - 1] === keyTiles - 1 ? keyTiles * keyTile - keyLength : 0;
  return (to - from) * keyTile - cut;
}

/** a &= b; the number of bits left. */
function intersect(a: Uint32Array, b: Uint32Array): number {
  let count = 0;
  for (let w = 0; w < a.length; w++) {
    a[w] &= b[w];
    for (let word = a[w]; word !== 0; word = (word & (word - 1)) >>> 0) count++;
  }
  return count;
}

/** The different tiles. */
class PatternStore {
  readonly rowBlocks: number;
  readonly #keyTile: number;
  readonly #words: number;
  readonly #maxBytes: number;
  readonly #byHash = new Map<number, number[]>();
  readonly #tiles: Int32Array[] = [];

  constructor(rowTile: number, keyTile: number, words: number, maxBytes: number) {
    this.rowBlocks = Math.ceil(rowTile / 8);
    this.#keyTile = keyTile;
    this.#words = words;
    this.#maxBytes = maxBytes;
  }

  /** Where a tile [rows, words] will be stored, in bytes. */
  offsetOf(tile: Int32Array): number {
    const bytesPerTile = this.rowBlocks * this.#keyTile;
    let hash = 0;
    for (let w = 0; w < tile.length; w++) hash = Math.imul(hash ^ tile[w], 0x01000193) ^ (hash >>> 15);
    const same = this.#byHash.get(hash) ?? [];
    for (const index of same) if (isEqual(this.#tiles[index], tile)) return index * bytesPerTile;
    const bytes = (this.#tiles.length + 1) * bytesPerTile;
    if (bytes > this.#maxBytes) {
      throw new BudgetError(
        "planAttention",
        `the bits of partial tiles must fit ${this.#maxBytes} bytes`,
        { bytes },
        "Use a mask with fewer irregular tiles, or raise maxBytes.",
      );
    }
    this.#byHash.set(hash, [...same, this.#tiles.length]);
    this.#tiles.push(tile.slice());
    return bytes - bytesPerTile;
  }

  /** All tiles as blocks of 8 rows, one byte per key. */
  toArray(): Uint8Array {
    const keyTile = this.#keyTile;
    const words = this.#words;
    const data = new Uint8Array(this.#tiles.length * this.rowBlocks * keyTile);
    let at = 0;
    for (const tile of this.#tiles) {
      for (let row = 0; row < this.rowBlocks * 8; row += 8, at += keyTile) {
        for (let r = 0; r < 8 && (row + r) * words < tile.length; r++) {
          for (let w = 0; w < words; w++) {
            // every bit that is set, the highest first
            for (let word = tile[(row + r) * words + w]; word !== 0; ) {
              const bit = 31 - Math.clz32(word);
              data[at + 32 * w + bit] |= 1 << r;
              word ^= 1 << bit;
            }
          }
        }
      }
    }
    return data;
  }
}

function isEqual(a: Int32Array, b: Int32Array): boolean {
  for (let w = 0; w < a.length; w++) if (a[w] !== b[w]) return false;
  return true;
}

/** Integers that grow. */
class Columns {
  length = 0;
  #data: Uint32Array;

  constructor(room: number) {
    this.#data = new Uint32Array(room);
  }

  push(value: number): void {
    this.#reserve(1);
    this.#data[this.length++] = value;
  }

  append(values: ArrayLike<number>): void {
    this.#reserve(values.length);
    this.#data.set(values, this.length);
    this.length += values.length;
  }

  sortFrom(start: number): void {
    this.#data.subarray(start, this.length).sort();
  }

  view(): Uint32Array {
    return this.#data.subarray(0, this.length);
  }

  #reserve(count: number): void {
    if (this.length + count <= this.#data.length) return;
    const grown = new Uint32Array(Math.max(this.length + count, 2 * this.#data.length));
    grown.set(this.#data);
    this.#data = grown;
  }
}
