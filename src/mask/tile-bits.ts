/**
 * One tile of a mask as packed bits, on demand: for partial tiles, and for masks that no closed form fits.
 */

import { ConfigError } from "../errors.ts";
import type { Mask } from "./expression.ts";
import { checkMaskInputs, type MaskInputs, requirements } from "./inputs.ts";
import { EMPTY, PARTIAL } from "./interval.ts";
import { lowerMask } from "./lower.ts";
import { TileCursor } from "./tile-cursor.ts";
import { compileWriter } from "./tile-writers.ts";

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

/**
 * Prepares a mask for packed bits.
 *
 * @param inputs - what the mask needs; not copied, must not change
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
  const cursor = new TileCursor();
  const writer = compileWriter(lowerMask(mask, inputs), inputs, cursor, keyTile);

  const rowsPerLine = headDependent ? 1 : group; // heads of a token, if they see the same
  const turnTo = createTurn(cursor, inputs, rowsPerLine, group);

  const fill: TileBits["fill"] = (batch, kvHead, rowStart, rowEnd, keyStart, keyEnd, out) => {
    turnTo(batch, kvHead, rowStart, rowEnd, keyStart, keyEnd);
    const verdict = writer.prepare();
    const rows = rowEnd - rowStart;
    if (verdict === EMPTY) {
      out.fill(0, 0, rows * wordsPerRow);
      return 0;
    }
    if (verdict === PARTIAL) writer.write();
    const { words } = writer;
    const used = Math.ceil(cursor.count / 32);
    const tail = cursor.count % 32 === 0 ? -1 : (1 << (cursor.count % 32)) - 1;
    const skipped = rowStart % rowsPerLine; // rows of the first line that are not in the tile
    let allowed = 0;
    for (let line = 0, row = 0; line < cursor.lines; line++) {
      const end = Math.min((line + 1) * rowsPerLine - skipped, rows);
      const copies = end - row;
      for (let w = 0; w < wordsPerRow; w++) {
        let word = 0;
        if (w < used) word = verdict === PARTIAL ? (words[line * wordsPerRow + w] as number) : -1;
        if (w === used - 1) word &= tail;
        if (word !== 0) allowed += copies * (word === -1 ? 32 : countBits(word));
        for (let at = row; at < end; at++) out[at * wordsPerRow + w] = word;
      }
      row = end;
    }
    return allowed;
  };
  return Object.freeze({ wordsPerRow, fill });
}

/** Turns the cursor to a tile; lines and keys that it has already stay. */
function createTurn(cursor: TileCursor, { queryLength, keyLength }: MaskInputs, rowsPerLine: number, group: number) {
  let [lastBatch, lastHead, lastStart, lastEnd] = [-1, -1, -1, -1];
  return (batch: number, kvHead: number, rowStart: number, rowEnd: number, keyStart: number, keyEnd: number): void => {
    cursor.batch = batch;
    cursor.firstKey = batch * keyLength + keyStart;
    cursor.firstSlot = keyStart;
    cursor.count = keyEnd - keyStart;
    cursor.keyTurn++;
    if (batch === lastBatch && kvHead === lastHead && rowStart === lastStart && rowEnd === lastEnd) return;
    [lastBatch, lastHead, lastStart, lastEnd] = [batch, kvHead, rowStart, rowEnd];
    cursor.lines = 0;
    cursor.lineTurn++;
    for (let row = rowStart; row < rowEnd; row += rowsPerLine - (row % rowsPerLine)) {
      cursor.addLine(batch * queryLength + Math.floor(row / group), kvHead * group + (row % group));
    }
  };
}

function countBits(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
