/**
 * A selection: which keys each query may see, decided before attention and given to it as lists. It narrows a mask
 * and never widens it. Lists are compressed rows: row r has the entries pointers[r] to pointers[r + 1] − 1.
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { type Tensor, tensor } from "../tensor.ts";

/** Blocks of keys, chosen by every query head for itself. Keys after the query are not seen, whatever the mask. */
export type BlockSelection = {
  readonly kind: "blocks";
  /** B, H, Tq, Tk. */
  readonly shape: readonly [number, number, number, number];
  /** Largest number of blocks of a batch entry. Blocks of an entry are numbered 0, 1, … by position. */
  readonly blocks: number;
  /** i32 [B·blocks + 1] into `blockKeys`. */
  readonly blockPointers: Int32Array;
  /** i32, the key slots of every block; a slot is in one block at most. */
  readonly blockKeys: Int32Array;
  /** i32 [B·H·Tq + 1] into `columns`. */
  readonly rowPointers: Int32Array;
  /** i32, the chosen blocks of every row, ascending. */
  readonly columns: Int32Array;
};

/** Keys, the same for all query heads. */
export type KeySelection = {
  readonly kind: "keys";
  /** B, Tq, Tk. */
  readonly shape: readonly [number, number, number];
  /** i32 [B·Tq + 1] into `columns`. */
  readonly rowPointers: Int32Array;
  /** i32, the key slots that every query may see, ascending. */
  readonly columns: Int32Array;
};

/** What a pre-pass chose. */
export type Selection = BlockSelection | KeySelection;

/**
 * A selection from a table.
 *
 * @param keep - u8 [B, Tq, Tk]; not 0 = the query may see the key
 * @throws ShapeError when it does not have three axes
 */
export function selectionFromTable(keep: Tensor<"u8">): KeySelection {
  if (keep.shape.length !== 3) {
    throw new ShapeError("selectionFromTable", "keep must be [B, Tq, Tk]", { shape: keep.shape });
  }
  const [B, Tq, Tk] = keep.shape;
  const rowPointers = new Int32Array(B * Tq + 1);
  const columns: number[] = [];
  for (let row = 0; row < B * Tq; row++) {
    for (let j = 0; j < Tk; j++) if (keep.data[row * Tk + j] !== 0) columns.push(j);
    rowPointers[row + 1] = columns.length;
  }
  return { kind: "keys", shape: [B, Tq, Tk], rowPointers, columns: Int32Array.from(columns) };
}

/** The selection as a table: u8 [B, H, Tq, blocks] for blocks, u8 [B, Tq, Tk] for keys; 1 = chosen. */
export function selectionTable(selection: Selection): Tensor<"u8"> {
  const { shape, rowPointers, columns } = selection;
  const width = selection.kind === "blocks" ? selection.blocks : shape[2];
  const rows = rowPointers.length - 1;
  const table = new Uint8Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let n = rowPointers[row]; n < rowPointers[row + 1]; n++) table[row * width + columns[n]] = 1;
  }
  return tensor("u8", [...shape.slice(0, -1), width], table);
}

/**
 * The selection as a function of one pair. Of blocks it tells membership alone; that keys after the query are not
 * seen is left to the mask, to which attention adds `causal()`.
 *
 * @returns whether query i of head h of batch entry b may see key slot j
 */
export function selectionPredicate(selection: Selection): (b: number, h: number, i: number, j: number) => boolean {
  const { rowPointers, columns } = selection;
  const has = (row: number, column: number): boolean => {
    let [low, high] = [rowPointers[row], rowPointers[row + 1]]; // columns ascend
    while (low < high) {
      const middle = (low + high) >> 1;
      if (columns[middle] < column) low = middle + 1;
      else high = middle;
    }
    return low < rowPointers[row + 1] && columns[low] === column;
  };
  if (selection.kind === "keys") {
    const Tq = selection.shape[1];
    return (b, _h, i, j) => has(b * Tq + i, j);
  }
  const [, H, Tq, Tk] = selection.shape;
  const blockOfKey = blocksOfKeys(selection);
  return (b, h, i, j) => has((b * H + h) * Tq + i, blockOfKey[b * Tk + j]);
}

