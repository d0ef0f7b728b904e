/**
 * A selection tile by tile, as packed bits. Tiles of the same rows are asked for from left to right.
 */

import { type BlockSelection, blocksOfKeys, type KeySelection, type Selection } from "./selection.ts";

/** The bits of a selection for the tiles of one row tile after the other. */
export type SelectionTiles = {
  /** Turns to the packed rows start to end − 1 (token·G + head of the group) of a key-value head. */
  readonly loadRows: (batch: number, kvHead: number, start: number, end: number) => void;
  /**
   * Writes the bits of the keys keyStart to keyEnd − 1, not before those asked for last.
   *
   * @param out - u32 [rows, words]; bit i of word w is key keyStart + 32·w + i; unused bits are 0
   * @returns the number of selected pairs
   */
  readonly fill: (keyStart: number, keyEnd: number, out: Uint32Array) => number;
};

/** Prepares a checked selection; `group` is G, `words` the words per row. */
export function createSelectionTiles(selection: Selection, group: number, words: number): SelectionTiles {
  return selection.kind === "keys" ? keyTiles(selection, group, words) : blockTiles(selection, group, words);
}

function keyTiles({ shape, rowPointers, columns }: KeySelection, group: number, words: number): SelectionTiles {
  const [, Tq] = shape;
  let cursors = new Int32Array(0); // per row: the first entry that was not passed
  let ends = new Int32Array(0);
  return {
    loadRows(batch, _kvHead, start, end) {
      const rows = Array.from({ length: end - start }, (_, n) => batch * Tq + Math.floor((start + n) / group));
      cursors = Int32Array.from(rows, (row) => rowPointers[row]);
      ends = Int32Array.from(rows, (row) => rowPointers[row + 1]);
    },
    fill(keyStart, keyEnd, out) {
      out.fill(0);
      let selected = 0;
      for (let row = 0; row < cursors.length; row++) {
        let at = cursors[row];
        while (at < ends[row] && columns[at] < keyStart) at++;
        for (; at < ends[row] && columns[at] < keyEnd; at++) {
          const key = columns[at] - keyStart;
          out[row * words + (key >> 5)] |= 1 << (key & 31);
          selected++;
        }
        cursors[row] = at;
      }
      return selected;
    },
  };
}

function blockTiles(selection: BlockSelection, group: number, words: number): SelectionTiles {
  const { shape, blocks, rowPointers, columns } = selection;
  const [, H, Tq, Tk] = shape;
  const blockOfKey = blocksOfKeys(selection);
  let firstKey = 0; // of the batch entry
  let rows = 0;
  let chosen = new Uint8Array(0); // [rows, blocks]
  return {
    loadRows(batch, kvHead, start, end) {
      firstKey = batch * Tk;
      rows = end - start;
      chosen = new Uint8Array(rows * blocks);
      for (let n = 0; n < rows; n++) {
        const head = kvHead * group + ((start + n) % group);
        const row = (batch * H + head) * Tq + Math.floor((start + n) / group);
        for (let at = rowPointers[row]; at < rowPointers[row + 1]; at++) chosen[n * blocks + columns[at]] = 1;
      }
    },
    fill(keyStart, keyEnd, out) {
      out.fill(0);
      let selected = 0;
      for (let start = keyStart, end = start; start < keyEnd; start = end) {
        const block = blockOfKey[firstKey + start];
        while (end < keyEnd && blockOfKey[firstKey + end] === block) end++;
        if (block < 0) continue;
        for (let row = 0; row < rows; row++) {
          if (chosen[row * blocks + block] === 0) continue;
          for (let key = start - keyStart; key < end - keyStart; key++) {
            out[row * words + (key >> 5)] |= 1 << (key & 31);
          }
          selected += end - start;
        }
      }
      return selected;
    },
  };
}
