/**
 * Work items and scratch memory of the decode kernel, and how a query's rows are written.
 */

import { f32, f32x4, i32, v128 } from "../assembler/expression.ts";
import type { FunctionBuilder, Local } from "../assembler/function.ts";
import { loadedUnit, type ReadLocals } from "./attention-decode-elements.ts";
import type { KvType } from "./attention-elements.ts";
import { TILE_KEYS } from "./attention-scratch.ts";
import { emitExp, type FloatingMode } from "./vector-math.ts";

/** What the generated code is specialised for. */
export type DecodeSpec = FloatingMode & {
  /** H. */
  readonly heads: number;
  /** G, query heads per key-value head. */
  readonly group: number;
  /** D, a multiple of 4. */
  readonly keyDim: number;
  /** Dv, a multiple of 4. */
  readonly valueDim: number;
  readonly keys: DecodeSide;
  readonly values: DecodeSide;
};

/** How keys or values are stored; the heads of a token follow each other. */
export type DecodeSide = {
  readonly type: KvType;
  /** Bytes from one token to the next. */
  readonly stride: number;
  /** Bytes from the scale of one token to that of the next, and of one head to that of the next; 0 where there is none. */
  readonly scaleStride: number;
  readonly scaleHead: number;
};

/** The heads of a group, at most four at a time, evenly. */
export function rowBlocks(group: number): { readonly first: number; readonly rows: number }[] {
  const blocks = Math.ceil(group / 4);
  const start = (block: number): number => Math.ceil((group * block) / blocks);
  return Array.from({ length: blocks }, (_, n) => ({ first: start(n), rows: start(n + 1) - start(n) }));
}

/**
 * Tokens that go through the loops together: two where there is so much arithmetic that one stream through memory is
 * not all that counts.
 */
function tokensAtOnce({ type }: DecodeSide, { group }: DecodeSpec): 1 | 2 {
  return group > 2 || type !== "f32" ? 2 : 1;
}

/** Keys or values of a tile, and the pointer that goes along its scores. */
export type TokenLoop = {
  readonly side: DecodeSide;
  /** Address of the first row. */
  readonly start: Local<"i32">;
  readonly scores: Local<"i32">;
};

/** Goes through the tokens of a tile, as many at once as the kernel takes, with `row`, `key` and `scores` at the first of them. */
export function emitTokenLoop(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  { scratch, count, key, row }: DecodeLocals,
  { side, start, scores }: TokenLoop,
  emitTokens: (wide: 1 | 2) => void,
): void {
  f.set(scores, i32.add(scratch, layout.scores));
  f.set(row, start);
  f.set(key, 0);
  for (const wide of tokensAtOnce(side, spec) === 2 ? ([2, 1] as const) : ([1] as const)) {
    f.while(
      () => i32.leS(i32.add(key, wide), count),
      () => {
        emitTokens(wide);
        f.set(row, i32.add(row, wide * side.stride));
        f.set(scores, i32.add(scores, wide * layout.pitch));
        f.set(key, i32.add(key, wide));
      },
    );
  }
}

/** One work item, i32 words. */
export const DECODE_ITEM = {
  /** The query, among all queries. */
  query: 0,
  /** Address of the first entry, see `ENTRY_BYTES`, and of what follows the last. */
  entries: 1,
  entriesEnd: 2,
  /** Address where the state goes when other items have the rest of the keys; 0: write the output. */
  state: 3,
} as const;

/** Words of a work item. */
export const DECODE_ITEM_WORDS = 4;

/** Offsets of the scratch memory, in bytes. What lies from `max` to `end` is the state. */
export type DecodeScratch = {
  /** f32 [H][D], scaled. */
  readonly queries: number;
  /** f32 [decodeKeys][Hp], heads padded to whole vectors. */
  readonly scores: number;
  /** f32 [Hp] each. */
  readonly factor: number;
  readonly max: number;
  readonly sum: number;
  /** f32 [H][Dv], see `loadedUnit`. */
  readonly output: number;
  readonly end: number;
  /** Bytes of a row of scores. */
  readonly pitch: number;
};

/**
 * Most keys of an entry: so many that turning from keys to values and back is rare, as long as their scores stay in the
 * caches.
 */
export function decodeKeys(heads: number): number {
  return Math.max(TILE_KEYS, Math.floor(32768 / scoresPitch(heads)));
}

/** Bytes of the scores of a key, heads padded to whole vectors. */
function scoresPitch(heads: number): number {
  return Math.ceil(heads / 4) * 16;
}

/** Lays out the scratch memory. */
export function decodeScratch({ heads, keyDim, valueDim }: DecodeSpec): DecodeScratch {
  const pitch = scoresPitch(heads);
  const scores = heads * keyDim * 4;
  const factor = scores + decodeKeys(heads) * pitch;
  const max = factor + pitch;
  const output = max + 2 * pitch;
  return { queries: 0, scores, factor, max, sum: max + pitch, output, end: output + heads * valueDim * 4, pitch };
}

/** Locals of the decode kernels. */
export type DecodeLocals = ReadLocals &
  Record<
    | "item"
    | "scratch"
    | "keys"
    | "values"
    | "keyScales"
    | "valueScales"
    | "count"
    | "bits"
    | "key"
    | "scale"
    | "head"
    | "at"
    | "other"
    | "end"
    | "from"
    | "into",
    Local<"i32">
  > & { readonly work: readonly Local<"v128">[]; readonly value: Local<"f32">; readonly total: Local<"f32"> };

/** Makes the locals that are not parameters. */
export function createDecodeLocals(f: FunctionBuilder, scratch: Local<"i32">): DecodeLocals {
  const integer = (name: string): Local<"i32"> => f.local(name, "i32");
  return {
    scratch,
    item: integer("item"),
    keys: integer("tileKeys"),
    values: integer("tileValues"),
    keyScales: integer("tileKeyScales"),
    valueScales: integer("tileValueScales"),
    count: integer("count"),
    bits: integer("bits"),
    key: integer("key"),
    row: integer("row"),
    scale: integer("scaleAt"),
    ahead: integer("ahead"),
    aheadEnd: integer("aheadEnd"),
    head: integer("head"),
    at: integer("at"),
    other: integer("other"),
    end: integer("end"),
    from: integer("from"),
    into: integer("into"),
    element: integer("element"),
    bytesToTop: f.local("bytesToTop", "v128"),
    halvesToTop: f.local("halvesToTop", "v128"),
    top: f.local("top", "v128"),
    work: f.vectors("v", 14),
    value: f.local("value", "f32"),
    total: f.local("total", "f32"),
  };
}

/** Copies `bytes`, a multiple of 16. */
export function emitMove(
  f: FunctionBuilder,
  { at, end, into, work: [x] }: DecodeLocals,
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

/** Where results go, and the query's index. */
export type DecodeResults = Record<"out" | "stats" | "sinks", Local<"i32">> & {
  readonly query: ReturnType<typeof i32.load>;
};

/** Divides by the sums, sinks included, and writes the rows of the query. */
export function emitFinish(
  f: FunctionBuilder,
  spec: DecodeSpec,
  layout: DecodeScratch,
  locals: DecodeLocals,
  { out, stats, sinks, query }: DecodeResults,
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
    const unit = loadedUnit(spec.values);
    if (unit !== 1) f.set(factor, f32x4.mul(factor, f32x4.const(unit)));
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
