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

import { f32, f32x4, i32, type V128, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import type { ModuleBuilder } from "../assembler/module.ts";
import { ENTRY_BYTES } from "./attention-tile.ts";
import { emitExp, emitSum, emitSumFour, type FloatingMode, fma } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type DecodeSpec = FloatingMode & {
  /** H = Hk. */
  readonly heads: number;
  /** D, a multiple of 4. */
  readonly keyDim: number;
  /** Dv, a multiple of 4. */
  readonly valueDim: number;
  /** Bytes from one key to the next of the same head; heads follow each other. */
  readonly keyStride: number;
  readonly valueStride: number;
};

/** One work item, i32 words. */
export const DECODE_ITEM = {
  /** The query, among all queries. */
  query: 0,
  /** Where stored row 0 is, in bytes from the first key and the first value. */
  keys: 1,
  values: 2,
  /** Address of the first entry, see `ENTRY_BYTES`, and of what follows the last. */
  entries: 3,
  entriesEnd: 4,
  /** Address where the state goes when other items have the rest of the keys; 0: write the output. */
  state: 5,
} as const;

/** Words of a work item. */
export const DECODE_ITEM_WORDS = 6;

const TILE_KEYS = 64;
const LOWEST_SCORE = -3.4e38;

/** Offsets of the scratch memory, in bytes. What lies from `max` to `end` is the state. */
export type DecodeScratch = {
  /** f32 [H][D], scaled. */
  readonly queries: number;
  /** f32 [TILE_KEYS][Hp], heads padded to whole vectors. */
  readonly scores: number;
  /** f32 [Hp] each. */
  readonly factor: number;
  readonly max: number;
  readonly sum: number;
  /** f32 [H][Dv]. */
  readonly output: number;
  readonly end: number;
  /** Bytes of a row of scores. */
  readonly pitch: number;
};

/** Lays out the scratch memory. */
export function decodeScratch({ heads, keyDim, valueDim }: DecodeSpec): DecodeScratch {
  const pitch = Math.ceil(heads / 4) * 16;
  const scores = heads * keyDim * 4;
  const factor = scores + TILE_KEYS * pitch;
  const max = factor + pitch;
  const output = max + 2 * pitch;
  return { queries: 0, scores, factor, max, sum: max + pitch, output, end: output + heads * valueDim * 4, pitch };
}

type Locals = Record<
  "item" | "scratch" | "keys" | "values" | "count" | "bits" | "key" | "head" | "at" | "other" | "end" | "into",
  Local<"i32">
> & { readonly work: readonly Local<"v128">[]; readonly value: Local<"f32">; readonly total: Local<"f32"> };

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
    const at = createLocals(f, scratch);
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
  emitDecodeMerge(module, spec);
}

function createLocals(f: FunctionBuilder, scratch: Local<"i32">): Locals {
  const integer = (name: string): Local<"i32"> => f.local(name, "i32");
  return {
    scratch,
    item: integer("item"),
    keys: integer("tileKeys"),
    values: integer("tileValues"),
    count: integer("count"),
    bits: integer("bits"),
    key: integer("key"),
    head: integer("head"),
    at: integer("at"),
    other: integer("other"),
    end: integer("end"),
    into: integer("into"),
    work: f.vectors("v", 14),
    value: f.local("value", "f32"),
    total: f.local("total", "f32"),
  };
}

/** Scales the queries into scratch and empties the state. */
function emitStart(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  { scratch, at, other, end, work: [x, factor] }: Locals,
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
function emitScores(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: Locals): void {
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
function emitSoftmax(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: Locals): void {
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
function emitValues(f: FunctionBuilder, spec: DecodeSpec, layout: DecodeScratch, locals: Locals): void {
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

/** Copies `bytes`, a multiple of 16. */
function emitMove(
  f: FunctionBuilder,
  { at, end, into, work: [x] }: Locals,
  from: Parameters<typeof i32.add>[0],
  bytes: number,
  to: Local<"i32">,
): void {
  f.set(at, from);
  f.set(end, i32.add(at, bytes));
  f.set(into, to);
  f.doWhile(
    () => {
      f.set(x, v128.load(at));
      f.storeVector(into, x);
      f.set(at, i32.add(at, 16));
      f.set(into, i32.add(into, 16));
    },
    () => i32.ltU(at, end),
  );
}

type Results = Record<"out" | "stats" | "sinks", Local<"i32">> & { readonly query: ReturnType<typeof i32.load> };

/** Divides by the sums, sinks included, and writes the rows of the query. */
function emitFinish(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  locals: Locals,
  { out, stats, sinks, query }: Results,
): void {
  const { scratch, head, at, other, end, into, value, total, work } = locals;
  const [own, theirs, r, n, factor] = work;
  const rowBytes = spec.valueDim * 4;
  f.set(into, i32.add(out, i32.mul(query, spec.heads * rowBytes)));
  f.set(at, i32.add(scratch, layout.output));
  f.for(head, 0, spec.heads, 1, () => {
    const lane = i32.add(scratch, i32.shl(head, 2));
    f.set(value, f32.load(lane, layout.max));
    f.set(total, f32.load(lane, layout.sum));
    f.if(stats, () => {
      f.set(other, i32.add(stats, i32.shl(i32.add(i32.mul(query, spec.heads), head), 3)));
      f.store("f32.store", other, value);
      f.store("f32.store", other, total, 4);
    });
    f.set(factor, f32x4.const(0));
    f.if(f32.gt(total, 0), () => {
      f.set(factor, f32x4.splat(f32.div(1, total)));
      f.if(sinks, () => {
        // Relative to the greater of the two, so that nothing overflows.
        const sink = f32.load(i32.add(sinks, i32.shl(head, 2)));
        f.set(theirs, f32x4.splat(sink));
        f.set(own, f32x4.splat(value));
        f.set(factor, f32x4.pmax(own, theirs));
        emitExp(f, spec, own, f32x4.sub(own, factor), [r, n]);
        emitExp(f, spec, theirs, f32x4.sub(theirs, factor), [r, n]);
        f.set(factor, f32x4.div(own, f32x4.add(f32x4.mul(f32x4.splat(total), own), theirs)));
      });
    });
    f.set(end, i32.add(at, rowBytes));
    f.doWhile(
      () => {
        f.storeVector(into, f32x4.mul(v128.load(at), factor));
        f.set(at, i32.add(at, 16));
        f.set(into, i32.add(into, 16));
      },
      () => i32.ltU(at, end),
    );
  });
}

/**
 * Adds `mergeOne(from, to, merges, items, out, stats, sinks, scratch)`: merges of i32 pairs {first item, after the last},
 * whose states are joined and whose rows are written.
 */
function emitDecodeMerge(module: ModuleBuilder, spec: DecodeSpec): void {
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
    const at = createLocals(f, scratch);
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
  { scratch, head, at, other, end, work }: Locals,
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
