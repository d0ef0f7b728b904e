/**
 * Context shift: a text that goes on for ever in a cache that does not grow.
 */

import type { KeyValues } from "../attention/index.ts";
import { ConfigError } from "../errors.ts";
import type { PositionedCache } from "./positioned-cache.ts";

/** What stays when the context shifts. */
export type ContextShift = {
  /** First positions that stay: attention sinks; 4 unless told. */
  readonly sinks?: number;
  /** Positions after the sinks to forget. */
  readonly drop: number;
};

/**
 * Forgets the oldest positions but the sinks, and moves what follows up to them, in every layer and head.
 *
 * Called whenever a cache is full, this keeps its bytes constant and its positions within the cache's length, so that
 * a model never sees a position or a distance it was not trained on. A key moves at most length / drop times before
 * it is forgotten itself. Values and deeper layers keep what they once knew of the forgotten tokens.
 *
 * @param cache - positions count from 0, every layer's rotation is known
 * @throws ConfigError when a count is not one, or nothing would follow the dropped positions
 * @see https://arxiv.org/abs/2309.17453 StreamingLLM
 */
export function shiftContext<View extends KeyValues>(
  cache: PositionedCache<View>,
  { sinks = 4, drop }: ContextShift,
): void {
  const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;
  if (!isCount(sinks) || !isCount(drop) || sinks + drop > cache.nextPosition) {
    throw new ConfigError("shiftContext", "sinks and drop must be counts of positions that the cache has", {
      sinks,
      drop,
      nextPosition: cache.nextPosition,
    });
  }
  cache.erase(sinks, sinks + drop, { closeGap: true });
}
