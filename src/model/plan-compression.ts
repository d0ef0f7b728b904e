/**
 * From the options of a cache to policies: which one compresses prompts, which one what is generated, and how much they
 * keep of it.
 */

import {
  type DecodingCompression,
  decodingCompression,
  type Policy,
  rerotated,
  streamingLLM,
  tova,
} from "../compress/index.ts";
import { ConfigError } from "../errors.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { Room } from "./plan-room.ts";

/** When a cache forgets, and how much. */
export type CompressionPlan = {
  /** Absent: prompts are not compressed. */
  readonly prefill: Policy | undefined;
  /** Absent: generated tokens are not compressed. */
  readonly decoding: DecodingCompression | undefined;
  /** Tokens per head; absent where a ratio or the policy's own parameters decide. */
  readonly budget: number | undefined;
  readonly compressionRatio: number | undefined;
  /** Whether keys move together. */
  readonly moves: boolean;
  /** Whether a prompt is compressed at its end only. */
  readonly once: boolean;
};

/** The policies of a cache, as they were given. */
export type ChosenPolicies = { readonly policy: Policy | undefined; readonly decoding: Policy | undefined };

const WHERE = "createCache";

/**
 * The policy for prompts; undefined where the cache forgets nothing of them.
 *
 * @throws ConfigError when it cannot run, or nothing or too much says how many tokens it keeps
 */
export function policyOf(options: ModelCacheOptions): Policy | undefined {
  const { policy, budget, maxBytes, compressionRatio } = options;
  for (const [name, one] of Object.entries({ policy, "decoding.policy": options.decoding?.policy })) {
    if (one === undefined || typeof one?.plan === "function") continue;
    throw new ConfigError(
      WHERE,
      `${name} must be a policy`,
      { [name]: typeof one === "string" ? one : typeof one },
      "Make one with a function of phasor/compress, such as snapKV(), or from text with parsePolicy.",
    );
  }
  const hasAmount = budget !== undefined || maxBytes !== undefined || compressionRatio !== undefined;
  if (policy === undefined) return hasAmount ? streamingLLM() : undefined;
  if (!policy.moments.includes("prefill")) {
    throw new ConfigError(WHERE, "a policy that can run after a prefill", { policy: policy.name });
  }
  if (policy.amount === "own" && (budget !== undefined || compressionRatio !== undefined)) {
    throw new ConfigError(
      WHERE,
      "no budget or compressionRatio for a policy whose own parameters decide",
      { policy: policy.name, budget, compressionRatio },
      "Bound what is generated with decoding: { budget }, or all of it with maxBytes.",
    );
  }
  if (maxBytes !== undefined && policy.effects.includes("drops channels")) {
    throw new ConfigError(
      WHERE,
      "a policy that keeps keys as wide as they are, for maxBytes",
      { policy: policy.name },
      "The memory is taken beforehand, narrower keys would free none of it; " +
        (policy.amount === "own" ? "leave maxBytes out." : "give a budget instead."),
    );
  }
  if (policy.amount === "given" && !hasAmount) {
    throw new ConfigError(
      WHERE,
      "a policy needs to know how much stays",
      { policy: policy.name },
      "Give budget, maxBytes or compressionRatio.",
    );
  }
  return policy;
}

/**
 * The policy for what is generated; undefined where it is not compressed.
 *
 * @throws ConfigError when bytes are promised and it might let go of too little
 */
export function decodingPolicyOf(options: ModelCacheOptions, policy: Policy | undefined): Policy | undefined {
  const { decoding, budget, maxBytes } = options;
  if (decoding === undefined && budget === undefined && maxBytes === undefined) return undefined;
  const mayDecode = policy?.moments.includes("decoding") && !runsOnce(policy) ? policy : undefined;
  const isKnown = maxBytes === undefined || mayDecode?.amount !== "own";
  const fallback = policy?.ragged ? streamingLLM() : tova();
  const chosen = decoding?.policy ?? (isKnown ? mayDecode : undefined) ?? fallback;
  if (maxBytes !== undefined && chosen.amount === "own") {
    throw new ConfigError(
      WHERE,
      "a policy for decoding that is told how much to keep, for maxBytes",
      { "decoding.policy": chosen.name },
      "This one keeps as much as its own parameters say.",
    );
  }
  return chosen;
}

