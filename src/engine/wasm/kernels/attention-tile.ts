/**
 * Attention of one tile of eight rows over a list of key tiles, by online softmax.
 *
 * Everything is laid out so that eight rows lie side by side in two vectors: queries as [D][8], scores and
 * probabilities as [key][8]. Maximum, exponential and sum are then vertical, and a key or value is read in place,
 * one element splat (keys) or eight elements (values) at a time.
 *
 *     for every key tile:
 *         s[key][8]  = Σ_d k[key][d] · q[d][8]            four keys at a time
 *         m'         = max(m, max_key s)
 *         p[key][8]  = exp(s − m'),  l = l·exp(m − m') + Σ_key p
 *         o[8][Dv]   = o·exp(m − m') + Σ_key p·v[key]     four rows by eight columns at a time
 */

import { type Expression, f32x4, i32, i32x4, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import { emitExp, type FloatingMode, fma } from "./vector-math.ts";

/** Rows of a tile. */
export const TILE_ROWS = 8;
/** Keys of a tile. */
export const TILE_KEYS = 64;

/** What the generated code is specialised for. */
export type AttentionTileSpec = FloatingMode & {
  /** D, a multiple of 4. */
  readonly keyDim: number;
  /** Dv, a multiple of 8. */
  readonly valueDim: number;
  /** Bytes between the keys of one head. */
  readonly keyStride: number;
  /** Bytes between the values of one head. */
  readonly valueStride: number;
};

/** Offsets in the scratch memory of one worker, in bytes. */
export function scratchLayout({ keyDim, valueDim }: Pick<AttentionTileSpec, "keyDim" | "valueDim">) {
  const row = TILE_ROWS * 4;
  const queries = 0; // [D][8]
  const scores = queries + keyDim * row; // [TILE_KEYS][8]
  const output = scores + TILE_KEYS * row; // [8][Dv]
  const max = output + valueDim * row; // [8]
  const sum = max + row; // [8]
  const factor = sum + row; // [8]
  return { queries, scores, output, max, sum, factor, bytes: factor + row };
}

const ROW = TILE_ROWS * 4;
/** Stands for −Infinity where a difference of two must not be NaN. */
const LOWEST = -3.4e38;

/** Adds `attendTile(entries, count, keys, values, scratch)` to a module: updates the state in scratch. */
export function emitAttentionTile(module: ModuleBuilder, spec: AttentionTileSpec): void {
  const layout = scratchLayout(spec);
  module.function("attendTile", (f) => {
    const entries = f.parameter("entries", "i32"); // of {first key, keys, address of bits or 0}
    const count = f.parameter("count", "i32");
    const keys = f.parameter("keys", "i32");
    const values = f.parameter("values", "i32");
    const scratch = f.parameter("scratch", "i32");
    const end = f.local("end", "i32", i32.add(entries, i32.mul(count, 12)));
    const tileKeys = f.local("tileKeys", "i32");
    const tileValues = f.local("tileValues", "i32");
    const tileCount = f.local("tileCount", "i32");
    const bits = f.local("bits", "i32");
    const scores = f.local("scores", "i32", i32.add(scratch, layout.scores));
    const scoresEnd = f.local("scoresEnd", "i32");
    const locals = createLocals(f);

    f.while(
      () => i32.ltS(entries, end),
      () => {
        f.set(tileKeys, i32.add(keys, i32.mul(i32.load(entries), spec.keyStride)));
        f.set(tileValues, i32.add(values, i32.mul(i32.load(entries), spec.valueStride)));
        f.set(tileCount, i32.load(entries, 4));
        f.set(bits, i32.load(entries, 8));
        f.set(scoresEnd, i32.add(scores, i32.shl(tileCount, 5)));
        emitScores(f, spec, locals, { scratch, tileKeys, tileCount, bits, scores });
        emitSoftmax(f, spec, locals, { scratch, scores, scoresEnd, layout });
        emitValues(f, spec, locals, { scratch, tileValues, scores, scoresEnd, layout });
        f.set(entries, i32.add(entries, 12));
      },
    );
  });
}

type TileLocals = {
  acc: Local<"v128">[];
  tileMax: Local<"v128">[];
  a: Local<"v128">;
  b: Local<"v128">;
  x: Local<"v128">;
  key: Local<"i32">;
  at: Local<"i32">;
  pointer: Local<"i32">;
  other: Local<"i32">;
};

function createLocals(f: FunctionBuilder): TileLocals {
  return {
    acc: f.vectors("acc", 8),
    tileMax: f.vectors("max", 2),
    a: f.local("a", "v128"),
    b: f.local("b", "v128"),
    x: f.local("x", "v128"),
    key: f.local("key", "i32"),
    at: f.local("at", "i32"),
    pointer: f.local("pointer", "i32"),
    other: f.local("other", "i32"),
  };
}

/** scores[key][8] = keys · queries, masked; tileMax = their maximum. */
function emitScores(
  f: FunctionBuilder,
  spec: AttentionTileSpec,
  { acc, tileMax, a, b, x, key, at, pointer, other }: TileLocals,
  {
    scratch,
    tileKeys,
    tileCount,
    bits,
    scores,
  }: Record<"scratch" | "tileKeys" | "tileCount" | "bits" | "scores", Local<"i32">>,
): void {
  for (const half of tileMax) f.set(half, f32x4.const(LOWEST));
  const queriesEnd = i32.add(scratch, spec.keyDim * ROW);

  /** `wide` keys from `key` on, against all eight rows. */
  const block = (wide: number): void => {
    f.set(pointer, i32.add(tileKeys, i32.mul(key, spec.keyStride)));
    f.set(at, scratch);
    f.set(other, queriesEnd);
    for (let n = 0; n < 2 * wide; n++) f.set(acc[n], f32x4.const(0));
    f.doWhile(
      () => {
        f.set(a, v128.load(at));
        f.set(b, v128.load(at, 16));
        for (let n = 0; n < wide; n++) {
          f.set(x, v128.load32Splat(pointer, n * spec.keyStride));
          f.set(acc[2 * n], fma(spec, x, a, acc[2 * n]));
          f.set(acc[2 * n + 1], fma(spec, x, b, acc[2 * n + 1]));
        }
        f.set(pointer, i32.add(pointer, 4));
        f.set(at, i32.add(at, ROW));
      },
      () => i32.ltS(at, other),
    );
    f.if(bits, () => {
      for (let n = 0; n < wide; n++) {
        // One bit a row; hidden scores become −Infinity.
        f.set(x, i32x4.splat(i32.load8u(i32.add(bits, key), n)));
        for (const [half, weights] of ROW_BITS.entries()) {
          const visible = i32x4.ne(v128.and(x, weights), i32x4.const(0));
          f.set(acc[2 * n + half], v128.select(acc[2 * n + half], f32x4.const(-Infinity), visible));
        }
      }
    });
    f.set(at, i32.add(scores, i32.shl(key, 5)));
    for (let n = 0; n < 2 * wide; n++) {
      f.set(tileMax[n % 2], f32x4.pmax(tileMax[n % 2], acc[n]));
      f.storeVector(at, acc[n], n * 16);
    }
    f.set(key, i32.add(key, wide));
  };

  f.set(key, 0);
  f.while(
    () => i32.leS(i32.add(key, 4), tileCount),
    () => block(4),
  );
  f.while(
    () => i32.ltS(key, tileCount),
    () => block(1),
  );
}

/** The bit of each row, by lane. */
const ROW_BITS = [v128.words(1, 2, 4, 8), v128.words(16, 32, 64, 128)];

/** Scores become probabilities; maximum, sum and the correction factor of the rows are brought up to date. */
function emitSoftmax(
  f: FunctionBuilder,
  spec: AttentionTileSpec,
  { acc, tileMax, a, b, x, at }: TileLocals,
  {
    scratch,
    scores,
    scoresEnd,
    layout,
  }: Record<"scratch" | "scores" | "scoresEnd", Local<"i32">> & { layout: ReturnType<typeof scratchLayout> },
): void {
  const sums = [acc[0], acc[1]];
  const results = [acc[2], acc[3]];
  const scratches = [
    [a, b],
    [acc[4], x],
  ] as const;
  for (const half of [0, 1]) {
    const offset = half * 16;
    const old = v128.load(scratch, layout.max + offset);
    f.set(tileMax[half], f32x4.pmax(tileMax[half], old));
    emitExp(f, spec, results[half], f32x4.sub(old, tileMax[half]), scratches[half]);
    f.storeVector(scratch, tileMax[half], layout.max + offset);
    f.storeVector(scratch, results[half], layout.factor + offset);
    f.set(sums[half], f32x4.mul(v128.load(scratch, layout.sum + offset), results[half]));
  }
  f.set(at, scores);
  f.doWhile(
    () => {
      for (const half of [0, 1]) {
        emitExp(f, spec, results[half], f32x4.sub(v128.load(at, half * 16), tileMax[half]), scratches[half]);
        f.storeVector(at, results[half], half * 16);
        f.set(sums[half], f32x4.add(sums[half], results[half]));
      }
      f.set(at, i32.add(at, ROW));
    },
    () => i32.ltS(at, scoresEnd),
  );
  for (const half of [0, 1]) f.storeVector(scratch, sums[half], layout.sum + half * 16);
}

/** output[8][Dv] = output · factor + probabilities · values. */
function emitValues(
  f: FunctionBuilder,
  spec: AttentionTileSpec,
  { acc, a, b, x, key, at, pointer }: TileLocals,
  {
    scratch,
    tileValues,
    scores,
    scoresEnd,
    layout,
  }: Record<"scratch" | "tileValues" | "scores" | "scoresEnd", Local<"i32">> & {
    layout: ReturnType<typeof scratchLayout>;
  },
): void {
  const rowBytes = spec.valueDim * 4;
  const columns = (body: (column: Expression<"i32">) => void): void => f.for(key, 0, rowBytes, 32, () => body(key)); // `key` counts bytes of columns here
  for (const firstRow of [0, 4]) {
    columns((column) => {
      f.set(pointer, i32.add(scratch, column));
      for (let row = 0; row < 4; row++) {
        f.set(x, v128.load32Splat(scratch, layout.factor + (firstRow + row) * 4));
        for (const half of [0, 1]) {
          const offset = layout.output + (firstRow + row) * rowBytes + half * 16;
          f.set(acc[2 * row + half], f32x4.mul(v128.load(pointer, offset), x));
        }
      }
      f.set(pointer, i32.add(tileValues, column));
      f.set(at, scores);
      f.doWhile(
        () => {
          f.set(a, v128.load(pointer));
          f.set(b, v128.load(pointer, 16));
          for (let row = 0; row < 4; row++) {
            f.set(x, v128.load32Splat(at, (firstRow + row) * 4));
            f.set(acc[2 * row], fma(spec, x, a, acc[2 * row]));
            f.set(acc[2 * row + 1], fma(spec, x, b, acc[2 * row + 1]));
          }
          f.set(pointer, i32.add(pointer, spec.valueStride));
          f.set(at, i32.add(at, ROW));
        },
        () => i32.ltS(at, scoresEnd),
      );
      f.set(pointer, i32.add(scratch, column));
      for (let row = 0; row < 4; row++) {
        for (const half of [0, 1]) {
          f.storeVector(pointer, acc[2 * row + half], layout.output + (firstRow + row) * rowBytes + half * 16);
        }
      }
    });
  }
}
