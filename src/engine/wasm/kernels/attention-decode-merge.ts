/**
 * Joins the states of decode items that had different keys of the same query.
 */

import { f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import {
  createDecodeLocals,
  DECODE_ITEM,
  DECODE_ITEM_WORDS,
  type DecodeLocals,
  type DecodeScratch,
  type DecodeSpec,
  decodeScratch,
  emitFinish,
  emitMove,
} from "./attention-decode-rows.ts";
import { emitExp, fma } from "./vector-math.ts";

/**
 * Adds `mergeOne(from, to, merges, items, out, stats, sinks, scratch)`: merges of i32 pairs {first item, after the last},
 * whose states are joined and whose rows are written.
 */
export function emitDecodeMerge(module: ModuleBuilder, spec: DecodeSpec): void {
  const layout = decodeScratch(spec);
  module.function("mergeOne", (f) => {
    const from = f.parameter("first", "i32");
    const to = f.parameter("to", "i32");
    const merges = f.parameter("merges", "i32");
    const items = f.parameter("items", "i32");
    const out = f.parameter("out", "i32");
    const stats = f.parameter("stats", "i32");
    const sinks = f.parameter("sinks", "i32");
    const scratch = f.parameter("scratch", "i32");
    const at = createDecodeLocals(f, scratch);
    const merge = f.local("merge", "i32", i32.add(merges, i32.shl(from, 3)));
    const itemsEnd = f.local("itemsEnd", "i32");
    const state = f.local("state", "i32");
    const itemAt = (offset: number) => i32.add(items, i32.mul(i32.load(merge, offset), DECODE_ITEM_WORDS * 4));
    const word = (name: keyof typeof DECODE_ITEM) => i32.load(at.item, DECODE_ITEM[name] * 4);
    const intoState = f.local("intoState", "i32", i32.add(scratch, layout.max));
    f.set(to, i32.add(merges, i32.shl(to, 3)));
    f.while(
      () => i32.ltU(merge, to),
      () => {
        f.set(at.item, itemAt(0));
        f.set(itemsEnd, itemAt(4));
        emitMove(f, at, word("state"), layout.end - layout.max, intoState);
        f.set(at.item, i32.add(at.item, DECODE_ITEM_WORDS * 4));
        f.while(
          () => i32.ltU(at.item, itemsEnd),
          () => {
            f.set(state, word("state"));
            emitFold(f, spec, layout, at, state);
            f.set(at.item, i32.add(at.item, DECODE_ITEM_WORDS * 4));
          },
        );
        f.set(at.item, itemAt(0));
        emitFinish(f, spec, layout, at, { out, stats, sinks, query: word("query") });
        f.set(merge, i32.add(merge, 8));
      },
    );
  });
}

/** Joins a stored state to the one in scratch. */
function emitFold(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  { scratch, head, at, other, end, work }: DecodeLocals,
  state: Local<"i32">,
): void {
  const [own, theirs, max, r, n] = work;
  const stored = (offset: number): number => offset - layout.max;
  // Factors: ours in `factor`, theirs in the first row of scores.
  f.for(head, 0, layout.pitch, 16, () => {
    f.set(at, i32.add(scratch, head));
    f.set(other, i32.add(state, head));
    f.set(own, v128.load(at, layout.max));
    f.set(theirs, v128.load(other, stored(layout.max)));
    f.set(max, f32x4.pmax(own, theirs));
    f.storeVector(at, max, layout.max);
    f.set(own, f32x4.sub(own, max));
    f.set(theirs, f32x4.sub(theirs, max));
    emitExp(f, spec, max, own, [r, n]);
    f.storeVector(at, max, layout.factor);
    f.set(own, f32x4.mul(v128.load(at, layout.sum), max));
    emitExp(f, spec, max, theirs, [r, n]);
    f.storeVector(at, max, layout.scores);
    f.storeVector(at, fma(spec, v128.load(other, stored(layout.sum)), max, own), layout.sum);
  });
  const rowBytes = spec.valueDim * 4;
  f.set(at, i32.add(scratch, layout.output));
  f.set(other, i32.add(state, stored(layout.output)));
  f.for(head, 0, spec.heads, 1, () => {
    const lane = i32.add(scratch, i32.shl(head, 2));
    f.set(own, v128.load32Splat(lane, layout.factor));
    f.set(theirs, v128.load32Splat(lane, layout.scores));
    f.set(end, i32.add(at, rowBytes));
    f.doWhile(
      () => {
        f.storeVector(at, fma(spec, v128.load(other), theirs, f32x4.mul(v128.load(at), own)));
        f.set(at, i32.add(at, 16));
        f.set(other, i32.add(other, 16));
      },
      () => i32.ltU(at, end),
    );
  });
}
