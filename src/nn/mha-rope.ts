/** Multi-head attention with rotary positions in one call, from a seed. */

import { referenceAttention } from "../attention/index.ts";
import { ConfigError, ShapeError } from "../errors.ts";
import { reshape, type Tensor } from "../tensor.ts";
import { Linear } from "./linear.ts";
import { Rngs } from "./rngs.ts";
import { RoPE } from "./rope.ts";

/**
 * Self-attention over all positions, with four nnx.Linear of `Rngs(seed)`, in the order query, key, value, out, and
 * adjacent pairs rotated by positions 0, 1, …: Flax's numbers for the same seed.
 *
 * @param seed - of the kernels; biases are 0
 * @param x - f32 [T, dModel]
 * @param numHeads - H; the head dim dModel / H must be even
 * @param dModel - size of the last axis
 * @param base - of the rotary frequencies
 * @returns f32 [T, dModel]
 * @throws ConfigError or ShapeError when the sizes do not fit together
 */
export function mhaRope(
  seed: number | bigint,
  x: Tensor<"f32">,
  numHeads: number,
  dModel: number,
  base = 10000,
): Tensor<"f32"> {
  if (x.shape.length !== 2 || x.shape[1] !== dModel) {
    throw new ShapeError("mhaRope", `x must be [T, ${dModel}]`, { shape: x.shape });
  }
  if (!Number.isSafeInteger(numHeads) || numHeads < 1 || dModel % (2 * numHeads) !== 0) {
    throw new ConfigError("mhaRope", "dModel must be a multiple of 2 * numHeads", { dModel, numHeads });
  }
  const rngs = new Rngs(seed);
  const [query, key, value, out] = Array.from({ length: 4 }, () => new Linear(dModel, dModel, { rngs }));
  const headDim = dModel / numHeads;
  const rope = new RoPE({ headDim, theta: base, pairing: "interleaved" });
  const heads = (layer: Linear): Tensor<"f32"> => reshape(layer.forward(x), [x.shape[0], numHeads, headDim]);
  const attended = referenceAttention({
    q: rope.forward(heads(query)),
    k: rope.forward(heads(key)),
    v: heads(value),
  });
  return out.forward(reshape(attended.out as Tensor<"f32">, x.shape));
}
