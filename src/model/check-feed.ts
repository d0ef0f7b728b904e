/** What a cache cannot be fed, told before anything is computed. */

import { BudgetError, CapabilityError, ConfigError } from "../errors.ts";
import { hasForgotten } from "./cache-room.ts";
import type { FeedInput } from "./feed.ts";
import type { ModelCache } from "./model-cache.ts";
import { looksFromQuestion, windowRows } from "./query-needs.ts";

/** Whether the policy for prompts sees queries, so that a question can make a difference to it. */
export function looksFromQueries({ plan }: ModelCache): boolean {
  return looksFromQuestion(plan.compression?.prefill?.needs ?? {});
}

/** Refuses packed texts, padding and positions of the caller's where rows are let go by order or by score. */
export function checkOneText(cache: ModelCache, { segments, positions }: FeedInput): void {
  const forgets = cache.plan.compression !== undefined;
  const rings = cache.plan.layers.some(({ layout }) => layout?.type === "ring");
  if (!forgets && !rings) return;
  if (segments.some((segment) => segment !== 0)) {
    throw new CapabilityError(
      "forward",
      "one text without padding in a cache that forgets",
      { forgetsBy: forgets ? "policy" : "ring" },
      'Give every text a cache of its own, or make the cache with layout "contiguous" and no policy.',
    );
  }
  if (positions !== undefined && (cache.closesGaps || positions.some((p, t) => p !== positions[0] + t))) {
    throw new ConfigError("forward", "no positions for a cache that moves or drops rows by them", {
      closesGaps: cache.closesGaps,
    });
  }
}

/**
 * Refuses a prompt that a policy must see whole and the promised bytes do not hold, before anything is computed; and a
 * question that stays, whose queries they do not hold.
 */
export function checkPrompt(cache: ModelCache, { tokens, remaining, question, questionTail = 0 }: FeedInput): void {
  const { aside, compression, capacity } = cache.plan;
  if (aside === undefined || compression?.prefill === undefined) return;
  const { prefill } = compression;
  const asked = looksFromQueries(cache) ? (question?.length ?? 0) : 0;
  const prompt = cache.length() + tokens.length + remaining + asked;
  if (prompt > aside.promptTokens && !hasForgotten(cache)) {
    throw new BudgetError(
      "forward",
      "the whole prompt within maxBytes, for a policy that must see all of it",
      {
        ...{ policy: prefill.name, tokens: prompt, promptTokens: aside.promptTokens, capacity },
        maxBytes: cache.options.maxBytes,
      },
      (aside.promptTokens < cache.owner.config.maxPositions
        ? "Raise maxBytes, choose int8 or int4 elements, shorten the text"
        : "The model has no more positions: shorten the text") +
        ", or choose a policy that runs between chunks, such as keyDiff().",
    );
  }
  const rows = prefill.needs.queries === "question" ? windowRows(questionTail) : 0;
  if (rows <= aside.queryRows) return;
  throw new BudgetError(
    "forward",
    "the queries of a question that stays within maxBytes",
    { question: questionTail, room: Math.floor(aside.queryRows / 2), maxBytes: cache.options.maxBytes },
    "Shorten the question, raise prefillChunk and maxBytes, or leave keepQuestion out.",
  );
}

/** The refusal of a step for which not even compression makes room. */
export function noRoom(cache: ModelCache, question: number): BudgetError {
  return new BudgetError(
    "forward",
    "room for a token and the question beside what must stay",
    { rows: cache.length(), capacity: cache.plan.capacity, chunk: cache.plan.chunk, question },
    "Raise prefillChunk or maxBytes, or shorten the question.",
  );
}
