/** Queries, keys or values: a linear map of the inputs and the norm of each head, if there is one. */

import { ConfigError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import type { LinearGeneral } from "./linear.ts";
import type { ParameterTree, Vjp } from "./module.ts";
import { LayerNorm, RMSNorm } from "./norm.ts";
import type { Rngs } from "./rngs.ts";

/** The norm that `qkNorm` names. */
export function headNorm(kind: "layer" | "rms" | undefined, headDim: number, rngs: Rngs): LayerNorm | RMSNorm | null {
  if (kind === undefined) return null;
  if (kind === "layer") return new LayerNorm(headDim, { useBias: false, rngs });
  if (kind === "rms") return new RMSNorm(headDim, { rngs });
  throw new ConfigError("MultiHeadAttention", 'qkNorm must be "layer" or "rms"', { qkNorm: kind });
}

/** Gradients of a projection. */
export type ProjectionGradients = {
  readonly dx: Tensor<"f32">;
  readonly linear: ParameterTree;
  /** Absent where there is no norm. */
  readonly norm?: ParameterTree;
};

/** Projects and normalises x [..., in] to [..., heads, D]. */
export function project(
  x: Tensor<"f32">,
  linear: LinearGeneral,
  norm: LayerNorm | RMSNorm | null,
): Vjp<ProjectionGradients> {
  const straight = linear.vjp(x);
  const normed = norm?.vjp(straight.out);
  const backward = (dOut: Tensor<"f32">): ProjectionGradients => {
    const inner = normed?.backward(dOut);
    const { dx, parameters } = straight.backward(inner?.dx ?? dOut);
    return { dx, linear: parameters, ...(inner && { norm: inner.parameters }) };
  };
  return { out: normed?.out ?? straight.out, backward };
}
