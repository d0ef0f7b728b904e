/**
 * Attention's gradients over planned work items: fetch a tile's queries and gradients of outputs, go through its key
 * tiles, write the gradients of its queries.
 */

import { type Expression, f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import {
  type AttentionBackwardSpec,
  BACKWARD_ITEM,
  BACKWARD_ITEM_WORDS,
  backwardScratch,
  SCORE_PITCH,
} from "./attention-backward-scratch.ts";
import { emitBackwardTiles } from "./attention-backward-tile.ts";
import { OPTIONS } from "./attention-tile.ts";
import { emitSum, fma } from "./vector-math.ts";

/**
 * Adds `attendBackward(from, to, items, q, keys, values, out, lse, dOut, dq, rowSums, scale, options, biasShift, scratch)`:
 * the items from … to − 1 of a list; see `AttentionBackwardOperands`.
 *
 * dq is written, the sums of keys and values that the items name are added to. `rowSums` receives f32 [B·Tq·H][2]: by
 * row, dOut · out, and the gradient of its ALiBi slope.
 */
export function emitAttentionBackward(module: ModuleBuilder, spec: AttentionBackwardSpec): void {
  module.function("attendBackward", (f) => {
    const from = f.parameter("first", "i32");
    const to = f.parameter("to", "i32");
    const items = f.parameter("items", "i32");
    const q = f.parameter("q", "i32");
    const keys = f.parameter("keys", "i32");
    const values = f.parameter("values", "i32");
    const out = f.parameter("out", "i32");
    const lse = f.parameter("lse", "i32");
    const dOut = f.parameter("dOut", "i32");
    const dq = f.parameter("dq", "i32");
    const rowSums = f.parameter("rowSums", "i32");
    const scale = f.parameter("scale", "f32");
    const options = f.parameter("options", "i32");
    const biasShift = f.parameter("biasShift", "i32");
    const scratch = f.parameter("scratch", "i32");
    const item = f.local("item", "i32", i32.add(items, i32.mul(from, BACKWARD_ITEM_WORDS * 4)));
    const word = (name: keyof typeof BACKWARD_ITEM) => i32.load(item, BACKWARD_ITEM[name] * 4);
    const rowCount = f.local("rowCount", "i32");
    const rows: Rows = {
      ...{ f, spec, scratch, rowCount, q, out, lse, dOut, dq, rowSums, scale, options, word },
      row: f.local("row", "i32"),
      rowIndex: f.local("rowIndex", "i32"),
      member: f.local("member", "i32"),
      from: f.local("from", "i32"),
      other: f.local("other", "i32"),
      into: f.local("into", "i32"),
      end: f.local("end", "i32"),
      value: f.local("value", "f32"),
      total: f.local("total", "f32"),
      vectors: f.vectors("v", 8),
    };
    const tiles = {
      ...{ options, biasShift, scratch, rowCount },
      entries: f.local("entries", "i32"),
      entriesEnd: f.local("entriesEnd", "i32"),
      keys: f.local("headKeys", "i32"),
      values: f.local("headValues", "i32"),
      dk: f.local("dk", "i32"),
      dv: f.local("dv", "i32"),
    };
    f.set(to, i32.add(items, i32.mul(to, BACKWARD_ITEM_WORDS * 4)));
    f.while(
      () => i32.ltU(item, to),
      () => {
        f.set(rowCount, word("rowCount"));
        f.set(rows.into, word("clear"));
        f.set(rows.end, word("clearEnd"));
        emitClear(rows);
        emitFetchRows(rows);
        for (const name of ["entries", "entriesEnd", "dk", "dv"] as const) f.set(tiles[name], word(name));
        f.set(tiles.keys, i32.add(keys, word("keys")));
        f.set(tiles.values, i32.add(values, word("values")));
        emitBackwardTiles(f, spec, tiles);
        emitWriteRows(rows);
        f.set(item, i32.add(item, BACKWARD_ITEM_WORDS * 4));
      },
    );
  });
}

/** Parameters and locals for going through the rows of an item. */
type Rows = Record<
  | "scratch"
  | "rowCount"
  | "q"
  | "out"
  | "lse"
  | "dOut"
  | "dq"
  | "rowSums"
  | "options"
  | "row"
  | "rowIndex"
  | "member"
  | "from"
  | "other"
  | "into"
  | "end",
  Local<"i32">
> &
  Record<"scale" | "value" | "total", Local<"f32">> & {
    readonly f: FunctionBuilder;
    readonly spec: AttentionBackwardSpec;
    readonly vectors: readonly Local<"v128">[];
    readonly word: (name: keyof typeof BACKWARD_ITEM) => Expression<"i32">;
  };

/** Sets the bytes from `into` to `end` to 0. */
function emitClear({ f, into, end, vectors: [zero] }: Rows): void {
  f.set(zero, f32x4.const(0));
  f.while(
    () => i32.ltU(into, end),
    () => {
      f.storeVector(into, zero);
      f.set(into, i32.add(into, 16));
    },
  );
}

/** Runs `body` for each row of the item, with `rowIndex` = query · H + head. */
function forEachRow({ f, spec, word, row, rowCount, rowIndex, member }: Rows, body: () => void): void {
  const query = i32.add(word("queryBase"), i32.divU(word("rowStart"), spec.group));
  f.set(member, i32.remU(word("rowStart"), spec.group));
  f.set(rowIndex, i32.add(i32.mul(query, spec.heads), i32.add(word("headBase"), member)));
  f.for(row, 0, rowCount, 1, () => {
    body();
    f.set(rowIndex, i32.add(rowIndex, 1));
    f.set(member, i32.add(member, 1));
    f.if(i32.eq(member, spec.group), () => {
      f.set(member, 0);
      f.set(rowIndex, i32.add(rowIndex, spec.heads - spec.group));
    });
  });
}

/** Fills scratch with what is known of the item's rows, and with rows of zeros up to a whole block. */
function emitFetchRows(rows: Rows): void {
  const { f, spec, scratch, rowCount, row, rowIndex, from, into, end, value, vectors } = rows;
  const layout = backwardScratch(spec);
  const [, factor] = vectors;
  const perRow = i32.add(scratch, i32.shl(row, 2));
  const startOf = (part: number, pitch: number) => i32.add(scratch, i32.add(part, i32.mul(row, pitch)));
  forEachRow(rows, () => {
    f.set(from, i32.add(rows.q, i32.mul(rowIndex, spec.keyDim * 4)));
    f.set(into, startOf(layout.queryRows, layout.keyPitch));
    f.set(factor, f32x4.splat(rows.scale));
    emitCopyScaled(rows, spec.keyDim);
    emitFetchOut(rows, startOf(layout.outRows, layout.valuePitch));
    f.store("f32.store", perRow, rows.total, layout.delta);
    f.set(value, f32.load(i32.add(rows.lse, i32.shl(rowIndex, 2))));
    f.if(f32.eq(value, -Infinity), () => f.set(value, Infinity));
    f.store("f32.store", perRow, value, layout.lse);
    f.store("f32.store", perRow, f32.const(0), layout.slopes);
    if (spec.rowColumns > 0) {
      f.set(from, i32.add(i32.load(rows.options, OPTIONS.rowTable), i32.mul(rowIndex, spec.rowColumns * 4)));
      emitStoreColumns(rows);
    }
  });
  f.for(row, rowCount, i32.and(i32.add(rowCount, 7), -8), 1, () => {
    for (const [part, pitch] of [
      [layout.queryRows, layout.keyPitch],
      [layout.outRows, layout.valuePitch],
    ]) {
      f.set(into, startOf(part, pitch));
      f.set(end, i32.add(into, pitch));
      emitClear(rows);
    }
    f.store("f32.store", perRow, f32.const(0), layout.delta);
    f.store("f32.store", perRow, f32.const(Infinity), layout.lse);
    f.store("f32.store", perRow, f32.const(0), layout.slopes);
    emitStoreColumns(rows); // of the last row, so that addresses in them can be read
  });
  f.set(into, i32.add(scratch, layout.dq));
  const fours = i32.and(i32.add(rowCount, 3), -4); // rows are taken four at a time
  f.set(end, i32.add(into, i32.mul(fours, layout.keyPitch)));
  emitClear(rows);
  emitPackBlocks(rows, layout.queryRows, layout.queries, layout.keyPitch);
  emitPackBlocks(rows, layout.outRows, layout.outs, layout.valuePitch);
}

/** Copies the columns of a row to scratch. */
function emitStoreColumns({ f, spec, scratch, row, from }: Rows): void {
  const { columns } = backwardScratch(spec);
  for (let column = 0; column < spec.rowColumns; column++) {
    const number = i32.load(from, 4 * column);
    f.store("i32.store", i32.add(scratch, i32.shl(row, 2)), number, columns + column * SCORE_PITCH);
  }
}

/** Copies `width` numbers times `vectors[1]`. */
function emitCopyScaled({ f, from, into, end, vectors: [x, factor] }: Rows, width: number): void {
  const rest = width % 4;
  f.set(end, i32.add(from, (width - rest) * 4));
  f.while(
    () => i32.ltU(from, end),
    () => {
      f.set(x, f32x4.mul(v128.load(from), factor));
      f.storeVector(into, x);
      f.set(from, i32.add(from, 16));
      f.set(into, i32.add(into, 16));
    },
  );
  for (let n = 0; n < rest; n++) {
    f.store("f32.store", into, f32.mul(f32.load(from, 4 * n), f32x4.lane(factor, 0)), 4 * n);
  }
}

/** Copies a row of the gradient of the outputs; total = its product with the outputs. */
function emitFetchOut(
  { f, spec, rowIndex, out, dOut, from, other, into, end, total, vectors: [x, sum] }: Rows,
  target: Expression<"i32">,
): void {
  const rest = spec.valueDim % 4;
  f.set(from, i32.add(dOut, i32.mul(rowIndex, spec.valueDim * 4)));
  f.set(other, i32.add(out, i32.mul(rowIndex, spec.valueDim * 4)));
  f.set(into, target);
  f.set(end, i32.add(from, (spec.valueDim - rest) * 4));
  f.set(sum, f32x4.const(0));
  f.while(
    () => i32.ltU(from, end),
    () => {
      f.set(x, v128.load(from));
      f.storeVector(into, x);
      f.set(sum, fma(spec, x, v128.load(other), sum));
      f.set(from, i32.add(from, 16));
      f.set(other, i32.add(other, 16));
      f.set(into, i32.add(into, 16));
    },
  );
  f.set(total, emitSum(f, sum));
  for (let n = 0; n < rest; n++) {
    f.store("f32.store", into, f32.load(from, 4 * n), 4 * n);
    f.set(total, f32.add(total, f32.mul(f32.load(from, 4 * n), f32.load(other, 4 * n))));
  }
}

/** Turns rows [rows][pitch] into blocks [columns][8 rows], four by four. */
function emitPackBlocks(rows: Rows, source: number, target: number, pitch: number): void {
  const { f, scratch, rowCount, row, from, into, end, vectors } = rows;
  if (pitch === 0) return;
  const four = vectors.slice(0, 4);
  const [a, b, c, d] = vectors.slice(4, 8);
  f.set(into, i32.add(scratch, target));
  f.for(row, 0, rowCount, 8, () => {
    f.set(from, i32.add(scratch, i32.add(source, i32.mul(row, pitch))));
    f.set(end, i32.add(from, pitch));
    f.doWhile(
      () => {
        for (let half = 0; half < 2; half++) {
          for (const [n, x] of four.entries()) f.set(x, v128.load(from, (4 * half + n) * pitch));
          const [x0, x1, x2, x3] = four;
          f.set(a, f32x4.shuffle(x0, x1, 0, 4, 1, 5));
          f.set(b, f32x4.shuffle(x2, x3, 0, 4, 1, 5));
          f.set(c, f32x4.shuffle(x0, x1, 2, 6, 3, 7));
          f.set(d, f32x4.shuffle(x2, x3, 2, 6, 3, 7));
          const columns = [
            f32x4.shuffle(a, b, 0, 1, 4, 5),
            f32x4.shuffle(a, b, 2, 3, 6, 7),
            f32x4.shuffle(c, d, 0, 1, 4, 5),
            f32x4.shuffle(c, d, 2, 3, 6, 7),
          ];
          for (const [n, column] of columns.entries()) f.storeVector(into, column, n * 32 + half * 16);
        }
        f.set(from, i32.add(from, 16));
        f.set(into, i32.add(into, 128));
      },
      () => i32.ltU(from, end),
    );
  });
}

/** Writes the gradients of the item's queries, and its row sums. */
function emitWriteRows(rows: Rows): void {
  const { f, spec, scratch, row, rowIndex, from, into, vectors } = rows;
  const layout = backwardScratch(spec);
  const [, factor] = vectors;
  forEachRow(rows, () => {
    f.set(from, i32.add(scratch, i32.shl(row, 2)));
    f.set(into, i32.add(rows.rowSums, i32.shl(rowIndex, 3)));
    f.store("f32.store", into, f32.load(from, layout.delta));
    f.store("f32.store", into, f32.load(from, layout.slopes), 4);
    f.set(from, i32.add(scratch, i32.add(layout.dq, i32.mul(row, layout.keyPitch))));
    f.set(into, i32.add(rows.dq, i32.mul(rowIndex, spec.keyDim * 4)));
    f.set(factor, f32x4.splat(rows.scale));
    emitCopyScaled(rows, spec.keyDim);
  });
}
