/**
 * Random masks and random inputs for them, for fast-check. Sizes are small, positions in any order and with gaps.
 */

import fc from "fast-check";
import {
  and,
  bidirectionalSpans,
  blockCausal,
  causal,
  chunked,
  dilated,
  full,
  globalTokens,
  type IntegerExpression,
  integer,
  lengths,
  lookup,
  type Mask,
  type MaskInputs,
  or,
  prefix,
  sameSegment,
  slidingWindow,
  table,
  tree,
  variable,
} from "../../src/mask/index.ts";

/** Parents of the one tree that random masks use; random nodes refer to it. */
export const PARENTS: readonly number[] = [-1, 0, 0, 1, 1, 2, -1, 6, 4];

const size: fc.Arbitrary<number> = fc.integer({ min: 1, max: 9 });
const reach = fc.oneof(size, fc.record({ left: fc.nat(6), right: fc.nat(6) }));

const leaf: fc.Arbitrary<Mask> = fc.oneof(
  fc.constantFrom(
    full(),
    causal(),
    sameSegment(),
    prefix(),
    bidirectionalSpans(),
    lengths(),
    table("t"),
    tree(PARENTS),
  ),
  reach.map(slidingWindow),
  fc.tuple(reach, fc.integer({ min: 1, max: 4 })).map(([r, step]) => dilated(r, step)),
  size.map(chunked),
  size.map(blockCausal),
  size.map((length) => prefix(length)),
  fc.array(fc.integer({ min: -3, max: 30 }), { maxLength: 4 }).map((positions) => globalTokens(positions)),
);

const { integers } = fc.letrec<{ integers: IntegerExpression }>((tie) => ({
  integers: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.constantFrom(
      variable("queryPosition"),
      variable("keyPosition"),
      variable("querySegment"),
      variable("keySegment"),
      variable("head"),
      variable("batch"),
      variable("keySlot"),
    ),
    fc.oneof(fc.integer({ min: -9, max: 20 }), fc.integer()).map(integer),
    tie("integers").map((index) => lookup("n", index)),
    fc
      .tuple(fc.constantFrom("add", "sub", "mul", "min", "max"), tie("integers"), tie("integers"))
      .map(([op, a, b]) => a[op](b)),
    fc
      .tuple(fc.constantFrom("floorDiv", "mod"), tie("integers"), fc.integer({ min: 1, max: 9 }))
      .map(([op, a, divisor]) => a[op](divisor)),
  ),
}));

/** Random integer expressions. */
export const integerArbitrary: fc.Arbitrary<IntegerExpression> = integers;

const comparison = fc
  .tuple(fc.constantFrom("eq", "ne", "lt", "le", "gt", "ge"), integers, integers)
  .map(([relation, a, b]) => a[relation](b));

/** Random masks over every operation. */
export const maskArbitrary: fc.Arbitrary<Mask> = fc.letrec<{ mask: Mask }>((tie) => ({
  mask: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    { arbitrary: leaf, weight: 4 },
    { arbitrary: comparison, weight: 2 },
    { arbitrary: fc.array(tie("mask"), { minLength: 1, maxLength: 3 }).map((masks) => and(...masks)), weight: 3 },
    { arbitrary: fc.array(tie("mask"), { minLength: 1, maxLength: 3 }).map((masks) => or(...masks)), weight: 3 },
    { arbitrary: tie("mask").map((mask) => mask.not()), weight: 1 },
  ),
})).mask;

/** Ascending, restarting, reversed, gapped or shuffled positions. */
function positions(length: number): fc.Arbitrary<Int32Array> {
  const ascending = fc
    .tuple(fc.integer({ min: -4, max: 20 }), fc.array(fc.integer({ min: 1, max: 4 }), rows(length)))
    .map(([first, steps]) => steps.map((_, i) => first + steps.slice(0, i).reduce((sum, step) => sum + step, 0)));
  const restarting = fc.integer({ min: 1, max: 12 }).map((n) => Array.from({ length }, (_, i) => i % n));
  const unordered = fc.array(fc.integer({ min: -5, max: 40 }), rows(length));
  const huge = fc.array(fc.constantFrom(0, 7, 2 ** 30 - 1, -(2 ** 30) + 1), rows(length));
  return fc
    .oneof(
      { arbitrary: ascending, weight: 4 },
      { arbitrary: ascending.map((list) => [...list].reverse()), weight: 1 },
      { arbitrary: restarting, weight: 2 },
      { arbitrary: unordered, weight: 2 },
      { arbitrary: huge, weight: 1 },
    )
    .map((list) => Int32Array.from(list));
}

function rows(length: number): { minLength: number; maxLength: number } {
  return { minLength: length, maxLength: length };
}

function ids(length: number, min: number, max: number): fc.Arbitrary<Int32Array> {
  const list = fc.array(fc.integer({ min, max }), rows(length));
  return fc
    .oneof(
      list,
      list.map((values) => values.sort((a, b) => a - b)),
    )
    .map((values) => Int32Array.from(values));
}

/** Random inputs with everything that `maskArbitrary` may need. */
export const inputsArbitrary: fc.Arbitrary<MaskInputs> = fc
  .record({
    batch: fc.integer({ min: 1, max: 2 }),
    queryLength: fc.integer({ min: 1, max: 13 }),
    keyLength: fc.integer({ min: 1, max: 29 }),
    heads: fc.constantFrom(1, 2, 6),
  })
  .chain((sizes) => {
    const { batch, queryLength, keyLength } = sizes;
    const perBatch = (length: number): fc.Arbitrary<Int32Array> =>
      fc
        .tuple(...Array.from({ length: batch }, () => positions(length)))
        .map((parts) => Int32Array.from(parts.flatMap((part) => [...part])));
    return fc
      .record({
        queryPositions: perBatch(queryLength),
        keyPositions: perBatch(keyLength),
        querySegments: ids(batch * queryLength, -1, 2),
        keySegments: ids(batch * keyLength, -1, 2),
        querySpans: ids(batch * queryLength, 0, 2),
        keySpans: ids(batch * keyLength, 0, 2),
        queryNodes: ids(batch * queryLength, -1, PARENTS.length - 1),
        keyNodes: ids(batch * keyLength, -1, PARENTS.length - 1),
        prefixLengths: ids(batch, 0, 20),
        lengths: ids(batch, 0, keyLength),
        table: fc.array(fc.constantFrom(0, 1, 1, 255), rows(batch * queryLength * keyLength)),
        integerTable: fc.array(fc.integer({ min: -5, max: 30 }), { maxLength: 12 }),
      })
      .map(({ table: cells, integerTable, ...given }) => ({
        ...sizes,
        ...given,
        tables: { t: Uint8Array.from(cells) },
        integerTables: { n: Int32Array.from(integerTable) },
      }));
  });
