/**
 * Attention as the maths says it, in f64: the oracle of every kernel.
 *
 *     s_ij = modify(scale · q_i·k_j)        for every key j that the mask shows to query i
 *     out_i = Σ_j exp(s_ij) v_j / (Σ_j exp(s_ij) + exp(sink))        lse_i = ln(Σ_j exp(s_ij) + exp(sink))
 *
 * where modify is, in this order: soft cap, score modifier, ALiBi, bias. Masked keys are left out before any score
 * is taken, so that an infinite or huge score behind the mask cannot reach the result. With dropout, each term of the
 * sum over v_j is multiplied by 0 or 1 / (1 − rate); the denominator is not.
 */

import { type MaskPredicate, maskPredicate } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { dropoutFactor } from "./dropout.ts";
import { withDenseKeys } from "./kv-gather.ts";
import { scoreModifiers } from "./score.ts";
import { resolveSelection } from "./select.ts";
import { selectionPredicate } from "./selection.ts";
import { type AttentionRequest, type AttentionSpec, normalizeAttention } from "./spec.ts";
import { type AttentionOutput, type AttentionState, emptyState, finishState, mergeStates, sinkState } from "./state.ts";

/** Output, log-sum-exp and the largest score of every head. */
export type ReferenceOutput = AttentionOutput & {
  /** f64 [B, H] largest score after all modifiers over the visible keys, without sinks; −Infinity if none. */
  readonly maxLogits: Tensor<"f64">;
};

/**
 * Attention in plain loops, f64 inside.
 *
 * @param request - see {@link AttentionRequest}
 * @returns out [B, Tq, H, Dv] and lse [B, Tq, H] in the dtype of q (no batch axis if q had none), and maxLogits
 * @throws ShapeError or ConfigError when the request does not fit together
 */
export function referenceAttention(request: AttentionRequest): ReferenceOutput {
  const spec = normalizeAttention(withDenseKeys(request));
  return finishAttention(spec, attendAllRows(spec));
}

/** Adds the sinks to the state of all rows and divides by the sums. */
export function finishAttention(spec: AttentionSpec, state: AttentionState): ReferenceOutput {
  const withSinks = spec.sinks ? mergeStates(state, sinkState(spec.sinks, state.shape)) : state;
  const { B, Tq, H } = spec.dims;
  const maxLogits = new Float64Array(B * H).fill(-Infinity);
  state.max.forEach((max, row) => {
    const head = Math.floor(row / (Tq * H)) * H + (row % H);
    maxLogits[head] = Math.max(maxLogits[head], max);
  });
  const shape = spec.batched ? [B, H] : [H];
  return { ...finishState(withSinks, spec.q.dtype), maxLogits: tensor("f64", shape, maxLogits) };
}

/**
 * The running softmax over the given keys, without sinks: for merging with the states of other keys.
 *
 * @param request - see {@link AttentionRequest}; `sinks` are not part of a state, add them once with `sinkState`
 * @returns the state of all rows, shape [B, Tq, H, Dv]
 */
export function referenceState(request: AttentionRequest): AttentionState {
  return attendAllRows(normalizeAttention(withDenseKeys(request)));
}

function attendAllRows(spec: AttentionSpec): AttentionState {
  const { B, Tq, Tk, H, Hk, D, Dv } = spec.dims;
  const visible = visiblePairs(spec);
  const modify = scoreModifiers(spec);
  const drop = spec.dropout && dropoutFactor(spec.dropout);
  const state = emptyState(spec.batched ? [B, Tq, H, Dv] : [Tq, H, Dv]);
  const scores = new Float64Array(Tk);
  const slots = new Int32Array(Tk); // the visible keys

  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Tq; i++) {
      for (let h = 0; h < H; h++) {
        const kvHead = Math.floor((h * Hk) / H);
        const row = (b * Tq + i) * H + h;
        let count = 0;
        let max = -Infinity;
        for (let j = 0; j < Tk; j++) {
          if (!visible(b, h, i, j)) continue;
          const key = (b * Tk + j) * Hk + kvHead;
          let dot = 0;
          for (let d = 0; d < D; d++) dot += spec.q.data[row * D + d] * spec.k.data[key * D + d];
          const score = modify(dot * spec.scale, b, h, i, j);
          slots[count] = j;
          scores[count++] = score;
          max = Math.max(max, score);
        }
        state.max[row] = max;
        if (max === -Infinity) continue; // nothing visible, or every visible score is −Infinity
        for (let n = 0; n < count; n++) {
          const weight = Math.exp(scores[n] - max);
          state.sum[row] += weight;
          const kept = drop ? weight * drop(b, h, i, slots[n]) : weight;
          const key = (b * Tk + slots[n]) * Hk + kvHead;
          for (let d = 0; d < Dv; d++) state.weighted[row * Dv + d] += kept * spec.v.data[key * Dv + d];
        }
      }
    }
  }
  return state;
}

/** What the mask allows, of what was selected. */
export function visiblePairs(spec: AttentionSpec): MaskPredicate {
  const allowed = maskPredicate(spec.mask, spec.maskInputs);
  const selection = resolveSelection(spec);
  if (selection === undefined) return allowed;
  const selected = selectionPredicate(selection);
  return (b, h, i, j) => allowed(b, h, i, j) && selected(b, h, i, j);
}
