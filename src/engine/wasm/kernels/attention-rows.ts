/**
 * Work items of attention, and how the rows of an item are found and written.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { type AttentionSpec, attentionScratch, blockLayout } from "./attention-scratch.ts";
import { emitExp } from "./vector-math.ts";

/**
 * One work item, i32 words: the rows of a tile and the keys they look at. Packed row r is query r div G of the batch
 * entry, head r mod G of the group.
 */
export const ITEM = {
  /** First packed row. */
  rowStart: 0,
  /** Rows, at most the tile's. */
  rowCount: 1,
  /** First query of the batch entry, among all queries. */
  queryBase: 2,
  /** First query head of the group. */
  headBase: 3,
  /** Where stored row 0 of the head is, in bytes from the first key, value or scale. */
  keys: 4,
  values: 5,
  keyScales: 9,
  valueScales: 10,
  /** Address of the first entry of the tile list, and of what follows the last. */
  entries: 6,
  entriesEnd: 7,
  /** Address where the blocks' states go, one after the other, when other items have the rest of the keys; 0: write the output. */
  state: 8,
} as const;

/** Words of a work item. */
export const ITEM_WORDS = 11;

/** Locals for going through the rows of an item. */
export type RowLocals = Record<"item" | "out" | "stats" | "sinks" | "scratch", Local<"i32">> & RowWork;

type RowWork = Record<"row" | "rowIndex" | "block" | "lane" | "from" | "into" | "end", Local<"i32">> &
  Record<"max" | "sum" | "sink" | "top" | "factor", Local<"f32">> &
  Record<"vector" | "own" | "other" | "work0" | "work1", Local<"v128">>;

/** Makes the locals that are not parameters. */
export function createRowWork(f: FunctionBuilder): RowWork {
  const names = <N extends string, T extends "i32" | "f32" | "v128">(type: T, ...list: N[]): Record<N, Local<T>> =>
    Object.fromEntries(list.map((name) => [name, f.local(name, type)])) as Record<N, Local<T>>;
  return {
    ...names("i32", "row", "rowIndex", "block", "lane", "from", "into", "end"),
    ...names("f32", "max", "sum", "sink", "top", "factor"),
    ...names("v128", "vector", "own", "other", "work0", "work1"),
  };
}

/** A word of the present item. */
export function itemWord({ item }: Pick<RowLocals, "item">, name: keyof typeof ITEM) {
  return i32.load(item, ITEM[name] * 4);
}

/**
 * Runs `body` for each row of the item, with `rowIndex` = query · H + head, `block` the address of the row's block in
 * scratch, and `lane` its place there.
 */
export function forEachRow(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals, body: () => void): void {
  const scratch = attentionScratch(spec);
  f.for(at.row, 0, itemWord(at, "rowCount"), 1, () => {
    const packed = i32.add(itemWord(at, "rowStart"), at.row);
    const query = i32.add(itemWord(at, "queryBase"), i32.divU(packed, spec.group));
    const head = i32.add(itemWord(at, "headBase"), i32.remU(packed, spec.group));
    f.set(at.rowIndex, i32.add(i32.mul(query, spec.heads), head));
    const blockIndex = i32.divU(at.row, spec.rows);
    f.set(at.block, i32.add(at.scratch, i32.add(scratch.blocks, i32.mul(blockIndex, scratch.blockBytes))));
    f.set(at.lane, i32.remU(at.row, spec.rows));
    body();
  });
}

/** Runs `body` for each block of the item, with `block` its address and `state` that of its stored state. */
export function forEachState(
  f: FunctionBuilder,
  spec: AttentionSpec,
  at: RowLocals,
  state: Local<"i32">,
  body: () => void,
): void {
  const scratch = attentionScratch(spec);
  const { stateBytes } = blockLayout(spec);
  f.set(at.block, i32.add(at.scratch, scratch.blocks));
  f.for(at.row, 0, itemWord(at, "rowCount"), spec.rows, () => {
    body();
    f.set(at.block, i32.add(at.block, scratch.blockBytes));
    f.set(state, i32.add(state, stateBytes));
  });
}

/** Copies whole vectors between addresses; `from` and `into` are overwritten. */
export function emitCopy(f: FunctionBuilder, { from, into, end }: Pick<RowWork, "from" | "into" | "end">): void {
  f.doWhile(
    () => {
      f.storeVector(into, v128.load(from));
      f.set(from, i32.add(from, 16));
      f.set(into, i32.add(into, 16));
    },
    () => i32.ltU(from, end),
  );
}

/** Divides the state in scratch by its sums, sinks included, and writes the item's rows of `out` and `stats`. */
export function emitWriteRows(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals): void {
  const layout = blockLayout(spec);
  const outBytes = spec.valueDim * 4;
  forEachRow(f, spec, at, () => {
    f.set(at.from, i32.add(at.block, i32.shl(at.lane, 2)));
    f.set(at.max, f32.load(at.from, layout.max));
    f.set(at.sum, f32.load(at.from, layout.sum));
    f.if(at.stats, () => {
      f.set(at.into, i32.add(at.stats, i32.shl(at.rowIndex, 3)));
      f.store("f32.store", at.into, at.max);
      f.store("f32.store", at.into, at.sum, 4);
    });
    emitRowFactor(f, spec, at);
    f.set(at.from, i32.add(at.block, i32.add(layout.output, i32.mul(at.lane, layout.outputPitch))));
    f.set(at.into, i32.add(at.out, i32.mul(at.rowIndex, outBytes)));
    f.set(at.end, i32.add(at.into, outBytes - (outBytes % 16)));
    f.while(
      () => i32.ltU(at.into, at.end),
      () => {
        f.storeVector(at.into, f32x4.mul(v128.load(at.from), at.vector));
        f.set(at.from, i32.add(at.from, 16));
        f.set(at.into, i32.add(at.into, 16));
      },
    );
    for (let rest = 0; rest < outBytes % 16; rest += 4) {
      f.store("f32.store", at.into, f32.mul(f32.load(at.from, rest), f32x4.lane(at.vector, 0)), rest);
    }
  });
}

/**
 * vector = what the row's output is multiplied by: 1 / sum, or 0 for no key; with a sink s of the row's head
 * 1 / (sum + e^(s − max)), computed relative to the greater of max and s so that nothing overflows.
 */
function emitRowFactor(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals): void {
  const { max, sum, sink, top, factor, own, other, work0, work1 } = at;
  f.set(factor, 0);
  f.if(f32.gt(sum, 0), () => {
    f.set(factor, f32.div(1, sum));
    f.if(at.sinks, () => {
      const head = i32.remU(at.rowIndex, spec.heads);
      f.set(sink, f32.load(i32.add(at.sinks, i32.shl(head, 2))));
      f.set(top, f32.max(max, sink));
      emitExp(f, spec, own, f32x4.splat(f32.sub(max, top)), [work0, work1]);
      emitExp(f, spec, other, f32x4.splat(f32.sub(sink, top)), [work0, work1]);
      const weight = f32x4.lane(own, 0);
      f.set(factor, f32.div(weight, f32.add(f32.mul(sum, weight), f32x4.lane(other, 0))));
    });
  });
  f.set(at.vector, f32x4.splat(factor));
}
