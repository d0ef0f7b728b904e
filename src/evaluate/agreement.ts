/** How near a model with a small cache stays to itself with the full one, on the same text. */

import { ConfigError } from "../errors.ts";
import type { DecoderModel, ModelCache } from "../model/index.ts";
import { addComparison, noSums } from "./distributions.ts";

/** What is compared. */
export type AgreementOptions = {
  /** [N] tokens: a prefix that is prefilled, and what follows it, which both must predict. */
  readonly tokens: ArrayLike<number>;
  /** Tokens of the prefix; at least 1, less than N. */
  readonly prefixTokens: number;
  /** Tokens given at a time behind the prefix; 16 unless told. A cache may be compressed in between. */
  readonly stepTokens?: number;
  /** An empty cache of the kind that is measured. */
  readonly createCache: () => ModelCache;
  readonly signal?: AbortSignal;
};

/** What came of it: means over the tokens behind the prefix. */
export type Agreement = {
  /** exp of the mean loss with the cache that is measured. */
  readonly perplexity: number;
  /** The same with the full cache. */
  readonly fullPerplexity: number;
  /** KL divergence of the next-token distribution from the full cache's, nats. */
  readonly divergence: number;
  /** Share of tokens for which both find the same one most probable. */
  readonly sameBest: number;
  readonly peakBytes: number;
};

/**
 * Runs a text twice, side by side: with a full cache and with the one that is measured.
 *
 * @throws ConfigError when the prefix leaves nothing to predict
 */
export async function measureAgreement(model: DecoderModel, options: AgreementOptions): Promise<Agreement> {
  checkPrefix(options);
  const { prefixTokens, stepTokens = 16, createCache, signal } = options;
  const tokens = Int32Array.from(options.tokens);
  const full = model.createCache();
  const cache = createCache();
  const prefix = tokens.subarray(0, prefixTokens);
  await model.prefill(full, prefix, { ...(signal && { signal }) });
  await model.prefill(cache, prefix, { ...(signal && { signal }) });
  const sums = noSums();
  const fullSums = noSums();
  for (let start = prefixTokens; start < tokens.length - 1; start += stepTokens) {
    signal?.throwIfAborted();
    const end = Math.min(tokens.length - 1, start + stepTokens);
    const step = { tokens: tokens.subarray(start, end), logits: "all" } as const;
    const reference = (await model.forward({ ...step, cache: full })).data;
    const other = (await model.forward({ ...step, cache })).data;
    const targets = tokens.subarray(start + 1, end + 1);
    addComparison(sums, reference, other, targets);
    addComparison(fullSums, reference, reference, targets);
  }
  const { peakBytes } = cache;
  full.dispose();
  cache.dispose();
  return {
    perplexity: Math.exp(sums.loss / sums.rows),
    fullPerplexity: Math.exp(fullSums.loss / sums.rows),
    divergence: sums.divergence / sums.rows,
    sameBest: sums.sameBest / sums.rows,
    peakBytes,
  };
}

/**
 * Refuses a prefix that leaves nothing to predict.
 *
 * @throws ConfigError when it does
 */
export function checkPrefix({ tokens, prefixTokens }: Pick<AgreementOptions, "tokens" | "prefixTokens">): void {
  if (Number.isInteger(prefixTokens) && prefixTokens > 0 && prefixTokens < tokens.length - 1) return;
  throw new ConfigError("measureAgreement", "a prefix of at least 1 token, and at least 2 behind it", {
    prefixTokens,
    tokens: tokens.length,
  });
}
