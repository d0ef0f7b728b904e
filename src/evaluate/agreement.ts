/** How near a model with a small cache stays to itself with the full one, on the same text. */

import type { DecoderModel, ModelCache } from "../model/index.ts";
import { addComparison, lossOf, noSums } from "./distributions.ts";
import { FullPredictions, type PredictedText } from "./full-predictions.ts";

/** What is compared. */
export type AgreementOptions = {
  /** The text, or what the full cache predicts of it: computed once, it serves many comparisons. */
  readonly text: PredictedText | FullPredictions;
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
 * Runs a text with the cache that is measured and compares every prediction with the full cache's.
 *
 * @throws ConfigError when the prefix leaves nothing to predict
 */
export async function measureAgreement(
  model: DecoderModel,
  { text, createCache, signal }: AgreementOptions,
): Promise<Agreement> {
  const pass = { ...(signal && { signal }) };
  const full = text instanceof FullPredictions ? text : await FullPredictions.create(model, text, pass);
  const cache = createCache();
  try {
    await model.prefill(cache, full.tokens.subarray(0, full.prefixTokens), pass);
    const sums = noSums();
    let fullLoss = 0;
    for await (const { tokens, targets, logits } of full.steps()) {
      signal?.throwIfAborted();
      const { data } = await model.forward({ tokens, logits: "all", cache });
      addComparison(sums, logits, data, targets);
      fullLoss += lossOf(logits, targets);
    }
    return {
      perplexity: Math.exp(sums.loss / sums.rows),
      fullPerplexity: Math.exp(fullLoss / sums.rows),
      divergence: sums.divergence / sums.rows,
      sameBest: sums.sameBest / sums.rows,
      peakBytes: cache.peakBytes,
    };
  } finally {
    cache.dispose();
    if (full !== text) full.dispose();
  }
}
