/**
 * The running softmax of a row, and the merge that joins rows computed over different keys.
 *
 * For a row with scores s_j and values v_j over some set of keys, the state is
 *
 *     m = max_j s_j        l = Σ_j exp(s_j − m)        o = Σ_j exp(s_j − m)·v_j
 *
 * Two states over disjoint keys merge into the state over their union, in any order:
 *
 *     m = max(m₁, m₂)      l = Σᵢ exp(mᵢ − m)·lᵢ       o = Σᵢ exp(mᵢ − m)·oᵢ
 *
 * The output is o / l and the log-sum-exp m + ln l. No key at all is (−Infinity, 0, 0); a sink of logit s is
 * (s, 1, 0). Nothing overflows for finite scores, because no exponent is positive.
 */

import { ShapeError } from "../errors.ts";
import { sizeOf, type Tensor, tensor } from "../tensor.ts";

/** Running softmax of many rows, in f64. */
export type AttentionState = {
  /** [..., Dv]: the shape of the output; the rows are all axes but the last. */
  readonly shape: readonly number[];
  /** f64 [rows] largest score; −Infinity where no key was seen. */
  readonly max: Float64Array;
  /** f64 [rows] Σ exp(score − max). */
  readonly sum: Float64Array;
  /** f64 [rows, Dv] Σ exp(score − max)·value. */
  readonly weighted: Float64Array;
};

/** What attention returns: normalised rows and their log-sum-exp. */
export type AttentionOutput<T extends "f32" | "f64" = "f32" | "f64"> = {
  /** [..., H, Dv]; zeros where a row saw no key. */
  readonly out: Tensor<T>;
  /** [..., H] natural log-sum-exp of the scores, sinks included; −Infinity where there was nothing. */
  readonly lse: Tensor<T>;
};

/** The state of rows that have seen no key. */
export function emptyState(shape: readonly number[]): AttentionState {
  const rows = sizeOf(shape.slice(0, -1));
  return {
    shape: [...shape],
    max: new Float64Array(rows).fill(-Infinity),
    sum: new Float64Array(rows),
    weighted: new Float64Array(sizeOf(shape)),
  };
}

/**
 * The state over the union of the keys of several states; the keys must be disjoint.
 *
 * @param states - at least one, all of the same shape
 * @throws ShapeError when there is none, or the shapes differ
 * @see https://arxiv.org/abs/1805.02867 Online normalizer calculation for softmax
 */
export function mergeStates(...states: readonly AttentionState[]): AttentionState {
  const first = states[0];
  if (first === undefined) throw new ShapeError("mergeStates", "at least one state", { states: 0 });
  for (const state of states) {
    if (state.shape.join() !== first.shape.join()) {
      throw new ShapeError("mergeStates", "states must have the same shape", {
        shape: state.shape,
        first: first.shape,
      });
    }
  }
  const merged = emptyState(first.shape);
  const depth = first.shape.at(-1) as number;
  for (let row = 0; row < merged.max.length; row++) {
    let max = -Infinity;
    for (const state of states) max = Math.max(max, state.max[row]);
    merged.max[row] = max;
    if (max === -Infinity) continue;
    for (const state of states) {
      const factor = Math.exp(state.max[row] - max);
      merged.sum[row] += factor * state.sum[row];
      for (let d = row * depth; d < (row + 1) * depth; d++) merged.weighted[d] += factor * state.weighted[d];
    }
  }
  return merged;
}

/**
 * The state of sinks: one logit per head that carries no value.
 *
 * @param sinks - [H] logits
 * @param shape - [..., H, Dv], the shape of the state to merge with
 * @throws ShapeError when there is not one sink per head
 */
export function sinkState(sinks: ArrayLike<number>, shape: readonly number[]): AttentionState {
  if (sinks.length !== shape.at(-2)) {
    throw new ShapeError("sinkState", "sinks must have one entry per head of [..., H, Dv]", {
      length: sinks.length,
      shape,
    });
  }
  const state = emptyState(shape);
  for (let row = 0; row < state.max.length; row++) {
    state.max[row] = sinks[row % sinks.length];
    state.sum[row] = 1;
  }
  return state;
}

/**
 * The state behind a finished output, so that it can be merged with others: (lse, 1, out).
 *
 * @throws ShapeError when `lse` does not have one entry per row of `out`
 */
export function stateFromOutput({ out, lse }: AttentionOutput): AttentionState {
  const state = emptyState(out.shape);
  if (lse.data.length !== state.max.length) {
    throw new ShapeError("stateFromOutput", "lse must have one entry per row of out", {
      out: out.shape,
      lse: lse.shape,
    });
  }
  state.max.set(lse.data);
  state.sum.set(lse.data.map((value) => (value === -Infinity ? 0 : 1)));
  state.weighted.set(out.data);
  return state;
}

/**
 * Divides by the sums: the end of every attention.
 *
 * @param dtype - element type of the result
 */
export function finishState<T extends "f32" | "f64">(state: AttentionState, dtype: T): AttentionOutput<T> {
  const depth = state.shape.at(-1) as number;
  const out = new Float64Array(state.weighted.length);
  const lse = new Float64Array(state.max.length).fill(-Infinity);
  for (let row = 0; row < lse.length; row++) {
    const sum = state.sum[row];
    if (sum === 0) continue; // no key: zeros; NaN is passed on, not hidden
    lse[row] = state.max[row] + Math.log(sum);
    for (let d = row * depth; d < (row + 1) * depth; d++) out[d] = state.weighted[d] / sum;
  }
  const store = (shape: readonly number[], values: Float64Array): Tensor<T> =>
    (dtype === "f64" ? tensor("f64", shape, values) : tensor("f32", shape, Float32Array.from(values))) as Tensor<T>;
  return { out: store(state.shape, out), lse: store(state.shape.slice(0, -1), lse) };
}
