/**
 * Which tiles of (query rows × keys) have work. Every row tile descends a binary tree over the key tiles and lets
 * interval analysis throw away or accept whole runs of them, so the effort follows the tiles that are not empty, in
 * whatever order positions come. A dense mask is never built.
 */

import { BudgetError, ConfigError } from "../errors.ts";
import type { Mask } from "./expression.ts";
import { checkMaskInputs, type MaskInputs, requirements } from "./inputs.ts";
import { Box, compileVerdict, EMPTY, FULL, type Interval, PARTIAL, type Verdict } from "./interval.ts";
import { forEachVariable, lowerMask } from "./lower.ts";
import { leavesFor, MinMaxTree } from "./min-max-tree.ts";
import type { VariableName } from "./node.ts";
import { createTileBits } from "./tile-bits.ts";

/** Sizes of tiles. */
export type TileOptions = {
  /** Packed rows of a tile (tokens × heads of a group), at least 1. */
  readonly rowTile: number;
  /** Keys of a tile, at least 1. */
  readonly keyTile: number;
  /** G, query heads per key-value head, packed as rows of the same tile; 1 when absent. Must divide H. */
  readonly group?: number | undefined;
  /**
   * Whether every partial tile is looked into, so that none is in truth empty or full. Worth it for tables, trees and
   * custom masks; costs time in proportion to the partial tiles' area.
   */
  readonly exact?: boolean | undefined;
};

/**
 * The tiles that have work, row by row (compressed sparse rows). Packed row r of a key-value head is query token
 * floor(r / G), head j = r mod G of the group. Tiles at the end of rows or keys may be cut short; "full" speaks
 * of the pairs that exist.
 */
export type TilePlan = {
  readonly batch: number;
  readonly queryLength: number;
  readonly keyLength: number;
  /** G, heads packed as rows. */
  readonly group: number;
  /** 1 when all key-value heads share the tiles; otherwise their number, H / G. */
  readonly planes: number;
  readonly rowTile: number;
  readonly keyTile: number;
  /** Row tiles of one plane: ceil(Tq·G / rowTile). */
  readonly rowTiles: number;
  /** Key tiles: ceil(Tk / keyTile). */
  readonly keyTiles: number;
  /** i32 [B·planes·rowTiles + 1]: row tile i has the entries rowPointers[i] to rowPointers[i + 1] − 1. */
  readonly rowPointers: Int32Array;
  /** i32 [B·planes·rowTiles]: the first entry that is partial; those before it are full. */
  readonly firstPartial: Int32Array;
  /** i32 [entries]: key tile of each entry, ascending among the full and among the partial ones. */
  readonly columns: Int32Array;
  /** `mask.hash()`. */
  readonly maskHash: string;
};

const MAX_ENTRIES = 2 ** 24;

/**
 * Plans the tiles of a mask.
 *
 * @param inputs - positions and what else the mask needs; read now, not kept
 * @returns the tiles with work; a row tile without any has no entries
 * @throws ConfigError, ShapeError when inputs or sizes do not fit
 * @throws BudgetError when there are more than 2^24 row tiles, or more than 2^24 tiles (64 MiB of columns) with work
 */
export function planTiles(mask: Mask, inputs: MaskInputs, options: TileOptions): TilePlan {
  checkMaskInputs("planTiles", mask, inputs);
  const { batch, queryLength, keyLength, heads } = inputs;
  const { rowTile, keyTile, group = 1, exact = false } = options;
  for (const [name, value] of Object.entries({ rowTile, keyTile, group })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ConfigError("planTiles", `${name} must be an integer of at least 1`, { [name]: value });
    }
  }
  if (heads % group !== 0) throw new ConfigError("planTiles", "group must divide heads", { heads, group });

  const planes = requirements(mask).headDependent ? heads / group : 1;
  const rowTiles = Math.ceil((queryLength * group) / rowTile);
  const keyTiles = Math.ceil(keyLength / keyTile);
  if (batch * planes * rowTiles > MAX_ENTRIES) {
    throw new BudgetError("planTiles", `at most ${MAX_ENTRIES} row tiles`, { batch, planes, rowTiles });
  }
  const rowPointers = new Int32Array(batch * planes * rowTiles + 1);
  const firstPartial = new Int32Array(batch * planes * rowTiles);
  const columns = new IntList();
  const partial = new IntList();

  const box = new Box();
  const core = lowerMask(mask, inputs);
  const verdict = compileVerdict(core, inputs, box);
  const look = exact ? createExactVerdict(mask, inputs, options) : undefined;
  const loader = createLoader(namesIn(core), inputs, box, keyTile);

  let plane = 0;
  let start = 0; // packed rows of the present tile: start to end − 1
  let end = 0;
  /** Files the key tiles below a node of the tree, which covers `count` tiles from `first` on. */
  const descend = (node: number, first: number, count: number): void => {
    if (first >= keyTiles) return;
    loader.loadKeys(node, first, count);
    let answer = verdict();
    if (answer === EMPTY) return;
    if (answer !== FULL && count > 1) {
      descend(2 * node, first, count / 2);
      descend(2 * node + 1, first + count / 2, count / 2);
      return;
    }
    if (answer !== FULL && look !== undefined) answer = look(plane, start, end, box);
    if (answer === EMPTY) return;
    const last = Math.min(first + count, keyTiles) - 1;
    if (answer === FULL) for (let tile = first; tile <= last; tile++) columns.push(tile);
    else partial.push(first);
  };

  let row = 0;
  for (let b = 0; b < batch; b++) {
    loader.loadBatch(b);
    for (plane = 0; plane < planes; plane++) {
      for (start = 0; start < queryLength * group; start += rowTile) {
        end = Math.min(start + rowTile, queryLength * group);
        loader.loadRows(plane, start, end, group);
        partial.length = 0;
        descend(1, 0, leavesFor(keyTiles));
        firstPartial[row] = columns.length;
        columns.append(partial);
        rowPointers[++row] = columns.length;
      }
    }
  }
  return Object.freeze({
    batch,
    queryLength,
    keyLength,
    group,
    planes,
    rowTile,
    keyTile,
    rowTiles,
    keyTiles,
    rowPointers,
    firstPartial,
    columns: columns.toArray(),
    maskHash: mask.hash(),
  });
}

