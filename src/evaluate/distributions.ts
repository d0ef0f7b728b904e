/** Distances between next-token distributions. */

import { ShapeError } from "../errors.ts";

/** Sums over the rows compared; divide by `rows`. */
export type DistributionSums = {
  rows: number;
  /** Σ KL(reference ‖ other), nats. */
  divergence: number;
  /** Rows whose most probable token is the same. */
  sameBest: number;
  /** −Σ log p(target) under the other, nats. */
  loss: number;
};

/** Sums of no rows. */
export function noSums(): DistributionSums {
  return { rows: 0, divergence: 0, sameBest: 0, loss: 0 };
}

/**
 * Compares rows of logits and adds to the sums.
 *
 * @param reference - f32 [T, V]
 * @param other - f32 [T, V]
 * @param targets - [T] the token that really came next
 * @throws ShapeError when sizes differ
 */
export function addComparison(
  sums: DistributionSums,
  reference: Float32Array,
  other: Float32Array,
  targets: ArrayLike<number>,
): void {
  const T = targets.length;
  const V = other.length / T;
  if (reference.length !== other.length || !Number.isInteger(V)) {
    throw new ShapeError("addComparison", "logits [T, V] of both, and T targets", {
      reference: reference.length,
      other: other.length,
      targets: T,
    });
  }
  for (let t = 0; t < T; t++) {
    const p = reference.subarray(t * V, (t + 1) * V);
    const q = other.subarray(t * V, (t + 1) * V);
    const [logP, logQ] = [logSumExp(p), logSumExp(q)];
    let divergence = 0;
    for (let v = 0; v < V; v++) divergence += Math.exp(p[v] - logP) * (p[v] - logP - (q[v] - logQ));
    sums.rows++;
    sums.divergence += Math.max(0, divergence); // rounding may leave −1e-17
    if (best(p) === best(q)) sums.sameBest++;
    sums.loss += logQ - q[targets[t]];
  }
}

/**
 * The loss of rows of logits.
 *
 * @param logits - f32 [T, V]
 * @param targets - [T] the token that really came next
 * @returns −Σ log p(target), nats
 */
export function lossOf(logits: Float32Array, targets: ArrayLike<number>): number {
  const V = logits.length / targets.length;
  let loss = 0;
  for (let t = 0; t < targets.length; t++)
    loss += logSumExp(logits.subarray(t * V, (t + 1) * V)) - logits[t * V + targets[t]];
  return loss;
}

/** ln Σ exp(x), in f64. */
function logSumExp(x: Float32Array): number {
  let largest = -Infinity;
  for (const value of x) if (value > largest) largest = value;
  let sum = 0;
  for (const value of x) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

/** The first of the largest. */
function best(x: Float32Array): number {
  let at = 0;
  for (let v = 1; v < x.length; v++) if (x[v] > x[at]) at = v;
  return at;
}
