/** Compression while tokens are generated: every so many tokens the cache goes back to a target. */

import { ConfigError } from "../errors.ts";
import { type Amount, keptCount } from "./amount.ts";
import { checkRange, checkWhole } from "./check-options.ts";
import type { Policy } from "./policy.ts";

/** Options of {@link decodingCompression}: a target in tokens, or a share of all tokens seen. */
export type DecodingCompressionOptions = {
  /** Decoded tokens between two compressions; 512 unless told. */
  readonly intervalTokens?: number;
  /** Tokens per head after a compression; 2048 unless told. */
  readonly targetTokens?: number;
  /** Fraction of all tokens seen so far, prompt included, that is gone after a compression; in place of the target. */
  readonly compressionRatio?: number;
};

/** When and how far a cache is compressed while decoding. */
export type DecodingCompression = {
  readonly policy: Policy;
  readonly intervalTokens: number;
  /**
   * @param tokensSinceLast - decoded since the last compression, or since the prefill
   * @returns whether to compress now
   */
  isDue(tokensSinceLast: number): boolean;
  /**
   * @param tokensSeen - tokens of the prompt and decoded so far
   * @returns what to pass to the policy; undefined when its own parameters decide
   */
  amount(tokensSeen: number): Amount | undefined;
};

/**
 * A schedule for compressing while decoding.
 *
 * @param policy - decides what stays
 * @throws ConfigError when the policy cannot run while decoding, or both or neither of it and the options say how much
 */
export function decodingCompression(policy: Policy, options: DecodingCompressionOptions = {}): DecodingCompression {
  const { intervalTokens = 512, targetTokens, compressionRatio } = options;
  const where = "decodingCompression";
  checkWhole(where, { intervalTokens }, 1);
  if (targetTokens !== undefined) checkWhole(where, { targetTokens }, 1);
  if (compressionRatio !== undefined) checkRange(where, { compressionRatio }, 0, 1 - Number.EPSILON);
  if (!policy.moments.includes("decoding")) {
    throw new ConfigError(
      where,
      "a policy that can run while decoding",
      { policy: policy.name },
      "This one looks at a whole prompt.",
    );
  }
  if (targetTokens !== undefined && compressionRatio !== undefined) {
    throw new ConfigError(where, "either targetTokens or compressionRatio", { targetTokens, compressionRatio });
  }
  if (policy.amount === "own" && (targetTokens !== undefined || compressionRatio !== undefined)) {
    throw new ConfigError(where, "no target, because the policy's own parameters decide how much stays", {
      policy: policy.name,
      targetTokens,
      compressionRatio,
    });
  }
  return {
    policy,
    intervalTokens,
    isDue: (tokensSinceLast) => tokensSinceLast >= intervalTokens,
    amount: (tokensSeen) => {
      if (policy.amount === "own") return undefined;
      if (compressionRatio === undefined) return { budget: targetTokens ?? 2048 };
      return { budget: keptCount({ compressionRatio }, tokensSeen) };
    },
  };
}
