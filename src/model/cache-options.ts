/**
 * How a model's cache is made: where rows lie, and, where it shall forget, when and how much.
 */

import type { CacheElements } from "../cache/index.ts";
import type { LayerPlan, Observation, Policy } from "../compress/index.ts";
import type { FrequencyChange } from "../rope/index.ts";

/** What a policy saw of a layer and what it decided. */
export type CompressionEvent = {
  readonly layer: number;
  /** Shares memory with the cache; valid during the call. */
  readonly observation: Observation;
  readonly plan: LayerPlan;
};

/** A part of the context that is fed once more, for KVzip and KVCompose. */
export type RepeatPart = {
  /** Its number, from 0. */
  readonly index: number;
  /** Token ids of the part. */
  readonly tokens: Int32Array;
  /** Last token ids of the part before it; empty for the first. */
  readonly before: Int32Array;
};

/** How the context is fed once more. */
export type RepeatOptions = {
  /** Tokens of a part. Unless told: 2048; under `maxBytes` at most a quarter of the longest prompt. */
  readonly chunkTokens?: number;
  /** Under `maxBytes`: tokens of a request at most, beside its part. 64 unless told; 0 without a tokenizer. */
  readonly requestTokens?: number;
  /**
   * The token ids to feed for a part. Unless told: a request to repeat it, in words, followed by the part; the part
   * alone where the model has no tokenizer.
   */
  readonly tokensFor?: (part: RepeatPart) => ArrayLike<number>;
};

/** Compression while tokens are generated. */
export type DecodingOptions = {
  /**
   * Decides what stays. Unless told: the cache's own policy where it may run while decoding, and more than once; else
   * `tova()`, or `streamingLLM()` where the policy gives heads unequal numbers of tokens.
   */
  readonly policy?: Policy;
  /** Tokens between two compressions. Unless told: a sixteenth of the budget, at least 8; 512 without a budget. */
  readonly interval?: number;
  /** Tokens per head after a compression; the cache's budget unless told. */
  readonly budget?: number;
  /** Fraction of all tokens so far that is gone after a compression, in place of a budget. */
  readonly compressionRatio?: number;
};

/** Options of `createCache`; none are needed. */
export type ModelCacheOptions = {
  /**
   * What happens when the rotary schedule changes its frequencies because the text grew (dynamic NTK, LongRoPE):
   * `pin` keeps the first ones, `rerotate` turns the cached keys to the new ones, `reprefill` runs all tokens
   * again. Needed only for such schedules; without a choice the change is an error.
   */
  readonly onFrequencyChange?: FrequencyChange;
  /** With `pin`: the length in tokens the frequencies are resolved for; the first step's length when absent. */
  readonly pinnedLength?: number;
  /**
   * Where rows lie. Unless told: `contiguous`; `ring` in layers of a sliding window when nothing is compressed;
   * `paged` where heads or layers of unequal length share a byte budget.
   */
  readonly layout?: "contiguous" | "ring" | "paged";
  /** f32 unless told. */
  readonly elements?: CacheElements;
  /** Keep quantised keys as they came beside the moved ones, so that moves never add up. */
  readonly pristineKeys?: boolean;
  /**
   * Bytes that the cache takes at most: rows, positions, what is known about every slot, and the queries and repeats that
   * policies look from. Planned before anything is allocated. Unless told, the budget is what fits beside one chunk; by a
   * policy that must see a whole prompt, half of the longest prompt that fits.
   */
  readonly maxBytes?: number;
  /** Tokens kept per head, on average over the heads; where a policy shares tokens out among layers, over all of them. */
  readonly budget?: number;
  /** Fraction of the prompt that goes, in place of a budget. */
  readonly compressionRatio?: number;
  /** Decides what stays; `streamingLLM()` where only a budget, a ratio or bytes are given. */
  readonly policy?: Policy;
  /**
   * Whether what stays moves together, to positions 0, 1, 2, …, so that texts may be longer than the model's context.
   * Unless told: only where no policy was chosen.
   */
  readonly rerotate?: boolean;
  /** Compression while tokens are generated; on by default where there is a budget. */
  readonly decoding?: DecodingOptions;
  /** Prompt tokens per step, after each of which a cache with a budget is compressed. At most 512 unless told. */
  readonly prefillChunk?: number;
  /** For KVzip and KVCompose. */
  readonly repeat?: RepeatOptions;
  /** Looks at what every compression saw and decided, layer by layer. */
  readonly onCompress?: (event: CompressionEvent) => void;
};
