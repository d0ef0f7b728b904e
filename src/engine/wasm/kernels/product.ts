/**
 * Products of f32 matrices for gradients: out [M, N] (+)= left · right [P, N], right as it lies in memory, left as it
 * lies ("rows": [M, P]) or transposed ("columns": [P, M]).
 *
 * Both operands are packed, so that what the innermost loop reads lies in the order it is read in, whatever the strides:
 * strips of 4 rows of `left` and panels of 16 columns of `right`. A tile of 2 rows by 16 columns is in registers (eight
 * sums, four vectors of `right`, two splat numbers of `left`). The order is
 *
 *     for every 512 columns
 *       for every 256 inner indices: right packed, 512 KiB
 *         for every 128 rows: left packed, 128 KiB
 *           for every panel (16 KiB, in the first cache)
 *             for every two rows
 *
 * Every element of `out` is summed by one worker, in the order of the inner index: results do not depend on how rows
 * are dealt out.
 */

import { type Expression, f32, f32x4, type I32, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { FunctionHandle, ModuleBuilder } from "../assembler/module.ts";
import { type FloatingMode, fma } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type ProductSpec = FloatingMode & {
  /** Export name; `product` unless told. */
  readonly name?: string;
  /** How `left` lies in memory: [M, P] or [P, M]. */
  readonly left: "rows" | "columns";
};

/** A block: columns, inner indices and rows. */
const COLUMNS = 512;
const DEPTH = 256;
const ROWS = 128;
/** Columns of a panel, rows of a strip, rows of a tile. */
const PANEL = 16;
const STRIP = 4;
const TILE_ROWS = 2;

const PANEL_BYTES = 4 * PANEL * DEPTH;
const STRIP_BYTES = 4 * STRIP * DEPTH;
/** Scratch memory: packed right, packed left, a tile at the edge of `out`. */
const LEFT_AT = 4 * COLUMNS * DEPTH;
const EDGE_AT = LEFT_AT + 4 * ROWS * DEPTH;

/** Bytes of scratch memory that a product needs, aligned to 16. */
export const PRODUCT_SCRATCH_BYTES: number = EDGE_AT + 4 * TILE_ROWS * PANEL;

/**
 * Adds `product(out, left, right, columns, inner, leftStride, add, from, to, scratch)` to a module: rows [from, to)
 * of out f32 [M][columns], written, or added to where `add` is 1. `left` has `leftStride` bytes from row to row (of what
 * lies in memory), right f32 [inner][columns].
 */
export function emitProduct(module: ModuleBuilder, spec: ProductSpec): FunctionHandle {
  const name = spec.name ?? "product";
  const packRight = module.function(`${name}PackRight`, emitPackRight, false);
  const packLeft = module.function(`${name}PackLeft`, spec.left === "rows" ? emitPackRows : emitPackColumns, false);
  const tile = module.function(`${name}Tile`, (f) => emitTile(f, spec), false);
  const edge = module.function(`${name}Edge`, (f) => emitEdge(f, tile), false);
  return module.function(name, (f) => {
    const integer = (parameter: string): Local<"i32"> => f.parameter(parameter, "i32");
    const [out, left, right] = ["out", "left", "right"].map(integer);
    const [columns, inner, leftStride, add] = ["columns", "inner", "leftStride", "add"].map(integer);
    const [from, to, scratch] = ["from", "to", "scratch"].map(integer);
    const [column, width, depthAt, depth] = ["column", "width", "depthAt", "depth"].map((n) => f.local(n, "i32"));
    const [row, height, j, i] = ["row", "height", "j", "i"].map((n) => f.local(n, "i32"));
    const [panel, strip, outAt] = ["panel", "strip", "outAt"].map((n) => f.local(n, "i32"));
    const stride = f.local("stride", "i32", i32.shl(columns, 2));
    const packedLeft = f.local("packedLeft", "i32", i32.add(scratch, LEFT_AT));

    const block = (): void => {
      f.set(panel, i32.add(scratch, i32.mul(i32.shrU(j, 4), PANEL_BYTES)));
      f.for(i, 0, height, TILE_ROWS, () => {
        const half = i32.shl(i32.and(i, STRIP - 1), 2);
        f.set(strip, i32.add(packedLeft, i32.add(i32.mul(i32.shrU(i, 2), STRIP_BYTES), half)));
        f.set(outAt, i32.add(out, i32.add(i32.mul(i32.add(row, i), stride), i32.shl(i32.add(column, j), 2))));
        const isWhole = i32.and(i32.leS(i32.add(i, TILE_ROWS), height), i32.leS(i32.add(j, PANEL), width));
        const adds = i32.or(add, i32.gtS(depthAt, 0));
        f.if(
          isWhole,
          () => f.call(tile, [outAt, stride, strip, panel, depth, adds]),
          () => {
            const rest = [i32.sub(height, i), i32.sub(width, j), i32.add(scratch, EDGE_AT)];
            f.call(edge, [outAt, stride, strip, panel, depth, adds, ...rest]);
          },
        );
      });
    };

    f.for(column, 0, columns, COLUMNS, () => {
      setMinimum(f, width, i32.sub(columns, column), COLUMNS);
      f.for(depthAt, 0, inner, DEPTH, () => {
        setMinimum(f, depth, i32.sub(inner, depthAt), DEPTH);
        const rightAt = i32.add(right, i32.add(i32.mul(depthAt, stride), i32.shl(column, 2)));
        f.call(packRight, [scratch, rightAt, stride, depth, width]);
        f.for(row, from, to, ROWS, () => {
          setMinimum(f, height, i32.sub(to, row), ROWS);
          const [line, place] = spec.left === "rows" ? [row, depthAt] : [depthAt, row];
          const leftAt = i32.add(left, i32.add(i32.mul(line, leftStride), i32.shl(place, 2)));
          f.call(packLeft, [packedLeft, leftAt, leftStride, depth, height]);
          f.for(j, 0, width, PANEL, block);
        });
      });
    });
  });
}

function setMinimum(f: FunctionBuilder, local: Local<"i32">, a: Expression<"i32">, b: I32): void {
  f.set(local, a);
  f.if(i32.gtS(local, b), () => f.set(local, b));
}

/** out [2][16] at `outStride` = or += strip [depth][4] (two rows of it) · panel [depth][16]. */
function emitTile(f: FunctionBuilder, mode: FloatingMode): void {
  const { out, outStride, strip, panel, depth, add } = tileParameters(f);
  const vectors = PANEL / 4;
  const sums = f.vectors("sum", TILE_ROWS * vectors);
  const rights = f.vectors("right", vectors);
  const lefts = f.vectors("left", TILE_ROWS);
  const second = f.local("second", "i32", i32.add(out, outStride));
  const end = f.local("end", "i32", i32.add(strip, i32.mul(depth, 4 * STRIP)));
  const each = (use: (sum: Local<"v128">, row: Local<"i32">, offset: number) => void): void => {
    for (const [n, sum] of sums.entries()) use(sum, n < vectors ? out : second, 16 * (n % vectors));
  };
  each((sum) => f.set(sum, f32x4.const(0)));
  f.doWhile(
    () => {
      for (const [v, right] of rights.entries()) f.set(right, v128.load(panel, 16 * v));
      for (const [r, left] of lefts.entries()) {
        f.set(left, v128.load32Splat(strip, 4 * r));
        for (const [v, right] of rights.entries()) {
          f.set(sums[r * vectors + v], fma(mode, left, right, sums[r * vectors + v]));
        }
      }
      f.set(strip, i32.add(strip, 4 * STRIP));
      f.set(panel, i32.add(panel, 4 * PANEL));
    },
    () => i32.ltU(strip, end),
  );
  f.if(add, () => each((sum, row, offset) => f.set(sum, f32x4.add(sum, v128.load(row, offset)))));
  each((sum, row, offset) => f.storeVector(row, sum, offset));
}

/** The same where only the first `rows` rows and `columns` columns of the tile exist, by way of `edge` [2][16]. */
function emitEdge(f: FunctionBuilder, tile: FunctionHandle): void {
  const { out, outStride, strip, panel, depth, add } = tileParameters(f);
  const rows = f.parameter("rows", "i32");
  const columns = f.parameter("columns", "i32");
  const edge = f.parameter("edge", "i32");
  const [r, c, outAt, edgeAt] = ["r", "c", "outAt", "edgeAt"].map((name) => f.local(name, "i32"));
  const each = (use: () => void): void => {
    f.for(r, 0, rows, 1, () => {
      f.for(c, 0, columns, 1, () => {
        f.set(outAt, i32.add(out, i32.add(i32.mul(r, outStride), i32.shl(c, 2))));
        f.set(edgeAt, i32.add(edge, i32.shl(i32.add(i32.mul(r, PANEL), c), 2)));
        use();
      });
    });
  };
  setMinimum(f, rows, rows, TILE_ROWS);
  setMinimum(f, columns, columns, PANEL);
  f.if(add, () => each(() => f.store("f32.store", edgeAt, f32.load(outAt))));
  f.call(tile, [edge, 4 * PANEL, strip, panel, depth, add]);
  each(() => f.store("f32.store", outAt, f32.load(edgeAt)));
}

function tileParameters(f: FunctionBuilder) {
  return {
    out: f.parameter("out", "i32"),
    outStride: f.parameter("outStride", "i32"),
    strip: f.parameter("strip", "i32"),
    panel: f.parameter("panel", "i32"),
    depth: f.parameter("depth", "i32"),
    add: f.parameter("add", "i32"),
  };
}

/** What packing functions take: [lines][count] at `source`, into `target`. */
function packParameters(f: FunctionBuilder) {
  return {
    target: f.parameter("target", "i32"),
    source: f.parameter("source", "i32"),
    stride: f.parameter("stride", "i32"),
    depth: f.parameter("depth", "i32"),
    count: f.parameter("count", "i32"),
    group: f.local("group", "i32"),
    p: f.local("p", "i32"),
    c: f.local("c", "i32"),
    from: f.local("from", "i32"),
    to: f.local("to", "i32"),
  };
}

// What lies behind the last column or row is left in packed groups as it was: it only enters sums that are dropped.

/** [depth][count] at `stride` → panels [count/16][DEPTH][16]. */
function emitPackRight(f: FunctionBuilder): void {
  const { target, source, stride, depth, count, group, p, c, from, to } = packParameters(f);
  f.for(group, 0, count, PANEL, () => {
    f.set(from, i32.add(source, i32.shl(group, 2)));
    f.set(to, i32.add(target, i32.mul(i32.shrU(group, 4), PANEL_BYTES)));
    const lines = (copy: () => void): void =>
      f.for(p, 0, depth, 1, () => {
        copy();
        f.set(from, i32.add(from, stride));
        f.set(to, i32.add(to, 4 * PANEL));
      });
    f.if(
      i32.leS(i32.add(group, PANEL), count),
      () => lines(() => copyVectors(f, to, from)),
      () => lines(() => copyRest(f, { to, from, c, count: i32.sub(count, group) })),
    );
  });
}

/** [depth][count] at `stride` → strips [count/4][DEPTH][4], a line of 16 numbers at a time. */
function emitPackColumns(f: FunctionBuilder): void {
  const { target, source, stride, depth, count, group, p, c, from, to } = packParameters(f);
  f.set(group, 0);
  for (const width of [PANEL, STRIP]) {
    f.while(
      () => i32.ltS(width === PANEL ? i32.add(group, PANEL - 1) : group, count),
      () => {
        f.set(from, i32.add(source, i32.shl(group, 2)));
        f.set(to, i32.add(target, i32.mul(i32.shrU(group, 2), STRIP_BYTES)));
        const lines = (copy: () => void): void =>
          f.for(p, 0, depth, 1, () => {
            copy();
            f.set(from, i32.add(from, stride));
            f.set(to, i32.add(to, 4 * STRIP));
          });
        const whole = (): void =>
          lines(() => {
            for (let s = 0; s < width / STRIP; s++) f.storeVector(to, v128.load(from, 16 * s), s * STRIP_BYTES);
          });
        if (width === PANEL) whole();
        else {
          f.if(i32.leS(i32.add(group, STRIP), count), whole, () =>
            lines(() => copyRest(f, { to, from, c, count: i32.sub(count, group) })),
          );
        }
        f.set(group, i32.add(group, width));
      },
    );
  }
}

/** [count][depth] at `stride` → strips [count/4][DEPTH][4]: four rows at a time, four columns of them transposed. */
function emitPackRows(f: FunctionBuilder): void {
  const { target, source, stride, depth, count, group, p, c, from, to } = packParameters(f);
  const rows = f.vectors("row", STRIP);
  const pairs = f.vectors("pair", STRIP);
  const at = f.local("at", "i32");
  f.for(group, 0, count, STRIP, () => {
    f.set(from, i32.add(source, i32.mul(group, stride)));
    f.set(to, i32.add(target, i32.mul(i32.shrU(group, 2), STRIP_BYTES)));
    f.set(p, 0);
    f.if(i32.leS(i32.add(group, STRIP), count), () => {
      f.while(
        () => i32.ltS(i32.add(p, 3), depth),
        () => {
          f.set(at, from);
          for (const [n, row] of rows.entries()) {
            f.set(row, v128.load(at));
            if (n < STRIP - 1) f.set(at, i32.add(at, stride));
          }
          const [a, b, x, y] = rows;
          f.set(pairs[0], f32x4.shuffle(a, b, 0, 4, 1, 5));
          f.set(pairs[1], f32x4.shuffle(a, b, 2, 6, 3, 7));
          f.set(pairs[2], f32x4.shuffle(x, y, 0, 4, 1, 5));
          f.set(pairs[3], f32x4.shuffle(x, y, 2, 6, 3, 7));
          for (const [n, pair] of [pairs[0], pairs[1]].entries()) {
            f.storeVector(to, f32x4.shuffle(pair, pairs[n + 2], 0, 1, 4, 5), 32 * n);
            f.storeVector(to, f32x4.shuffle(pair, pairs[n + 2], 2, 3, 6, 7), 32 * n + 16);
          }
          f.set(from, i32.add(from, 16));
          f.set(to, i32.add(to, 16 * STRIP));
          f.set(p, i32.add(p, 4));
        },
      );
    });
    f.while(
      () => i32.ltS(p, depth),
      () => {
        f.set(at, from);
        setMinimum(f, c, i32.sub(count, group), STRIP);
        f.set(c, i32.add(to, i32.shl(c, 2)));
        f.doWhile(
          () => {
            f.store("f32.store", to, f32.load(at));
            f.set(at, i32.add(at, stride));
            f.set(to, i32.add(to, 4));
          },
          () => i32.ltU(to, c),
        );
        f.set(to, i32.add(i32.and(i32.sub(to, 4), -16), 16));
        f.set(from, i32.add(from, 4));
        f.set(p, i32.add(p, 1));
      },
    );
  });
}

function copyVectors(f: FunctionBuilder, to: Local<"i32">, from: Local<"i32">): void {
  for (let v = 0; v < PANEL / 4; v++) f.storeVector(to, v128.load(from, 16 * v), 16 * v);
}

/** Copies `count` floats, fewer than a group has. */
function copyRest(
  f: FunctionBuilder,
  { to, from, c, count }: { to: Local<"i32">; from: Local<"i32">; c: Local<"i32">; count: Expression<"i32"> },
): void {
  f.for(c, 0, count, 1, () => {
    f.store("f32.store", i32.add(to, i32.shl(c, 2)), f32.load(i32.add(from, i32.shl(c, 2))));
  });
}
