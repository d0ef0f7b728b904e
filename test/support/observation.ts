/** Layers for compression policies to look at. */

import {
  attentionMassOf,
  type HeadRows,
  headMajorRows,
  type Observation,
  type ScorePolicy,
  scorePolicy,
} from "../../src/compress/index.ts";
import type { RotaryLayer } from "../../src/rope/index.ts";
import { values } from "./values.ts";

/** A rotation of 4 dims. */
export const ROTARY: RotaryLayer = {
  headDim: 4,
  rotaryDim: 4,
  rotaryOffset: 0,
  pairing: "half",
  schedule: { type: "default", dim: 4, theta: 100 },
};

/** Rows from nested lists [heads][T][dim]; heads may differ in length. */
export function rowsFrom(heads: readonly (readonly (readonly number[])[])[]): HeadRows {
  const dim = heads[0][0].length;
  const lengths = heads.map((rows) => rows.length);
  const starts = lengths.map((_, head) => dim * lengths.slice(0, head).reduce((sum, length) => sum + length, 0));
  return { data: Float32Array.from(heads.flat(2)), dim, starts, stride: dim, lengths };
}

/** One layer from lists of keys (and values), without rotation, at positions 0, 1, 2, … and with scale 1. */
export function layerOf(
  keys: readonly (readonly (readonly number[])[])[],
  more: Partial<Observation> & { readonly valueLists?: readonly (readonly (readonly number[])[])[] } = {},
): Observation {
  const { valueLists = keys, ...rest } = more;
  return {
    ...{ layer: 0, layers: 1, heads: keys.length, scale: 1, rotary: null },
    nextPosition: Math.max(...keys.map((rows) => rows.length)),
    keys: rowsFrom(keys),
    values: rowsFrom(valueLists),
    positions: keys.map((rows) => Int32Array.from(rows.keys())),
    ...rest,
  };
}

/** Random layers with all that any policy may need: T tokens, 6 query heads over 2 of 4 dims, values of 3. */
export function randomLayers(T: number, layers = 3, salt = 1): Observation[] {
  const [heads, kvHeads, D, Dv, C] = [6, 2, 4, 3, 5];
  const positions = Int32Array.from({ length: T }, (_, i) => i);
  return Array.from({ length: layers }, (_, layer) => {
    const rows = (count: number, width: number, kind: number): HeadRows =>
      headMajorRows(values([count, T, width], 100 * salt + 10 * layer + kind).data, count, width);
    const queries = { rows: rows(heads, D, 1), positions };
    const base: Observation = {
      ...{ layer, layers, heads, scale: 1 / Math.sqrt(D), rotary: ROTARY, nextPosition: T },
      keys: rows(kvHeads, D, 2),
      values: rows(kvHeads, Dv, 3),
      positions: Array.from({ length: kvHeads }, () => positions),
    };
    return {
      ...base,
      queries,
      unrotatedQueries: { rows: rows(heads, D, 4), positions },
      unrotatedKeys: rows(kvHeads, D, 5),
      attentionMass: attentionMassOf(base, queries),
      outputProjection: values([C, heads * Dv], salt + layer).data,
      questionTokens: 3,
      repeats: [
        {
          ...{ start: 0, end: T },
          queries: rows(heads, D, 6),
          keys: rows(kvHeads, D, 7),
          inputNorms: Float64Array.from(positions, (p) => 1 + p),
        },
      ],
    };
  });
}

/** A policy whose scores are given. */
export function fixedScores(rows: readonly (readonly number[])[], more: Partial<ScorePolicy> = {}): ScorePolicy {
  const { protects, moments, comparable } = more;
  return scorePolicy({
    name: "fixed",
    score: () => rows.map((row) => Float64Array.from(row)),
    ...(protects === undefined ? {} : { protects }),
    ...(moments === undefined ? {} : { moments }),
    ...(comparable === undefined ? {} : { comparable }),
  });
}

/** Keys of one dim, all zero: a layer of which only the number of tokens matters. */
export function blankLayer(...lengths: number[]): Observation {
  return layerOf(lengths.map((length) => Array.from({ length }, () => [0])));
}

/** Kept slots as plain lists [layers][Hk]. */
export function keptOf(plans: readonly { readonly kept: readonly Int32Array[] }[]): number[][][] {
  return plans.map(({ kept }) => kept.map((slots) => [...slots]));
}
