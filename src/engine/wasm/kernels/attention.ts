/**
 * Attention over planned work items: fetch a tile's queries, attend its key tiles, write its rows or its state.
 */

import { f32, f32x4, i32 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import {
  createRowWork,
  emitCopy,
  emitWriteRows,
  forEachRow,
  forEachState,
  ITEM_WORDS,
  itemWord,
  type RowLocals,
} from "./attention-rows.ts";
import { type AttentionSpec, attentionScratch, blockLayout } from "./attention-scratch.ts";
import { emitAttendTiles, LOWEST_SCORE, OPTIONS } from "./attention-tile.ts";

/**
 * Adds `attend(from, to, items, q, keys, values, out, stats, sinks, scale, options, scratch)`: the items from … to − 1
 * of a list.
 *
 * q is f32 [queries, H, D], keys and values are addresses that the items' offsets count from, out f32 [queries, H, Dv].
 * `stats` is 0, or receives f32 [queries, H, 2]: the largest score and the sum of exponentials relative to it, 0 when
 * there is none, sinks not included. `sinks` is 0 or f32 [H]. `options` is the address of `OPTIONS`, 0 where the spec
 * needs none of them.
 */
export function emitAttention(module: ModuleBuilder, spec: AttentionSpec): void {
  module.function("attend", (f) => {
    const from = f.parameter("first", "i32");
    const to = f.parameter("to", "i32");
    const items = f.parameter("items", "i32");
    const q = f.parameter("q", "i32");
    const keys = f.parameter("keys", "i32");
    const values = f.parameter("values", "i32");
    const parameters = {
      out: f.parameter("out", "i32"),
      stats: f.parameter("stats", "i32"),
      sinks: f.parameter("sinks", "i32"),
    };
    const scale = f.parameter("scale", "f32");
    const options = f.parameter("options", "i32");
    const scratch = f.parameter("scratch", "i32");
    const item = f.local("item", "i32", i32.add(items, i32.mul(from, ITEM_WORDS * 4)));
    const at: RowLocals = { ...parameters, scratch, item, ...createRowWork(f) };
    const tiles = {
      entries: f.local("entries", "i32"),
      entriesEnd: f.local("entriesEnd", "i32"),
      keys: f.local("headKeys", "i32"),
      values: f.local("headValues", "i32"),
      keyScales: f.local("headKeyScales", "i32"),
      valueScales: f.local("headValueScales", "i32"),
      rowCount: f.local("rowCount", "i32"),
    };
    const state = f.local("state", "i32");
    f.set(to, i32.add(items, i32.mul(to, ITEM_WORDS * 4)));
    f.while(
      () => i32.ltU(item, to),
      () => {
        emitFetchQueries(f, spec, at, q, scale);
        if (spec.rowColumns > 0) emitFetchColumns(f, spec, at, options);
        for (const name of ["entries", "entriesEnd", "rowCount"] as const) f.set(tiles[name], itemWord(at, name));
        f.set(tiles.keys, i32.add(keys, itemWord(at, "keys")));
        f.set(tiles.values, i32.add(values, itemWord(at, "values")));
        for (const [side, name] of [["keys", "keyScales"] as const, ["values", "valueScales"] as const]) {
          if (spec[side].scaleStride === 0) continue;
          f.set(tiles[name], i32.add(i32.load(options, OPTIONS[name]), itemWord(at, name)));
        }
        emitAttendTiles(f, spec, { ...tiles, options, scratch });
        f.set(state, itemWord(at, "state"));
        f.if(
          state,
          () => emitStoreStates(f, spec, at, state),
          () => emitWriteRows(f, spec, at),
        );
        f.set(item, i32.add(item, ITEM_WORDS * 4));
      },
    );
  });
}

/** Scales the item's queries into scratch, [D][8] or [4][D], zeros where there is no row; empties the state. */
function emitFetchQueries(
  f: FunctionBuilder,
  spec: AttentionSpec,
  at: RowLocals,
  q: Local<"i32">,
  scale: Local<"f32">,
): void {
  const scratch = attentionScratch(spec);
  const layout = blockLayout(spec);
  const queryBytes = spec.keyDim * 4;
  const acrossRows = spec.rows === 8;
  const fill = (from: number, to: number, value: number): void => {
    f.set(at.vector, f32x4.const(value));
    f.set(at.into, i32.add(at.block, from));
    f.set(at.end, i32.add(at.block, to));
    f.while(
      () => i32.ltU(at.into, at.end),
      () => {
        f.storeVector(at.into, at.vector);
        f.set(at.into, i32.add(at.into, 16));
      },
    );
  };
  f.set(at.block, i32.add(at.scratch, scratch.blocks));
  f.for(at.row, 0, itemWord(at, "rowCount"), spec.rows, () => {
    fill(layout.queries, layout.max, 0);
    fill(layout.max, layout.sum, LOWEST_SCORE);
    fill(layout.sum, layout.bytes, 0);
    f.set(at.block, i32.add(at.block, scratch.blockBytes));
  });
  forEachRow(f, spec, at, () => {
    f.set(at.from, i32.add(q, i32.mul(at.rowIndex, queryBytes)));
    f.set(at.end, i32.add(at.from, queryBytes));
    f.set(at.into, i32.add(at.block, i32.mul(at.lane, acrossRows ? 4 : queryBytes)));
    f.doWhile(
      () => {
        f.store("f32.store", at.into, f32.mul(f32.load(at.from), scale), layout.queries);
        f.set(at.into, i32.add(at.into, acrossRows ? spec.rows * 4 : 4));
        f.set(at.from, i32.add(at.from, 4));
      },
      () => i32.ltU(at.from, at.end),
    );
  });
}

/**
 * Copies the columns of the item's rows into their blocks. Lanes without a row get those of the last row, so that
 * addresses in them can be read.
 */
function emitFetchColumns(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals, options: Local<"i32">): void {
  const layout = blockLayout(spec);
  const copy = (): void => {
    f.set(at.into, i32.add(at.block, i32.shl(at.lane, 2)));
    for (let column = 0; column < spec.rowColumns; column++) {
      f.store("i32.store", at.into, i32.load(at.from, 4 * column), layout.columns + column * spec.rows * 4);
    }
  };
  forEachRow(f, spec, at, () => {
    f.set(at.from, i32.add(i32.load(options, OPTIONS.rowTable), i32.mul(at.rowIndex, spec.rowColumns * 4)));
    copy();
  });
  f.for(at.lane, i32.add(at.lane, 1), spec.rows, 1, copy);
}

/** Copies the states of the item's blocks to where the merge finds them. */
function emitStoreStates(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals, state: Local<"i32">): void {
  const layout = blockLayout(spec);
  forEachState(f, spec, at, state, () => {
    f.set(at.from, i32.add(at.block, layout.max));
    f.set(at.end, i32.add(at.from, layout.stateBytes));
    f.set(at.into, state);
    emitCopy(f, at);
  });
}
