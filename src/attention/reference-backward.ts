/**
 * The gradients of attention, in plain loops, f64 inside. Probabilities are recomputed from the log-sum-exp, as a kernel
 * would do it; nothing of size Tq × Tk is kept.
 *
 * With p_ij = exp(s_ij − lse_i), dropout factors z_ij, cotangent g of the output, and δ_i = g_i·out_i:
 *
 *     dv_j = Σ_i p_ij z_ij g_i            ds_ij = p_ij (z_ij g_i·v_j − δ_i)            dsink = −Σ_i exp(sink − lse_i) δ_i
 *
 * From ds follow dbias (summed over broadcast axes) and dslope = −Σ ds·|Δposition|; before the soft cap
 * dx = ds·(1 − (cap(x)/c)²), and dq_i = scale·Σ_j dx_ij k_j, dk_j = scale·Σ_i dx_ij q_i. Rows that see no key have
 * zero gradients.
 */

import { CapabilityError, ShapeError } from "../errors.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { dropoutFactor } from "./dropout.ts";
import { withDenseKeys } from "./kv-gather.ts";
import { referenceAttention, visiblePairs } from "./reference.ts";
import { scoreModifiers } from "./score.ts";
import { type AttentionRequest, normalizeAttention, type RealTensor } from "./spec.ts";

/** Gradients by input, each of that input's shape; those of inputs that were not given are absent. */
export type AttentionGradients<T extends "f32" | "f64" = "f32" | "f64"> = {
  readonly dq: Tensor<T>;
  readonly dk: Tensor<T>;
  readonly dv: Tensor<T>;
  readonly dbias?: Tensor<T>;
  /** [H]. */
  readonly dsinks?: Tensor<T>;
  /** [H]. */
  readonly dslopes?: Tensor<T>;
};

/**
 * Gradients of Σ dOut · out.
 *
 * @param request - as for `referenceAttention`; selections and masks are constants
 * @param dOut - [B, Tq, H, Dv] cotangent of the output
 * @throws ShapeError when `dOut` has not the output's shape
 * @throws CapabilityError for custom score modifiers, whose gradient is not defined
 */
export function referenceAttentionGradients(request: AttentionRequest, dOut: RealTensor): AttentionGradients<"f64"> {
  const spec = normalizeAttention(withDenseKeys(request));
  if (spec.scoreModifier) {
    throw new CapabilityError("referenceAttentionGradients", "no custom score modifier", {
      scoreModifier: spec.scoreModifier.toString(),
    });
  }
  const { B, Tq, Tk, H, Hk, D, Dv } = spec.dims;
  const { out, lse } = referenceAttention({ ...request, q: toF64(spec.q) } as AttentionRequest);
  if (dOut.shape.join() !== out.shape.join()) {
    throw new ShapeError("referenceAttentionGradients", "dOut must have the shape of the output", {
      dOut: dOut.shape,
      out: out.shape,
    });
  }
  const { scale, softcap, bias, alibiSlopes, sinks, maskInputs } = spec;
  const [q, k, v, g] = [spec.q.data, spec.k.data, spec.v.data, dOut.data];
  const visible = visiblePairs(spec);
  const modify = scoreModifiers(spec);
  const drop = spec.dropout && dropoutFactor(spec.dropout);

  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  const dbias = bias && new Float64Array(bias.values.length);
  const dslopes = alibiSlopes && new Float64Array(H);
  const dsinks = sinks && new Float64Array(H);

  for (let b = 0; b < B; b++) {
    for (let i = 0; i < Tq; i++) {
      for (let h = 0; h < H; h++) {
        const row = (b * Tq + i) * H + h;
        if (lse.data[row] === -Infinity) continue;
        let delta = 0;
        for (let d = 0; d < Dv; d++) delta += g[row * Dv + d] * out.data[row * Dv + d];
        if (dsinks) dsinks[h] -= Math.exp((sinks as Float64Array)[h] - lse.data[row]) * delta;
        for (let j = 0; j < Tk; j++) {
          if (!visible(b, h, i, j)) continue;
          const key = (b * Tk + j) * Hk + Math.floor((h * Hk) / H);
          let dot = 0;
          for (let d = 0; d < D; d++) dot += q[row * D + d] * k[key * D + d];
          const scaled = dot * scale;
          const p = Math.exp(modify(scaled, b, h, i, j) - lse.data[row]);
          const z = drop ? drop(b, h, i, j) : 1;
          let gv = 0;
          for (let d = 0; d < Dv; d++) {
            gv += g[row * Dv + d] * v[key * Dv + d];
            dv[key * Dv + d] += p * z * g[row * Dv + d];
          }
          const ds = p * (z * gv - delta);
          if (dbias) {
            const [sb, sh, si, sj] = (bias as NonNullable<typeof bias>).strides;
            dbias[b * sb + h * sh + i * si + j * sj] += ds;
          }
          if (dslopes) {
            dslopes[h] -= ds * Math.abs(maskInputs.queryPositions[b * Tq + i] - maskInputs.keyPositions[b * Tk + j]);
          }
          const dx = scale * (softcap === undefined ? ds : ds * (1 - Math.tanh(scaled / softcap) ** 2));
          for (let d = 0; d < D; d++) {
            dq[row * D + d] += dx * k[key * D + d];
            dk[key * D + d] += dx * q[row * D + d];
          }
        }
      }
    }
  }
  return {
    dq: tensor("f64", spec.q.shape, dq),
    dk: tensor("f64", spec.k.shape, dk),
    dv: tensor("f64", spec.v.shape, dv),
    ...(dbias && request.bias && { dbias: tensor("f64", request.bias.shape, dbias) }),
    ...(dsinks && { dsinks: tensor("f64", [H], dsinks) }),
    ...(dslopes && { dslopes: tensor("f64", [H], dslopes) }),
  };
}

function toF64(t: RealTensor): Tensor<"f64"> {
  return t.dtype === "f64" ? t : tensor("f64", t.shape, Float64Array.from(t.data));
}
