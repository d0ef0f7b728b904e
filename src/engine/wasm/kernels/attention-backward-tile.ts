/**
 * Attention's gradients of one tile of rows over a list of key tiles. Scores lie transposed, [key][row], so that
 * exponentials are vertical and either side can be summed over.
 *
 *     for every key tile:
 *         s[key][row]   = Σ_d k[key][d] · q[d][row]           four keys by eight rows
 *         dp[key][row]  = Σ_d v[key][d] · dOut[d][row]        four keys by eight rows
 *         p, ds         = exp(s − lse), p · (dp − delta)      ds through the derivative of the soft cap
 *         dv[key]      += Σ_row p[key][row] · dOut[row]       four keys by eight columns
 *         dk[key]      += Σ_row ds[key][row] · q[row]         four keys by eight columns
 *         dq[row]      += Σ_key ds[key][row] · k[key]         four rows by eight columns
 */

import { f32, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { type BackwardTile, emitDots, emitKeySums, emitRowSums } from "./attention-backward-products.ts";
import { emitProbabilities } from "./attention-backward-scores.ts";
import { type AttentionBackwardSpec, backwardScratch } from "./attention-backward-scratch.ts";
import { ENTRY_BYTES } from "./attention-tile.ts";

/** Where an item's data is: addresses. */
export type BackwardPointers = {
  /** Entry to start with; advanced to `entriesEnd`. */
  readonly entries: Local<"i32">;
  readonly entriesEnd: Local<"i32">;
  /** Stored row 0 of the head. */
  readonly keys: Local<"i32">;
  readonly values: Local<"i32">;
  /** Sums of key 0 of all batch entries. */
  readonly dk: Local<"i32">;
  readonly dv: Local<"i32">;
  readonly options: Local<"i32">;
  readonly biasShift: Local<"i32">;
  readonly scratch: Local<"i32">;
  /** Rows of the item. */
  readonly rowCount: Local<"i32">;
};

/** Adds the gradients of all key tiles of a list to the sums of their keys and, in scratch, to those of the rows. */
export function emitBackwardTiles(f: FunctionBuilder, spec: AttentionBackwardSpec, pointers: BackwardPointers): void {
  const { entries, entriesEnd, options, biasShift, scratch, rowCount } = pointers;
  const layout = backwardScratch(spec);
  const integer = (name: string): Local<"i32"> => f.local(name, "i32");
  const tile: BackwardTile = {
    ...{ f, spec, layout, options, biasShift, scratch, rowCount },
    count: integer("tileCount"),
    bits: integer("tileBits"),
    slot: integer("tileSlot"),
    block: integer("block"),
    blocks: integer("blocks"),
    key: integer("key"),
    keyEnd: integer("keyEnd"),
    row: integer("tileRow"),
    rowEnd: integer("rowEnd"),
    column: integer("column"),
    at: integer("at"),
    end: integer("tileEnd"),
    pointer: integer("pointer"),
    into: integer("tileInto"),
    acc: f.vectors("acc", 8),
    a: f.local("a", "v128"),
    b: f.local("b", "v128"),
    x: f.local("x", "v128"),
  };
  const sums = integer("sums");
  const sumsOf = (side: Local<"i32">, pitch: number): Local<"i32"> => {
    f.set(sums, i32.add(side, i32.mul(tile.slot, pitch)));
    return sums;
  };
  f.set(tile.blocks, i32.shrU(i32.add(rowCount, 7), 3));
  f.while(
    () => i32.ltU(entries, entriesEnd),
    () => {
      f.set(tile.count, i32.load(entries, 4));
      f.set(tile.bits, i32.load(entries, 8));
      f.set(tile.slot, i32.load(entries, 12));
      const first = i32.load(entries);
      emitPack(tile, i32.add(pointers.keys, i32.mul(first, spec.keyStride)), spec.keyStride, "keys");
      emitPack(tile, i32.add(pointers.values, i32.mul(first, spec.valueStride)), spec.valueStride, "values");
      emitKeyRanges(tile);
      emitDots(tile, { keys: layout.keys, pitch: layout.keyPitch, rows: layout.queries, width: spec.keyDim }, "scores");
      emitDots(
        tile,
        { keys: layout.values, pitch: layout.valuePitch, rows: layout.outs, width: spec.valueDim },
        "gradients",
      );
      emitProbabilities(tile);
      emitKeySums(tile, sumsOf(pointers.dv, layout.valuePitch), "scores", layout.outRows, layout.valuePitch);
      emitKeySums(tile, sumsOf(pointers.dk, layout.keyPitch), "gradients", layout.queryRows, layout.keyPitch);
      emitRowSums(tile);
      f.set(entries, i32.add(entries, ENTRY_BYTES));
    },
  );
}

/** Copies the tile's keys or values to scratch. */
function emitPack(
  tile: BackwardTile,
  first: ReturnType<typeof i32.add>,
  stride: number,
  side: "keys" | "values",
): void {
  const { f, spec, layout, scratch, count, key, at, end, pointer, into, x } = tile;
  const width = side === "keys" ? spec.keyDim : spec.valueDim;
  const pitch = side === "keys" ? layout.keyPitch : layout.valuePitch;
  const rest = width % 4;
  f.set(pointer, first);
  f.set(into, i32.add(scratch, layout[side]));
  f.for(key, 0, count, 1, () => {
    f.set(at, pointer);
    f.set(end, i32.add(at, (width - rest) * 4));
    f.while(
      () => i32.ltU(at, end),
      () => {
        f.set(x, v128.load(at));
        f.storeVector(into, x);
        f.set(at, i32.add(at, 16));
        f.set(into, i32.add(into, 16));
      },
    );
    for (let n = 0; n < rest; n++) f.store("f32.store", into, f32.load(at, 4 * n), 4 * n);
    f.set(into, i32.add(into, pitch - (width - rest) * 4));
    f.set(pointer, i32.add(pointer, stride));
  });
}

/** Finds the keys that each block looks at: all, or, by the bits, without those at both ends that no row of it sees. */
function emitKeyRanges(tile: BackwardTile): void {
  const { f, spec, layout, scratch, count, bits, blocks, block, key, keyEnd, at } = tile;
  const bitsAt = f.local("blockBits", "i32");
  const unseen = (address: ReturnType<typeof i32.add>) => i32.eqz(i32.load(address));
  f.set(bitsAt, bits);
  f.for(block, 0, blocks, 1, () => {
    f.set(key, 0);
    f.set(keyEnd, count);
    f.if(bits, () => {
      f.while(
        () => i32.and(i32.ltS(key, count), unseen(i32.add(bitsAt, key))),
        () => f.set(key, i32.add(key, 4)),
      );
      // Whole words are read; bits behind the last key are 0 or those of other keys, which trims less.
      f.set(keyEnd, i32.and(i32.add(count, 3), -4));
      f.while(
        () => i32.and(i32.gtS(keyEnd, key), unseen(i32.sub(i32.add(bitsAt, keyEnd), 4))),
        () => f.set(keyEnd, i32.sub(keyEnd, 4)),
      );
      f.if(i32.gtS(keyEnd, count), () => f.set(keyEnd, count));
      f.set(bitsAt, i32.add(bitsAt, spec.bitsStride));
    });
    f.set(at, i32.add(scratch, i32.shl(block, 2)));
    f.store("i32.store", at, key, layout.firstKeys);
    f.store("i32.store", at, keyEnd, layout.endKeys);
  });
}
