/**
 * Random attention requests over masks, groups of heads, key-value layouts, selections and modifiers, for fast-check.
 */

import fc from "fast-check";
import {
  type AttentionRequest,
  type KeyValues,
  quantizeKv,
  type SelectRequest,
  scoreModifier,
  selectionFromTable,
} from "../../src/attention/index.ts";
import { type Mask, type MaskInputs, requirements } from "../../src/mask/index.ts";
import { type Tensor, tensor, zeros } from "../../src/tensor.ts";
import { inputsArbitrary, maskArbitrary } from "./mask-arbitraries.ts";
import { values } from "./values.ts";

const D = 3;
const DV = 2;

/** Modifiers, each with even odds of being there. */
const modifiers = fc.record({
  softcap: fc.boolean(),
  scoreModifier: fc.boolean(),
  alibi: fc.boolean(),
  bias: fc.boolean(),
  sinks: fc.boolean(),
  dropout: fc.boolean(),
});

const layouts = fc.record({
  layout: fc.constantFrom("tensors", "contiguous", "ring", "paged"),
  quantized: fc.boolean(),
  spare: fc.nat(3),
  page: fc.constantFrom(1, 3, 5),
});

const selects = fc.oneof(
  { arbitrary: fc.constant(undefined), weight: 2 },
  fc.record({
    kind: fc.constant("moba" as const),
    chunk: fc.integer({ min: 1, max: 9 }),
    topk: fc.integer({ min: 1, max: 3 }),
  }),
  fc.record({ kind: fc.constant("indexer" as const), topk: fc.integer({ min: 1, max: 6 }) }),
  fc.record({ kind: fc.constant("keys" as const), modulus: fc.integer({ min: 2, max: 5 }) }),
);

/** Random requests; sizes are small. */
export const requestArbitrary: fc.Arbitrary<AttentionRequest> = fc
  .tuple(maskArbitrary, inputsArbitrary, fc.constantFrom(1, 2, 3), modifiers, layouts, selects, fc.nat(99))
  .map(([mask, inputs, group, chosen, stored, select, salt]) => {
    const { batch: B, queryLength: Tq, keyLength: Tk, heads: H } = inputs;
    const Hk = H % group === 0 ? H / group : H;
    const { querySpans, keySpans, queryNodes, keyNodes, prefixLengths, lengths, tables, integerTables } = inputs;
    const optional = { querySpans, keySpans, queryNodes, keyNodes, prefixLengths, lengths, tables, integerTables };
    const perHead = Array.from({ length: H }, (_, h) => 0.3 * (h + 1));
    const numbers = {
      q: values([B, Tq, H, D], salt),
      ...(chosen.softcap ? { softcap: 0.7 } : {}),
      ...(chosen.scoreModifier ? { scoreModifier: MODIFIER } : {}),
      ...(chosen.alibi ? { alibiSlopes: perHead } : {}),
      ...(chosen.bias ? { bias: values([H, 1, Tk], salt + 3) } : {}),
      ...(chosen.sinks ? { sinks: perHead } : {}),
      ...(chosen.dropout ? { dropout: { rate: 0.4, seed: salt } } : {}),
    };
    const wanted = selectOf(select, mask, inputs, salt);
    return {
      ...numbers,
      ...(optional as object),
      mask,
      queryPositions: inputs.queryPositions,
      querySegments: inputs.querySegments as Int32Array,
      ...(wanted === undefined ? {} : { select: wanted }),
      ...keysOf(inputs, Hk, stored, salt),
    } as AttentionRequest;
  });

const MODIFIER = scoreModifier(({ score, qPosition, kvPosition, head, qSegment }) =>
  score.sub(qPosition.sub(kvPosition).abs().min(40).mul(0.05)).add(head.mul(0.1)).max(qSegment.mul(0.25).sub(3)),
);

function selectOf(
  select:
    | { kind: "moba"; chunk: number; topk: number }
    | { kind: "indexer"; topk: number }
    | { kind: "keys"; modulus: number }
    | undefined,
  mask: Mask,
  { batch: B, queryLength: Tq, keyLength: Tk }: MaskInputs,
  salt: number,
): SelectRequest | undefined {
  if (select === undefined || select.kind === "moba") return select;
  if (select.kind === "keys") {
    const keep = Uint8Array.from({ length: B * Tq * Tk }, (_, n) => ((n * 7 + salt) % select.modulus === 0 ? 0 : 1));
    return selectionFromTable(tensor("u8", [B, Tq, Tk], keep));
  }
  if (requirements(mask).headDependent) return undefined; // which the indexer refuses
  return {
    kind: "indexer",
    topk: select.topk,
    queries: values([B, Tq, 2, 2], salt + 5),
    keys: values([B, Tk, 2], salt + 6),
    weights: values([B, Tq, 2], salt + 7),
  };
}

function keysOf(
  { batch: B, keyLength: Tk, keyPositions, keySegments }: MaskInputs,
  Hk: number,
  { layout, quantized, spare, page }: { layout: string; quantized: boolean; spare: number; page: number },
  salt: number,
) {
  const k = values([B, Tk, Hk, D], salt + 1);
  const v = values([B, Tk, Hk, DV], salt + 2);
  if (layout === "tensors") return { k, v, keyPositions, keySegments };
  const pages = Math.ceil(Tk / page);
  const capacity = Tk + spare;
  /** Rows [B, Tk] put where the layout has them, in storage full of a number that would be noticed. */
  const store = (rows: Tensor<"f32">): Tensor<"f32"> => {
    const width = rows.shape[2] * rows.shape[3];
    const shape =
      layout === "paged"
        ? [B * pages, page, ...rows.shape.slice(2)]
        : [B, layout === "ring" ? capacity : Tk, ...rows.shape.slice(2)];
    const target = zeros("f32", shape);
    target.data.fill(1e6);
    for (let b = 0; b < B; b++) {
      for (let s = 0; s < Tk; s++) {
        const from = (b * Tk + s) * width;
        const to = (layout === "paged" ? pageOf(b, s) * page + (s % page) : b * shape[1] + placeOf(b, s)) * width;
        target.data.set(rows.data.subarray(from, from + width), to);
      }
    }
    return target;
  };
  const pageOf = (b: number, s: number): number => B * pages - 1 - (b * pages + Math.floor(s / page)); // last page first
  const starts = Int32Array.from({ length: B }, (_, b) => (salt + b) % capacity);
  const placeOf = (b: number, s: number): number => (layout === "ring" ? (starts[b] + s) % capacity : s);
  const kv: KeyValues = {
    layout: layout as "contiguous",
    keys: quantized ? quantizeKv(store(k), { bits: 8 }) : store(k),
    values: store(v),
    positions: keyPositions,
    segments: keySegments as Int32Array,
    lengths: Int32Array.from({ length: B }, (_, b) => Math.max(0, Tk - ((salt + 3 * b) % 5))),
    ...(layout === "ring" ? { starts } : {}),
    ...(layout === "paged"
      ? {
          pageTable: tensor(
            "i32",
            [B, pages],
            Int32Array.from({ length: B * pages }, (_, n) => pageOf(Math.floor(n / pages), (n % pages) * page)),
          ),
        }
      : {}),
  };
  return { kv };
}
