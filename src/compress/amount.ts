/** How much of a cache to keep. */

import { ConfigError } from "../errors.ts";

/** A fraction of the tokens to remove, or a number of tokens per head to keep. */
export type Amount =
  | {
      /** Fraction removed, 0 up to but not including 1. */
      readonly compressionRatio: number;
      readonly budget?: undefined;
    }
  | {
      /** Tokens kept per head. */
      readonly budget: number;
      readonly compressionRatio?: undefined;
    };

/**
 * Tokens to keep of `tokens`: the budget, or tokens · (1 − compressionRatio) rounded down, but at least 1 so that
 * nothing is emptied by rounding.
 *
 * @throws ConfigError when the amount is not a ratio in [0, 1) or a budget of at least 1
 */
export function keptCount(amount: Amount, tokens: number): number {
  return Math.min(tokens, Math.max(1, Math.floor(keptFraction(amount, tokens))));
}

/**
 * The same without rounding: the budget, or tokens · (1 − compressionRatio).
 *
 * @throws ConfigError as {@link keptCount}
 */
export function keptFraction(amount: Amount, tokens: number): number {
  checkAmount(amount);
  return Math.min(tokens, amount.budget ?? tokens * (1 - amount.compressionRatio));
}

/**
 * The fraction that goes: the ratio itself, or what a budget comes to.
 *
 * @throws ConfigError as {@link keptCount}
 */
export function removedRatio(amount: Amount, tokens: number): number {
  checkAmount(amount);
  return amount.compressionRatio ?? 1 - Math.min(1, amount.budget / tokens);
}

function checkAmount({ compressionRatio, budget }: Amount): void {
  if ((compressionRatio === undefined) === (budget === undefined)) {
    throw new ConfigError("compress", "give either compressionRatio or budget", { compressionRatio, budget });
  }
  if (compressionRatio !== undefined && !(compressionRatio >= 0 && compressionRatio < 1)) {
    throw new ConfigError(
      "compress",
      "compressionRatio must lie in [0, 1)",
      { compressionRatio },
      "It is the fraction removed; to forget everything, clear the cache.",
    );
  }
  if (budget !== undefined && !(Number.isSafeInteger(budget) && budget >= 1)) {
    throw new ConfigError("compress", "budget must be a whole number of tokens, at least 1", { budget });
  }
}
