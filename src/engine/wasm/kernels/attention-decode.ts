/**
 * Attention of one query per key-value head: the step of a decoder without grouped queries.
 *
 * There is nothing to reuse here, every key and value is met by one query, so memory sets the pace. A work item is a run
 * of keys for all heads at once, and keys and values are read as they lie, token by token with all heads, front to back,
 * which is the order that prefetchers follow:
 *
 *     s[key][head] = k[key][head] · q[head]        m, p, l as ever, vertical over heads
 *     o[head]      = o[head]·exp(m − m') + Σ_key p[key][head]·v[key][head]      four keys at a time
 */

import { f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
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
import { ENTRY_BYTES, LOWEST_SCORE } from "./attention-tile.ts";
import { emitExp, emitSum, emitSumFour, fma } from "./vector-math.ts";

/**
 * Adds `attendOne(from, to, items, q, keys, values, out, stats, sinks, scale, scratch)`: items from … to − 1 of a list.
 * Shapes as for `attend`, with G = 1.
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
    const scratch = f.parameter("scratch", "i32");
    const at = createDecodeLocals(f, scratch);
    const entries = f.local("entries", "i32");
    const entriesEnd = f.local("entriesEnd", "i32");
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
            f.set(at.keys, i32.add(i32.add(keys, word("keys")), i32.mul(first, spec.keyStride)));
            f.set(at.values, i32.add(i32.add(values, word("values")), i32.mul(first, spec.valueStride)));
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
 * scores[key][head]; −Infinity for keys that are not seen. One key at a time: two would share the loads of the query, but
 * two streams through memory were measured to be slower than one.
 */
function emitScores(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: DecodeLocals): void {
  const { scratch, keys, count, bits, key, head, at, other, end, into, work } = locals;
  const dots = work.slice(0, 4);
  const sums = work.slice(4, 8);
  const step = spec.keyDim % 16 === 0 ? 4 : 1;
  /** dot = k[key][head] · q[head], four partial sums; advances both pointers by a head. */
  const emitDot = (dot: Local<"v128">): void => {
    f.set(end, i32.add(other, spec.keyDim * 4));
    for (let n = 0; n < step; n++) f.set(sums[n], f32x4.const(0));
    f.doWhile(
      () => {
        for (let n = 0; n < step; n++) {
          f.set(sums[n], fma(spec, v128.load(at, n * 16), v128.load(other, n * 16), sums[n]));
        }
        f.set(at, i32.add(at, step * 16));
        f.set(other, i32.add(other, step * 16));
      },
      () => i32.ltU(other, end),
    );
    const total = step === 1 ? sums[0] : f32x4.add(f32x4.add(sums[0], sums[1]), f32x4.add(sums[2], sums[3]));
    f.set(dot, total);
  };
  const whole = spec.heads - (spec.heads % 4);
  f.set(into, i32.add(scratch, layout.scores));
  f.for(key, 0, count, 1, () => {
    f.set(at, i32.add(keys, i32.mul(key, spec.keyStride)));
    f.set(other, i32.add(scratch, layout.queries));
    f.for(head, 0, whole, 4, () => {
      for (const dot of dots) emitDot(dot);
      const [a, b, c, d] = dots;
      f.storeVector(i32.add(into, i32.shl(head, 2)), emitSumFour(f, [a, b, c, d]));
    });
    for (let rest = whole; rest < spec.heads; rest++) {
      emitDot(dots[0]);
      f.store("f32.store", into, emitSum(f, dots[0]), rest * 4);
    }
    f.if(bits, () => {
      f.if(i32.eqz(i32.and(i32.load8u(i32.add(bits, key)), 1)), () => {
        for (let group = 0; group < layout.pitch; group += 16) f.storeVector(into, f32x4.const(-Infinity), group);
      });
    });
    f.set(into, i32.add(into, layout.pitch));
  });
}

/** Scores become probabilities; maximum, sum and factor are brought up to date. */
function emitSoftmax(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: DecodeLocals): void {
  const { scratch, count, head, at, end, work } = locals;
  const [max, sum, result, r, n, x] = work;
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
      emitExp(f, spec, result, f32x4.sub(v128.load(at), max), [r, n]);
      f.storeVector(at, result);
      f.set(sum, f32x4.add(sum, result));
    });
    f.storeVector(state, sum, layout.sum);
  });
}

/** output = output · factor + probabilities · values. */
function emitValues(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: DecodeLocals): void {
  const { scratch, values, count, key, head, at, other, end, into, work } = locals;
  const rowBytes = spec.valueDim * 4;
  const step = spec.valueDim % 8 === 0 ? 2 : 1; // four values and the output, twice: ten loads
  const [p0] = work;
  /** Runs `body` for every step of vectors of head `head`'s output, `into` its address. */
  const eachStep = (body: () => void, advance: () => void): void => {
    f.set(end, i32.add(into, rowBytes));
    f.doWhile(
      () => {
        body();
        advance();
        f.set(into, i32.add(into, step * 16));
      },
      () => i32.ltU(into, end),
    );
  };
  f.set(into, i32.add(scratch, layout.output));
  f.for(head, 0, spec.heads, 1, () => {
    f.set(p0, v128.load32Splat(i32.add(scratch, i32.shl(head, 2)), layout.factor));
    eachStep(
      () => {
        for (let n = 0; n < step; n++) f.storeVector(into, f32x4.mul(v128.load(into, n * 16), p0), n * 16);
      },
      () => {},
    );
  });
  const block = (wide: 1 | 4): void => {
    const probabilities = work.slice(0, wide);
    const scores = i32.add(scratch, i32.add(layout.scores, i32.mul(key, layout.pitch)));
    f.set(at, i32.add(values, i32.mul(key, spec.valueStride)));
    f.set(into, i32.add(scratch, layout.output));
    f.for(head, 0, spec.heads, 1, () => {
      f.set(other, i32.add(scores, i32.shl(head, 2)));
      for (const [n, p] of probabilities.entries()) f.set(p, v128.load32Splat(other, n * layout.pitch));
      eachStep(
        () => {
          for (let n = 0; n < step; n++) {
            let sum: V128 = v128.load(into, n * 16);
            for (const [row, p] of probabilities.entries()) {
              sum = fma(spec, v128.load(at, row * spec.valueStride + n * 16), p, sum);
            }
            f.storeVector(into, sum, n * 16);
          }
        },
        () => f.set(at, i32.add(at, step * 16)),
      );
    });
    f.set(key, i32.add(key, wide));
  };
  f.set(key, 0);
  for (const wide of [4, 1] as const) {
    f.while(
      () => i32.leS(i32.add(key, wide), count),
      () => block(wide),
    );
  }
}
