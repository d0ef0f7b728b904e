/**
 * One tile of a mask as packed bits, on demand: for partial tiles, and for masks that no closed form fits.
 */

import { ConfigError } from "../errors.ts";
import type { Mask } from "./expression.ts";
import { checkMaskInputs, type MaskInputs, requirements } from "./inputs.ts";
import { PARTIAL } from "./interval.ts";
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
  const cursor = new TileCursor();
  const writer = compileWriter(lowerMask(mask, inputs), inputs, cursor, keyTile);

  const fill: TileBits["fill"] = (batch, kvHead, rowStart, rowEnd, keyStart, keyEnd, out) => {
    cursor.batch = batch;
    cursor.firstKey = batch * inputs.keyLength + keyStart;
    cursor.firstSlot = keyStart;
    cursor.count = keyEnd - keyStart;
    cursor.lines = 0;
    for (let row = rowStart; row < rowEnd; row++) {
      if (!headDependent && row > rowStart && row % group !== 0) continue; // another head of the same token
      cursor.addLine(batch * inputs.queryLength + Math.floor(row / group), kvHead * group + (row % group));
    }
    const verdict = writer.prepare();
    if (verdict === PARTIAL) writer.write();
    const used = Math.ceil(cursor.count / 32);
    const tail = cursor.count % 32 === 0 ? -1 : (1 << (cursor.count % 32)) - 1;
    let allowed = 0;
    let allowedInRow = 0;
    let line = -1;
    for (let row = rowStart; row < rowEnd; row++) {
      const isNewLine = headDependent || row === rowStart || row % group === 0;
      if (isNewLine) {
        line++;
        allowedInRow = 0;
      }
      const offset = (row - rowStart) * wordsPerRow;
      for (let w = 0; w < wordsPerRow; w++) {
        let word = verdict === PARTIAL ? (writer.words[line * wordsPerRow + w] as number) : -verdict; // −FULL: all bits
        if (w >= used) word = 0;
        else if (w === used - 1) word &= tail;
        out[offset + w] = word;
        if (isNewLine) allowedInRow += countBits(word);
      }
      allowed += allowedInRow;
    }
    return allowed;
  };
  return Object.freeze({ wordsPerRow, fill });
}

function countBits(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
