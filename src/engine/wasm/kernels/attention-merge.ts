/**
 * Joins the states of work items that had different keys of the same rows.
 *
 *     m = max(m₁, m₂)     l = l₁·exp(m₁ − m) + l₂·exp(m₂ − m)     o likewise
 */

import { f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import {
  createRowWork,
  emitCopy,
  emitWriteRows,
  forEachState,
  ITEM_WORDS,
  itemWord,
  type RowLocals,
} from "./attention-rows.ts";
import { type AttentionSpec, blockLayout } from "./attention-scratch.ts";
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
      () => i32.ltU(merge, to),
      () => {
        f.set(item, itemAddress(i32.load(merge)));
        f.set(itemsEnd, itemAddress(i32.load(merge, 4)));
        f.set(state, itemWord(at, "state"));
        emitLoadStates(f, spec, at, state);
        f.set(item, i32.add(item, ITEM_WORDS * 4));
        f.while(
          () => i32.ltU(item, itemsEnd),
          () => {
            f.set(state, itemWord(at, "state"));
            forEachState(f, spec, at, state, () => emitFoldState(f, spec, at, state));
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

/** Copies the states of the present item's blocks into scratch. */
function emitLoadStates(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals, state: Local<"i32">): void {
  const layout = blockLayout(spec);
  forEachState(f, spec, at, state, () => {
    f.set(at.from, state);
    f.set(at.end, i32.add(state, layout.stateBytes));
    f.set(at.into, i32.add(at.block, layout.max));
    emitCopy(f, at);
  });
}

/** Joins a stored state to the one of the present block. */
function emitFoldState(f: FunctionBuilder, spec: AttentionSpec, at: RowLocals, state: Local<"i32">): void {
  const layout = blockLayout(spec);
  const work = [at.work0, at.work1] as const;
  /** Where a part of the state is stored. */
  const stored = (offset: number): number => offset - layout.max;
  // Factors of the two sides: ours in `factor`, theirs in the queries, which nobody needs any more.
  for (let half = 0; half < spec.rows * 4; half += 16) {
    const [ours, theirs] = [v128.load(at.block, layout.max + half), v128.load(state, half)];
    f.set(at.vector, f32x4.pmax(ours, theirs));
    emitExp(f, spec, at.own, f32x4.sub(ours, at.vector), work);
    emitExp(f, spec, at.other, f32x4.sub(theirs, at.vector), work);
    f.storeVector(at.block, at.vector, layout.max + half);
    f.storeVector(at.block, at.own, layout.factor + half);
    f.storeVector(at.block, at.other, layout.queries + half);
    const sum = f32x4.mul(v128.load(at.block, layout.sum + half), at.own);
    const theirSum = v128.load(state, stored(layout.sum) + half);
    f.storeVector(at.block, fma(spec, theirSum, at.other, sum), layout.sum + half);
  }
  f.for(at.lane, 0, spec.rows, 1, () => {
    f.set(at.from, i32.add(at.block, i32.shl(at.lane, 2)));
    f.set(at.own, v128.load32Splat(at.from, layout.factor));
    f.set(at.other, v128.load32Splat(at.from, layout.queries));
    f.set(at.into, i32.add(at.block, i32.mul(at.lane, layout.outputPitch)));
    f.set(at.from, i32.add(state, i32.mul(at.lane, layout.outputPitch)));
    f.set(at.end, i32.add(at.from, layout.outputPitch));
    f.while(
      () => i32.ltU(at.from, at.end),
      () => {
        const ours = f32x4.mul(v128.load(at.into, layout.output), at.own);
        const theirs = v128.load(at.from, stored(layout.output));
        f.storeVector(at.into, fma(spec, theirs, at.other, ours), layout.output);
        f.set(at.from, i32.add(at.from, 16));
        f.set(at.into, i32.add(at.into, 16));
      },
    );
  });
}
