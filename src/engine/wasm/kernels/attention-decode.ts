/**
 * Attention of one query: the step of a decoder.
 *
 * A key or value is met by the few queries of its group only, so that reading it takes about as long as the arithmetic. A
 * work item is a run of keys for all heads at once; keys and values are read as they lie, token by token with all heads,
 * front to back, which is the order that prefetchers follow:
 *
 *     s[key][head] = k[key][head / G] · q[head]     m, p, l as ever, vertical over heads
 *     o[head]      = o[head]·exp(m − m') + Σ_key p[key][head]·v[key][head / G]
 *
 * Stored numbers of fewer bits become floats in registers, where all queries of a group use them; their scales are applied to scores
 * and to probabilities. The result differs from that of dequantised numbers by roundings only.
 */

import { f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import { emitReadStart } from "./attention-decode-elements.ts";
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
import { emitScores } from "./attention-decode-scores.ts";
import { emitValues } from "./attention-decode-values.ts";
import { ENTRY_BYTES, LOWEST_SCORE, OPTIONS } from "./attention-tile.ts";
import { emitExp } from "./vector-math.ts";

/**
 * Adds `attendOne(from, to, items, q, keys, values, out, stats, sinks, scale, options, scratch)`: items from … to − 1 of a
 * list. Shapes as for `attend`, with one query.
 */
export function emitDecode(module: ModuleBuilder, spec: DecodeSpec): void {
  const layout = decodeScratch(spec);
  module.function("attendOne", (f) => {
    const from = f.parameter("first", "i32");
    const to = f.parameter("to", "i32");
    const items = f.parameter("items", "i32");
    const q = f.parameter("q", "i32");
    const keys = f.parameter("keys", "i32");
    const values = f.parameter("values", "i32");
    const out = f.parameter("out", "i32");
    const stats = f.parameter("stats", "i32");
    const sinks = f.parameter("sinks", "i32");
    const scale = f.parameter("scale", "f32");
    const options = f.parameter("options", "i32");
    const scratch = f.parameter("scratch", "i32");
    const at = createDecodeLocals(f, scratch);
    const entries = f.local("entries", "i32");
    const entriesEnd = f.local("entriesEnd", "i32");
    emitReadStart(f, spec, at);
    const word = (name: keyof typeof DECODE_ITEM) => i32.load(at.item, DECODE_ITEM[name] * 4);
    f.set(at.item, i32.add(items, i32.mul(from, DECODE_ITEM_WORDS * 4)));
    f.set(to, i32.add(items, i32.mul(to, DECODE_ITEM_WORDS * 4)));
    f.while(
      () => i32.ltU(at.item, to),
      () => {
        emitStart(f, spec, layout, at, i32.add(q, i32.mul(word("query"), spec.heads * spec.keyDim * 4)), scale);
        f.set(entries, word("entries"));
        f.set(entriesEnd, word("entriesEnd"));
        f.while(
          () => i32.ltU(entries, entriesEnd),
          () => {
            const first = i32.load(entries);
            f.set(at.keys, i32.add(keys, i32.mul(first, spec.keys.stride)));
            f.set(at.values, i32.add(values, i32.mul(first, spec.values.stride)));
            for (const [side, name] of [["keys", "keyScales"] as const, ["values", "valueScales"] as const]) {
              const { scaleStride } = spec[side];
              if (scaleStride === 0) continue;
              f.set(at[name], i32.add(i32.load(options, OPTIONS[name]), i32.mul(first, scaleStride)));
            }
            f.set(at.count, i32.load(entries, 4));
            f.set(at.bits, i32.load(entries, 8));
            emitScores(f, spec, layout, at);
            emitSoftmax(f, spec, layout, at);
            emitValues(f, spec, layout, at);
            f.set(entries, i32.add(entries, ENTRY_BYTES));
          },
        );
        f.set(at.other, word("state"));
        f.if(
          at.other,
          () => emitMove(f, at, i32.add(scratch, layout.max), layout.end - layout.max, at.other),
          () => emitFinish(f, spec, layout, at, { out, stats, sinks, query: word("query") }),
        );
        f.set(at.item, i32.add(at.item, DECODE_ITEM_WORDS * 4));
      },
    );
  });
}

/** Scales the queries into scratch and empties the state. */
function emitStart(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  { scratch, at, other, end, work: [x, factor] }: DecodeLocals,
  queries: Parameters<typeof i32.add>[0],
  scale: Local<"f32">,
): void {
  const queryBytes = spec.heads * spec.keyDim * 4;
  f.set(factor, f32x4.splat(scale));
  f.set(at, i32.add(scratch, layout.queries));
  f.set(end, i32.add(at, queryBytes));
  f.set(other, queries);
  f.doWhile(
    () => {
      f.storeVector(at, f32x4.mul(v128.load(other), factor));
      f.set(at, i32.add(at, 16));
      f.set(other, i32.add(other, 16));
    },
    () => i32.ltU(at, end),
  );
  const fill = (from: number, to: number, value: number): void => {
    f.set(x, f32x4.const(value));
    f.set(at, i32.add(scratch, from));
    f.set(end, i32.add(scratch, to));
    f.while(
      () => i32.ltU(at, end),
      () => {
        f.storeVector(at, x);
        f.set(at, i32.add(at, 16));
      },
    );
  };
  fill(layout.max, layout.sum, LOWEST_SCORE);
  fill(layout.sum, layout.end, 0);
}

/**
 * Scores become probabilities; maximum, sum and factor are brought up to date. Meanwhile the first values are read ahead,
 * so that memory is not idle.
 */
function emitSoftmax(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: DecodeLocals): void {
  const { scratch, values, count, head, at, end, ahead, work } = locals;
  const [max, sum, result, r, n, x] = work;
  const aheadBytes = Math.min(64, 4 * Math.floor((spec.values.stride * 4) / layout.pitch));
  f.set(ahead, values);
  f.for(head, 0, layout.pitch, 16, () => {
    const eachKey = (body: () => void): void => {
      f.set(at, i32.add(i32.add(scratch, layout.scores), head));
      f.set(end, i32.add(at, i32.mul(count, layout.pitch)));
      f.doWhile(
        () => {
          body();
          f.set(at, i32.add(at, layout.pitch));
        },
        () => i32.ltU(at, end),
      );
    };
    const state = i32.add(scratch, head);
    f.set(x, v128.load(state, layout.max));
    f.set(max, x);
    eachKey(() => f.set(max, f32x4.pmax(max, v128.load(at))));
    emitExp(f, spec, result, f32x4.sub(x, max), [r, n]);
    f.storeVector(state, max, layout.max);
    f.storeVector(state, result, layout.factor);
    f.set(sum, f32x4.mul(v128.load(state, layout.sum), result));
    eachKey(() => {
      f.run(i32.load(ahead));
      f.set(ahead, i32.add(ahead, aheadBytes));
      emitExp(f, spec, result, f32x4.sub(v128.load(at), max), [r, n]);
      f.storeVector(at, result);
      f.set(sum, f32x4.add(sum, result));
    });
    f.storeVector(state, sum, layout.sum);
  });
}
