/**
 * Keys unlike the others stay.
 *
 * @see https://arxiv.org/abs/2504.15364
 */

import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { dot, norm } from "./vectors.ts";

/** Scores a token by −cos(k, anchor), where the anchor is the mean of the head's unit keys. */
export function keyDiff(): ScorePolicy {
  return scorePolicy({
    name: "keyDiff",
    score: ({ keys }) =>
      Array.from(keys.starts, (start, head) => {
        const { data, dim, stride } = keys;
        const T = keys.lengths[head];
        const norms = Float64Array.from({ length: T }, (_, t) => norm(data, start + t * stride, dim) || 1);
        const anchor = new Float64Array(dim); // its length does not matter
        for (let t = 0; t < T; t++) {
          for (let d = 0; d < dim; d++) anchor[d] += data[start + t * stride + d] / norms[t];
        }
        const anchorNorm = norm(anchor, 0, dim) || 1;
        return norms.map((own, t) => -dot(data, start + t * stride, anchor, 0, dim) / (own * anchorNorm));
      }),
  });
}
