/**
 * What a cache holds and what it has forgotten, in tokens of the text as it came, however often they moved since.
 */

import type { ModelCache } from "./model-cache.ts";

/** Tokens from `start` to `end` − 1, numbered from the first token the cache was given. */
export type TokenRange = readonly [start: number, end: number];

/** What one key-value head holds. */
export type HeadReport = {
  readonly rows: number;
  readonly kept: readonly TokenRange[];
  readonly dropped: readonly TokenRange[];
};

/** Tokens that no head of any layer holds any more. */
export type ForgottenText = {
  readonly range: TokenRange;
  /** Absent without a tokenizer. */
  readonly text?: string;
};

/** A cache in numbers; plain data. */
export type CacheReport = {
  /** Tokens given so far. */
  readonly tokensSeen: number;
  /** Where the next token goes. */
  readonly nextPosition: number;
  /** Rows of the longest head. */
  readonly rows: number;
  readonly bytes: number;
  readonly allocatedBytes: number;
  readonly peakBytes: number;
  readonly peakAllocatedBytes: number;
  readonly maxBytes?: number;
  /** Tokens kept per head. */
  readonly budget?: number;
  /** What compresses prompts. */
  readonly policy?: string;
  /** What compresses while tokens are generated. */
  readonly decodingPolicy?: string;
  readonly compressions: number;
  readonly forgotten: readonly ForgottenText[];
  /** [L][Hk]. */
  readonly layers: readonly (readonly HeadReport[])[];
};

/** The part of a tokenizer that turns tokens into text. */
export type TextOf = { decode(ids: ArrayLike<number>): string };

/** The report of a cache. */
export function reportCache(cache: ModelCache, tokenizer: TextOf | undefined): CacheReport {
  const { tokensSeen, plan, options } = cache;
  const held = new Uint8Array(tokensSeen);
  const layers = plan.layers.map(({ kvHeads }, layer) => {
    const alike = cache.isRagged(layer) ? undefined : headReport(cache.sources(layer, 0), tokensSeen, held);
    return Array.from(
      { length: kvHeads },
      (_, head) => alike ?? headReport(cache.sources(layer, head), tokensSeen, held),
    );
  });
  const forgotten = dropped(heldRanges(held), tokensSeen).map((range): ForgottenText => {
    return tokenizer ? { range, text: tokenizer.decode(cache.tokens.slice(...range)) } : { range };
  });
  const { prefill, decoding, budget } = plan.compression ?? {};
  return {
    ...{ tokensSeen, nextPosition: cache.nextPosition, rows: cache.length() },
    ...{ bytes: cache.bytes, allocatedBytes: cache.allocatedBytes },
    ...{ peakBytes: cache.peakBytes, peakAllocatedBytes: cache.peakAllocatedBytes },
    ...(options.maxBytes !== undefined && { maxBytes: options.maxBytes }),
    ...(budget !== undefined && { budget }),
    ...(prefill && { policy: prefill.name }),
    ...(decoding && { decodingPolicy: decoding.policy.name }),
    ...{ compressions: cache.progress.count, forgotten, layers },
  };
}

function headReport(sources: Int32Array, tokensSeen: number, held: Uint8Array): HeadReport {
  for (const source of sources) held[source] = 1;
  const kept = ranges(sources);
  return { rows: sources.length, kept, dropped: dropped(kept, tokensSeen) };
}

/** Runs of consecutive numbers in an ascending list. */
function ranges(sources: Int32Array): TokenRange[] {
  const found: TokenRange[] = [];
  for (let at = 0; at < sources.length; ) {
    let end = at + 1;
    while (end < sources.length && sources[end] === sources[end - 1] + 1) end++;
    found.push([sources[at], sources[end - 1] + 1]);
    at = end;
  }
  return found;
}

function heldRanges(held: Uint8Array): TokenRange[] {
  return ranges(Int32Array.from(held.keys()).filter((token) => held[token] === 1));
}

/** What lies between ranges. */
function dropped(kept: readonly TokenRange[], tokensSeen: number): TokenRange[] {
  const gaps: TokenRange[] = [];
  let from = 0;
  for (const [start, end] of kept) {
    if (start > from) gaps.push([from, start]);
    from = end;
  }
  if (tokensSeen > from) gaps.push([from, tokensSeen]);
  return gaps;
}
