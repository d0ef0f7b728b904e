/**
 * The sparse indexer: small heads score every key, and a query attends to the visible keys of the highest scores.
 *
 *     score(i, j) = weightScale · Σ_h weights_ih · relu(queries_ih · keys_j)
 *
 * @see https://github.com/deepseek-ai/DeepSeek-V3.2-Exp DeepSeek Sparse Attention
 */

import { ConfigError, ShapeError } from "../errors.ts";
import { maskPredicate, requirements } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import type { KeySelection } from "./selection.ts";
import type { AttentionSpec, RealTensor } from "./spec.ts";
import { largestIndices } from "./top-k.ts";

/** What an indexer scores keys with; the batch axis may be absent from all three together. */
export type IndexerInputs = {
  /** [B, Tq, Hi, Di], rotated as the indexer wants. */
  readonly queries: RealTensor;
  /** [B, Tk, Di]. */
  readonly keys: RealTensor;
  /** [B, Tq, Hi]. */
  readonly weights: RealTensor;
  /** Factor of all scores; default 1. */
  readonly weightScale?: number;
};

/** Attend to the keys of the highest scores. */
export type IndexerSelect = IndexerInputs & {
  readonly kind: "indexer";
  /** Keys that a query sees at most, at least 1. */
  readonly topk: number;
};

/**
 * The scores of all pairs, before any mask.
 *
 * @returns f64 [B, Tq, Tk], without the batch axis if the inputs have none
 * @throws ShapeError when the inputs do not fit together
 */
export function indexerScores(inputs: IndexerInputs): Tensor<"f64"> {
  const { batched, B, Tq, Tk } = indexerDims(inputs);
  const scores = new Float64Array(B * Tq * Tk);
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Tq; i++) {
      for (let j = 0; j < Tk; j++) scores[(b * Tq + i) * Tk + j] = score(inputs, b * Tq + i, b * Tk + j);
    }
  }
  return tensor("f64", batched ? [B, Tq, Tk] : [Tq, Tk], scores);
}

/** The visible keys of the highest scores; of equal scores the lower slot wins; all when there are at most `topk`. */
export function selectTopKeys(spec: AttentionSpec, select: IndexerSelect): KeySelection {
  const { topk, weightScale = 1 } = select;
  if (!Number.isSafeInteger(topk) || topk < 1) {
    throw new ConfigError("indexer", "topk must be a positive integer", { topk });
  }
  if (!Number.isFinite(weightScale)) {
    throw new ConfigError("indexer", "weightScale must be a finite number", { weightScale });
  }
  if (requirements(spec.mask).headDependent) {
    throw new ConfigError(
      "indexer",
      "the mask must be the same for all heads",
      { mask: spec.mask.toString() },
      "The indexer keeps one list of keys for all heads.",
    );
  }
  const { B, Tq, Tk } = spec.dims;
  const dims = indexerDims(select);
  if (dims.B !== B || dims.Tq !== Tq || dims.Tk !== Tk) {
    throw new ShapeError("indexer", `queries and keys must be for B=${B}, Tq=${Tq}, Tk=${Tk}`, {
      queries: select.queries.shape,
      keys: select.keys.shape,
    });
  }
  const visible = maskPredicate(spec.mask, spec.maskInputs);
  const rowPointers = new Int32Array(B * Tq + 1);
  const columns: number[] = [];
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Tq; i++) {
      const candidates: number[] = [];
      for (let j = 0; j < Tk; j++) if (visible(b, 0, i, j)) candidates.push(j);
      const scores = candidates.map((j) => score(select, b * Tq + i, b * Tk + j));
      for (const n of largestIndices(scores, topk)) columns.push(candidates[n]);
      rowPointers[b * Tq + i + 1] = columns.length;
    }
  }
  return { kind: "keys", shape: [B, Tq, Tk], rowPointers, columns: Int32Array.from(columns) };
}

function score({ queries, keys, weights, weightScale = 1 }: IndexerInputs, query: number, key: number): number {
  const [heads, depth] = queries.shape.slice(-2);
  let sum = 0;
  for (let h = 0; h < heads; h++) {
    let dot = 0;
    for (let d = 0; d < depth; d++) dot += queries.data[(query * heads + h) * depth + d] * keys.data[key * depth + d];
    sum += weights.data[query * heads + h] * Math.max(0, dot);
  }
  return weightScale * sum;
}

function indexerDims({ queries, keys, weights }: IndexerInputs): {
  batched: boolean;
  B: number;
  Tq: number;
  Tk: number;
} {
  const batched = queries.shape.length === 4;
  const q = batched ? queries.shape : [1, ...queries.shape];
  const k = batched ? keys.shape : [1, ...keys.shape];
  const w = batched ? weights.shape : [1, ...weights.shape];
  if (q.length !== 4 || k.length !== 3 || w.length !== 3) {
    throw new ShapeError(
      "indexer",
      "queries must be [B, Tq, Hi, Di], keys [B, Tk, Di] and weights [B, Tq, Hi]",
      { queries: queries.shape, keys: keys.shape, weights: weights.shape },
      "Add or drop the batch axis of all three.",
    );
  }
  const fits = k[0] === q[0] && k[2] === q[3] && w.join() === q.slice(0, 3).join();
  if (!fits) {
    throw new ShapeError("indexer", "queries, keys and weights must have the same batch, heads and depth", {
      queries: queries.shape,
      keys: keys.shape,
      weights: weights.shape,
    });
  }
  return { batched, B: q[0], Tq: q[1], Tk: k[1] };
}