/**
 * Whether a policy can look at a cache only once, before anything is gone: it wants the whole prompt at once, or
 * compares heads that it leaves with unequal numbers of tokens.
 */
export function runsOnce({ needs, ragged, evenHeads }: Policy): boolean {
  const wantsAll = needs.repeats !== undefined || (needs.queries === Infinity && !needs.questionTokens);
  return wantsAll || (ragged && evenHeads === true);
}

/** Whether a policy may leave heads, or layers, with unequal numbers of tokens. */
export function sharesOut({ ragged, uneven, scope, amount, effects }: Policy): boolean {
  return ragged || uneven === true || scope === "model" || (amount === "own" && effects.includes("evicts"));
}

/**
 * Whether keys move together.
 *
 * @throws ConfigError when they shall not, but a policy moves them
 */
export function movesKeys(options: ModelCacheOptions, policy: Policy | undefined): boolean {
  const chosen = [policy, options.decoding?.policy].some((one) => one?.effects.includes("moves keys"));
  const isDefault = options.policy === undefined && policy !== undefined;
  if (options.rerotate === false && chosen) {
    throw new ConfigError(WHERE, "rerotate must not be false for a policy that moves keys", {
      policy: policy?.name,
      "decoding.policy": options.decoding?.policy?.name,
    });
  }
  return options.rerotate ?? (chosen || isDefault);
}

/**
 * Joins the policies with the room that there is.
 *
 * @throws ConfigError when they contradict each other or it
 */
export function planCompression(options: ModelCacheOptions, chosen: ChosenPolicies, room: Room): CompressionPlan {
  const { compressionRatio } = options;
  const { policy } = chosen;
  const moves = movesKeys(options, policy);
  const decoding = planDecoding(options, chosen, room, moves);
  if (room.capacity !== undefined && decoding && decoding.intervalTokens > room.chunk) {
    throw new ConfigError(WHERE, "decoding.interval must not exceed prefillChunk, for which there is room", {
      interval: decoding.intervalTokens,
      prefillChunk: room.chunk,
    });
  }
  const prefill = policy && (moves ? moving(policy) : policy);
  return { prefill, decoding, budget: room.budget, compressionRatio, moves, once: room.once };
}

/** How many tokens stay while tokens are generated, and how many may come in between. */
function planDecoding(
  options: ModelCacheOptions,
  { policy, decoding: chosen }: ChosenPolicies,
  { budget, kept, chunk }: Room,
  moves: boolean,
): DecodingCompression | undefined {
  const { decoding } = options;
  if (chosen === undefined) return undefined;
  const evenInterval = kept === undefined ? 512 : Math.min(chunk, Math.max(8, Math.floor(kept / 16)));
  const intervalTokens = decoding?.interval ?? evenInterval;
  const targetTokens = decoding?.budget ?? (decoding?.compressionRatio === undefined ? kept : undefined);
  const ratio = decoding?.compressionRatio ?? (targetTokens === undefined ? options.compressionRatio : undefined);
  if (chosen.amount === "given" && targetTokens === undefined && ratio === undefined) {
    throw new ConfigError(
      WHERE,
      "decoding needs to know how much stays",
      { policy: chosen.name },
      "Give decoding.budget or decoding.compressionRatio.",
    );
  }
  if (kept !== undefined && (ratio !== undefined || (targetTokens ?? 0) > kept)) {
    throw new ConfigError(WHERE, "decoding must not keep more than the cache's budget", {
      budget: budget ?? kept,
      "decoding.budget": targetTokens,
      "decoding.compressionRatio": ratio,
    });
  }
  if (policy?.ragged && chosen.evenHeads) {
    throw new ConfigError(
      WHERE,
      "a policy for decoding that takes heads of unequal length",
      { "decoding.policy": chosen.name, policy: policy.name },
      "Choose one that scores each head alone, such as keyDiff() or streamingLLM().",
    );
  }
  return decodingCompression(moves ? moving(chosen) : chosen, {
    intervalTokens,
    ...(chosen.amount === "given" && targetTokens !== undefined && { targetTokens }),
    ...(chosen.amount === "given" && targetTokens === undefined && ratio !== undefined && { compressionRatio: ratio }),
  });
}

function moving(policy: Policy): Policy {
  return policy.effects.includes("moves keys") ? policy : rerotated(policy);
}
