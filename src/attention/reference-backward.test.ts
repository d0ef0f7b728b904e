import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { causal, sameSegment, slidingWindow } from "../mask/index.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { referenceAttention } from "./reference.ts";
import { referenceAttentionGradients } from "./reference-backward.ts";
import type { DenseAttentionRequest } from "./spec.ts";

/** Values from −1 to 1 that depend on the salt. */
function values(shape: readonly number[], salt: number): Tensor<"f64"> {
  const size = shape.reduce((a, b) => a * b, 1);
  return tensor(
    "f64",
    shape,
    Float64Array.from({ length: size }, (_, i) => Math.sin(salt * 12.9898 + i * 78.233)),
  );
}

const [B, Tq, Tk, H, Hk, D, Dv] = [2, 3, 5, 4, 2, 3, 2];
const base: DenseAttentionRequest = {
  q: values([B, Tq, H, D], 1),
  k: values([B, Tk, Hk, D], 2),
  v: values([B, Tk, Hk, Dv], 3),
};
const dOut = values([B, Tq, H, Dv], 4);

/** Σ dOut · out. */
function loss(request: DenseAttentionRequest): number {
  const { out } = referenceAttention(request);
  return Array.from(out.data).reduce((sum, value, i) => sum + value * dOut.data[i], 0);
}

/** The gradient by central differences. `change` gives the request with the values replaced. */
function differences(values: ArrayLike<number>, change: (values: Float64Array) => DenseAttentionRequest): Float64Array {
  const step = 1e-5;
  return Float64Array.from({ length: values.length }, (_, i) => {
    const moved = (by: number): number => {
      const copy = Float64Array.from(values);
      copy[i] += by;
      return loss(change(copy));
    };
    return (moved(step) - moved(-step)) / (2 * step);
  });
}

const segments = {
  querySegments: Int32Array.of(0, 0, 1, -1, 2, 2),
  keySegments: Int32Array.of(0, 0, 0, 1, 1, 2, 2, 2, 2, -1),
};

describe("gradients equal central differences", () => {
  it.each<[string, Partial<DenseAttentionRequest>]>([
    ["of plain attention with grouped queries", {}],
    ["under a causal window", { mask: causal().and(slidingWindow(2)) }],
    ["of packed segments with padding", { mask: sameSegment(), ...segments }],
    ["through a soft cap", { softcap: 0.7, scale: 1.3 }],
    ["with sinks", { sinks: [0.3, -0.2, 0.1, 0.9], mask: causal() }],
    ["with a broadcast bias", { bias: values([H, 1, Tk], 5), softcap: 2 }],
    ["with ALiBi", { alibiSlopes: [0.5, 0.25, 0.125, 0.1], mask: causal() }],
    ["with dropout", { dropout: { rate: 0.4, seed: 7 } }],
  ])("%s", (_, options) => {
    const request = { ...base, ...options };
    const got = referenceAttentionGradients(request, dOut);
    for (const name of ["q", "k", "v"] as const) {
      const wanted = differences(base[name].data, (data) => ({
        ...request,
        [name]: tensor("f64", base[name].shape, data),
      }));
      expectClose(got[`d${name}`].data, wanted, 1e-8);
    }
    const { bias, sinks, alibiSlopes } = request;
    if (bias) {
      const wanted = differences(bias.data, (data) => ({ ...request, bias: tensor("f64", bias.shape, data) }));
      expectClose(got.dbias?.data ?? [], wanted, 1e-8);
    }
    if (sinks)
      expectClose(
        got.dsinks?.data ?? [],
        differences(sinks, (data) => ({ ...request, sinks: data })),
        1e-8,
      );
    if (alibiSlopes) {
      const wanted = differences(alibiSlopes, (data) => ({ ...request, alibiSlopes: data }));
      expectClose(got.dslopes?.data ?? [], wanted, 1e-8);
    }
  });
});

it("rows that see nothing have zero gradients, and inputs that were not given have none", () => {
  const got = referenceAttentionGradients({ ...base, mask: sameSegment(), ...segments }, dOut);
  const row = H * D; // query 0 of batch entry 1 is padding
  expect([...got.dq.data.subarray(Tq * row, (Tq + 1) * row)]).toEqual(Array(row).fill(0));
  expect(Object.keys(got)).toEqual(["dq", "dk", "dv"]);
});

it("a cotangent of another shape is refused", () => {
  expect(() => referenceAttentionGradients(base, values([B, Tq, H, D], 1))).toThrow(
    "referenceAttentionGradients: dOut must have the shape of the output; got dOut=[2,3,4,3], out=[2,3,4,2].",
  );
});
