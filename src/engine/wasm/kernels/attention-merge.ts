/**
 * Joins the states of work items that had different keys of the same rows.
 *
 *     m = max(m₁, m₂)     l = l₁·exp(m₁ − m) + l₂·exp(m₂ − m)     o likewise
 */

import { f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import {
  type AttentionSpec,
  createRowWork,
  emitCopy,
  emitWriteRows,
  ITEM_WORDS,
  itemWord,
  type RowLocals,
} from "./attention-rows.ts";
import { tileScratch } from "./attention-tile.ts";
import { emitExp, fma } from "./vector-math.ts";

/**
 * Adds `merge(from, to, merges, items, out, stats, sinks, scratch)`: the merges from … to − 1 of a list of i32 pairs,
 * first item and after the last item. Every one of these items has stored its state.
 */
export function emitAttentionMerge(module: ModuleBuilder, spec: AttentionSpec): void {
  module.function("merge", (f) => {
    const from = f.parameter("first", "i32");
    const to = f.parameter("to", "i32");
    const merges = f.parameter("merges", "i32");
    const items = f.parameter("items", "i32");
    const parameters = {
      out: f.parameter("out", "i32"),
      stats: f.parameter("stats", "i32"),
      sinks: f.parameter("sinks", "i32"),
      scratch: f.parameter("scratch", "i32"),
    };
    const item = f.local("item", "i32");
    const at: RowLocals = { ...parameters, item, ...createRowWork(f) };
    const merge = f.local("merge", "i32", i32.add(merges, i32.shl(from, 3)));
    const itemsEnd = f.local("itemsEnd", "i32");
    const state = f.local("state", "i32");
    const itemAddress = (index: Parameters<typeof i32.mul>[0]) => i32.add(items, i32.mul(index, ITEM_WORDS * 4));
    f.set(to, i32.add(merges, i32.shl(to, 3)));
    f.while(
      () => i32.ltS(merge, to),
      () => {
        f.set(item, itemAddress(i32.load(merge)));
        f.set(itemsEnd, itemAddress(i32.load(merge, 4)));
        emitLoadState(f, spec, at);
        f.set(item, i32.add(item, ITEM_WORDS * 4));
        f.while(
          () => i32.ltS(item, itemsEnd),
          () => {
            f.set(state, itemWord(at, "state"));
            emitFoldState(f, spec, at, state);
            f.set(item, i32.add(item, ITEM_WORDS * 4));
          },
        );
        f.set(item, itemAddress(i32.load(merge)));
        emitWriteRows(f, spec, at);
        f.set(merge, i32.add(merge, 8));
      },
    );
  });
}

/** Copies the state of the present item into scratch. */
function emitLoadState(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals): void {
  const layout = tileScratch(spec);
  const rowBytes = spec.rows * 4;
  const copy = (source: number, bytes: number, target: number): void => {
    f.set(at.from, i32.add(itemWord(at, "state"), source));
    f.set(at.end, i32.add(at.from, bytes));
    f.set(at.into, i32.add(at.scratch, target));
    emitCopy(f, at);
  };
  copy(0, rowBytes, layout.max);
  copy(rowBytes, rowBytes, layout.sum);
  copy(2 * rowBytes, spec.rows * layout.outputPitch, layout.output);
}

/** Joins a stored state to the one in scratch. */
function emitFoldState(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals, state: Local<"i32">): void {
  const layout = tileScratch(spec);
  const rowBytes = spec.rows * 4;
  const work = [at.work0, at.work1] as const;
  // Factors of the two sides: ours in `factor`, theirs in the scores, which nobody needs now.
  for (let half = 0; half < rowBytes; half += 16) {
    const [ours, theirs] = [v128.load(at.scratch, layout.max + half), v128.load(state, half)];
    f.set(at.vector, f32x4.pmax(ours, theirs));
    emitExp(f, spec, at.own, f32x4.sub(ours, at.vector), work);
    emitExp(f, spec, at.other, f32x4.sub(theirs, at.vector), work);
    f.storeVector(at.scratch, at.vector, layout.max + half);
    f.storeVector(at.scratch, at.own, layout.factor + half);
    f.storeVector(at.scratch, at.other, layout.scores + half);
    const sum = f32x4.mul(v128.load(at.scratch, layout.sum + half), at.own);
    f.storeVector(at.scratch, fma(spec, v128.load(state, rowBytes + half), at.other, sum), layout.sum + half);
  }
  const { outputPitch } = layout;
  f.for(at.row, 0, spec.rows, 1, () => {
    f.set(at.from, i32.add(at.scratch, i32.shl(at.row, 2)));
    f.set(at.own, v128.load32Splat(at.from, layout.factor));
    f.set(at.other, v128.load32Splat(at.from, layout.scores));
    f.set(at.into, i32.add(at.scratch, i32.mul(at.row, outputPitch)));
    f.set(at.from, i32.add(state, i32.mul(at.row, outputPitch)));
    f.set(at.end, i32.add(at.from, outputPitch));
    f.doWhile(
      () => {
        const ours = f32x4.mul(v128.load(at.into, layout.output), at.own);
        f.storeVector(at.into, fma(spec, v128.load(at.from, 2 * rowBytes), at.other, ours), layout.output);
        f.set(at.from, i32.add(at.from, 16));
        f.set(at.into, i32.add(at.into, 16));
      },
      () => i32.ltS(at.from, at.end),
    );
  });
}
