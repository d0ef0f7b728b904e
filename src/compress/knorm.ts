/**
 * Keys of small norm stay.
 *
 * @see https://arxiv.org/abs/2406.11430
 */

import { type ScorePolicy, scorePolicy } from "./policy.ts";
import { norm } from "./vectors.ts";

/** Scores a token by −‖k‖. */
export function knorm(): ScorePolicy {
  return scorePolicy({
    name: "knorm",
    score: ({ keys }) =>
      Array.from(keys.starts, (start, head) =>
        Float64Array.from(
          { length: keys.lengths[head] },
          (_, t) => -norm(keys.data, start + t * keys.stride, keys.dim),
        ),
      ),
  });
}