/** i32 [B, Tk], the block of every key slot; −1 for slots in none. */
export function blocksOfKeys({ shape, blocks, blockPointers, blockKeys }: BlockSelection): Int32Array {
  const [B, , , Tk] = shape;
  const blockOfKey = new Int32Array(B * Tk).fill(-1);
  for (let row = 0; row < B * blocks; row++) {
    for (let n = blockPointers[row]; n < blockPointers[row + 1]; n++) {
      blockOfKey[Math.floor(row / blocks) * Tk + blockKeys[n]] = row % blocks;
    }
  }
  return blockOfKey;
}

/** Sizes that a selection must have. */
export type SelectionDims = { readonly B: number; readonly H: number; readonly Tq: number; readonly Tk: number };

/**
 * Refuses a selection that is not of the given sizes or whose lists lead out of them.
 *
 * @throws ShapeError when sizes do not fit
 * @throws ConfigError when a list is out of range or out of order
 */
export function checkSelection(where: string, selection: Selection, { B, H, Tq, Tk }: SelectionDims): void {
  const wanted = selection.kind === "blocks" ? [B, H, Tq, Tk] : [B, Tq, Tk];
  if (selection.shape.join() !== wanted.join()) {
    throw new ShapeError(where, `the selection must be made for [${wanted.join(", ")}]`, { shape: selection.shape });
  }
  const { rowPointers, columns } = selection;
  if (selection.kind === "keys") {
    checkLists(where, "columns", rowPointers, columns, { rows: B * Tq, limit: Tk });
    return;
  }
  const { blocks, blockPointers, blockKeys } = selection;
  if (!Number.isSafeInteger(blocks) || blocks < 0) {
    throw new ShapeError(where, "blocks must be a non-negative integer", { blocks });
  }
  checkLists(where, "columns", rowPointers, columns, { rows: B * H * Tq, limit: blocks });
  checkPointers(where, "blockKeys", blockPointers, blockKeys, B * blocks);
  const seen = new Uint8Array(B * Tk);
  for (let row = 0; row < B * blocks; row++) {
    for (let n = blockPointers[row]; n < blockPointers[row + 1]; n++) {
      const key = blockKeys[n];
      const slot = Math.floor(row / blocks) * Tk + key;
      if (key < 0 || key >= Tk || seen[slot] === 1) {
        throw new ConfigError(where, `blockKeys must be from 0 to ${Tk - 1}, each once`, { index: n, key });
      }
      seen[slot] = 1;
    }
  }
}

function checkLists(
  where: string,
  name: string,
  pointers: Int32Array,
  entries: Int32Array,
  { rows, limit }: { rows: number; limit: number },
): void {
  checkPointers(where, name, pointers, entries, rows);
  for (let row = 0; row < rows; row++) {
    let last = -1;
    for (let n = pointers[row]; n < pointers[row + 1]; n++) {
      if (entries[n] <= last || entries[n] >= limit) {
        throw new ConfigError(where, `${name} must be from 0 to ${limit - 1} and ascend in every row`, {
          row,
          index: n,
          value: entries[n],
        });
      }
      last = entries[n];
    }
  }
}

function checkPointers(where: string, name: string, pointers: Int32Array, entries: Int32Array, rows: number): void {
  const fits =
    pointers.length === rows + 1 &&
    pointers[0] === 0 &&
    pointers[rows] === entries.length &&
    pointers.every((pointer, row) => row === 0 || pointer >= pointers[row - 1]);
  if (!fits) {
    throw new ConfigError(
      where,
      `the pointers into ${name} must be ${rows + 1} ascending numbers from 0 to its length`,
      {
        pointers: pointers.length,
        length: entries.length,
      },
    );
  }
}