const QUERY_ROWS = {
  queryPosition: "queryPositions",
  querySegment: "querySegments",
  querySpan: "querySpans",
  queryNode: "queryNodes",
} as const;
const KEY_ROWS = {
  keyPosition: "keyPositions",
  keySegment: "keySegments",
  keySpan: "keySpans",
  keyNode: "keyNodes",
} as const;

function namesIn(core: Parameters<typeof forEachVariable>[0]): ReadonlySet<VariableName> {
  const names = new Set<VariableName>();
  forEachVariable(core, (name) => names.add(name));
  return names;
}

/** Sets the box to a batch entry, then to rows, then to keys; only variables that the mask reads. */
function createLoader(names: ReadonlySet<VariableName>, inputs: MaskInputs, box: Box, keyTile: number) {
  const { queryLength, keyLength } = inputs;
  const { variables } = box;
  const queryRows: { values: Int32Array; into: Interval }[] = [];
  for (const [name, row] of Object.entries(QUERY_ROWS)) {
    const variable = name as VariableName;
    if (names.has(variable)) queryRows.push({ values: inputs[row] as Int32Array, into: variables[variable] });
  }
  let keyRows: { tree: MinMaxTree; into: Interval }[] = [];

  const loadBatch = (batch: number): void => {
    box.batch = batch;
    variables.batch.set(batch, batch);
    if (inputs.prefixLengths !== undefined) setTo(variables.prefixLength, inputs.prefixLengths[batch]);
    if (inputs.lengths !== undefined) setTo(variables.length, inputs.lengths[batch]);
    keyRows = [];
    for (const [name, row] of Object.entries(KEY_ROWS)) {
      const variable = name as VariableName;
      if (!names.has(variable)) continue;
      const values = (inputs[row] as Int32Array).subarray(batch * keyLength, (batch + 1) * keyLength);
      keyRows.push({ tree: new MinMaxTree(values, keyTile), into: variables[variable] });
    }
  };

  const loadRows = (plane: number, start: number, end: number, group: number): void => {
    box.queryStart = Math.floor(start / group);
    box.queryEnd = Math.floor((end - 1) / group) + 1;
    const first = box.batch * queryLength + box.queryStart;
    const last = box.batch * queryLength + box.queryEnd - 1;
    for (const { values, into } of queryRows) {
      let lo = values[first] as number;
      let hi = lo;
      for (let i = first + 1; i <= last; i++) {
        const value = values[i] as number;
        if (value < lo) lo = value;
        if (value > hi) hi = value;
      }
      into.set(lo, hi);
    }
    const oneToken = box.queryEnd - box.queryStart === 1;
    variables.head.set(
      plane * group + (oneToken ? start % group : 0),
      plane * group + (oneToken ? (end - 1) % group : group - 1),
    );
  };

  const loadKeys = (node: number, first: number, count: number): void => {
    box.keyStart = first * keyTile;
    box.keyEnd = Math.min((first + count) * keyTile, keyLength);
    box.isTile = count === 1;
    variables.keySlot.set(box.keyStart, box.keyEnd - 1);
    for (let i = 0; i < keyRows.length; i++) {
      const { tree, into } = keyRows[i] as { tree: MinMaxTree; into: Interval };
      into.lo = tree.lo[node] as number;
      into.hi = tree.hi[node] as number;
    }
  };

  return { loadBatch, loadRows, loadKeys };
}

function setTo(interval: Interval, value: number | undefined): void {
  interval.set(value as number, value as number);
}

/** A verdict on the tile of the box that looks at every pair of it. */
function createExactVerdict(mask: Mask, inputs: MaskInputs, { rowTile, keyTile, group = 1 }: TileOptions) {
  const keys = Math.min(keyTile, inputs.keyLength);
  const bits = createTileBits(mask, inputs, { keyTile: Math.max(keys, 1), group });
  const out = new Uint32Array(Math.min(rowTile, inputs.queryLength * group) * bits.wordsPerRow);
  return (plane: number, rowStart: number, rowEnd: number, box: Box): Verdict => {
    const allowed = bits.fill(box.batch, plane, rowStart, rowEnd, box.keyStart, box.keyEnd, out);
    if (allowed === 0) return EMPTY;
    return allowed === (rowEnd - rowStart) * (box.keyEnd - box.keyStart) ? FULL : PARTIAL;
  };
}

/** Integers that grow. */
class IntList {
  length = 0;
  #data = new Int32Array(1024);

  push(value: number): void {
    if (this.length === this.#data.length) this.#grow(this.length + 1);
    this.#data[this.length++] = value;
  }

  append(other: IntList): void {
    if (this.length + other.length > this.#data.length) this.#grow(this.length + other.length);
    this.#data.set(other.#data.subarray(0, other.length), this.length);
    this.length += other.length;
  }

  toArray(): Int32Array {
    return this.#data.slice(0, this.length);
  }

  #grow(atLeast: number): void {
    if (atLeast > MAX_ENTRIES) {
      throw new BudgetError("planTiles", `at most ${MAX_ENTRIES} tiles with work`, {}, "Use larger tiles.");
    }
    const grown = new Int32Array(Math.max(atLeast, 2 * this.#data.length));
    grown.set(this.#data);
    this.#data = grown;
  }
}
