/**
 * How many tokens a cache keeps, how many it takes in at a time, and, where bytes are promised, everything that it may
 * ever hold: rows, what is known about every slot, queries, and a context that is fed once more.
 */

import { type KvLayerSpec, planCacheBudget } from "../cache/index.ts";
import type { Policy } from "../compress/index.ts";
import { BudgetError } from "../errors.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { DecoderConfig } from "./config.ts";
import { type ChosenPolicies, runsOnce, sharesOut } from "./plan-compression.ts";
import { DECODING_QUERIES, looksFromQuestion, queriesWanted, questionQueries, windowRows } from "./query-needs.ts";
import { type RepeatSize, repeatBytes, repeatSize } from "./repeat-size.ts";
import { recordBytesPerSlot } from "./slot-records.ts";

/** Tokens to keep, tokens to take in at a time, and rows that both need. */
export type Room = {
  /** Tokens that stay of a prompt; absent where a ratio or the policy's own parameters decide. */
  readonly budget: number | undefined;
  /** Tokens that stay while tokens are generated; absent where nothing is bounded. */
  readonly kept: number | undefined;
  readonly chunk: number;
  /** Rows of a head, on average; absent: any number. */
  readonly capacity: number | undefined;
  /** Whether prompts are compressed at their end only. */
  readonly once: boolean;
  /** Absent where no bytes are promised. */
  readonly aside: AsidePlan | undefined;
};

/** What a cache with promised bytes may hold beside its rows. */
export type AsidePlan = {
  /** Tokens that may be in the cache when a policy that must see all of them runs; Infinity for other policies. */
  readonly promptTokens: number;
  /** Queries of the last tokens. */
  readonly queryRows: number;
  /** Queries of a whole prompt, for a policy that looks from all of them; 0 for others. */
  readonly promptQueryRows: number;
  /** Queries that are held between steps for policies that would look at all. */
  readonly heldQueries: number;
  /** Tokens of a question whose queries a policy looks from. */
  readonly questionRows: number;
  /** The context fed once more. */
  readonly repeat: RepeatSize;
};

/** A cache as `createCache` is about to make it. */
type Made = {
  readonly layers: readonly KvLayerSpec[];
  readonly axes: number;
  readonly moves: boolean;
  /** Whether the model has a tokenizer, so that a repeat is asked for in words. */
  readonly words: boolean;
};
/** A room with nothing left open. */
type BoundedRoom = Room & { readonly kept: number; readonly capacity: number; readonly aside: AsidePlan };

const WHERE = "createCache";
const MOST_CHUNK = 512;
const LEAST_CHUNK = 32;
const PAGE_SIZE = 16;

/**
 * Plans the room of a cache that forgets.
 *
 * @throws BudgetError when the bytes do not hold what must be there at once, or the budget does not hold what stays
 */
export function planRoom(config: DecoderConfig, options: ModelCacheOptions, chosen: ChosenPolicies, made: Made): Room {
  const { budget, maxBytes, prefillChunk } = options;
  const { policy } = chosen;
  if (budget !== undefined) checkContext(config, made.moves, budget);
  if (maxBytes !== undefined) return boundedRoom(config, options, chosen, made);
  const once = policy !== undefined && runsOnce(policy);
  const open = { budget, kept: budget, capacity: undefined, aside: undefined };
  if (budget === undefined) return { ...open, chunk: prefillChunk ?? Infinity, once: true };
  checkWindow(policy, budget);
  const context = made.moves ? config.maxPositions - budget : Infinity;
  const chunk = prefillChunk ?? Math.min(MOST_CHUNK, Math.max(LEAST_CHUNK, budget), context);
  const isEven = !once && ![policy, chosen.decoding].some((one) => one !== undefined && sharesOut(one));
  // Memory that is taken once and for all would not follow keys that get narrower.
  const isFixed = isEven && !policy?.effects.includes("drops channels");
  return { ...open, chunk, capacity: isFixed ? budget + chunk : undefined, once };
}

/** The most that fits into the bytes. */
function boundedRoom(
  config: DecoderConfig,
  options: ModelCacheOptions,
  chosen: ChosenPolicies,
  made: Made,
): BoundedRoom {
  const { budget, maxBytes = 0, prefillChunk = 1 } = options;
  const { policy } = chosen;
  const once = policy !== undefined && (runsOnce(policy) || policy.amount === "own");
  const roomOf = (tokens: number): BoundedRoom =>
    once ? roomForPrompt(tokens, options, chosen, made) : roomForChunks(tokens, options, chosen, made);
  const bytesOf = (tokens: number): number => roomBytes(config, policy, made, roomOf(tokens));

  const least = once ? (budget ?? 1) + 1 : (budget ?? 1) + prefillChunk;
  if (bytesOf(least) > maxBytes) {
    throw new BudgetError(
      WHERE,
      once
        ? "maxBytes must hold a prompt longer than the budget, all of which the policy must see, in every layer"
        : "maxBytes must hold the budget and one chunk in every layer",
      { maxBytes, neededBytes: bytesOf(least), tokens: least, ...(once && { policy: policy.name }) },
      "Raise maxBytes, lower budget or prefillChunk, or choose int8 or int4 elements.",
    );
  }
  // More rows than the model has positions would be of no use.
  let [low, high] = [least, Math.max(least, config.maxPositions + (made.moves ? 0 : MOST_CHUNK))];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (bytesOf(middle) <= maxBytes) low = middle;
    else high = middle - 1;
  }
  const room = roomOf(low);
  if (room.budget !== undefined) checkWindow(policy, room.budget);
  return room;
}

/** Room for so many tokens of budget and chunk together. */
function roomForChunks(
  tokens: number,
  { budget, prefillChunk }: ModelCacheOptions,
  chosen: ChosenPolicies,
  made: Made,
): BoundedRoom {
  const chunk =
    prefillChunk ??
    (budget === undefined
      ? Math.min(MOST_CHUNK, Math.max(1, Math.floor(tokens / 4)))
      : Math.min(MOST_CHUNK, Math.max(LEAST_CHUNK, budget), tokens - budget));
  const kept = budget ?? tokens - chunk;
  const aside = asideFor(chosen, Infinity, chunk, { partTokens: 0, repeatTokens: 0, totalTokens: 0 });
  return { budget: kept, kept, chunk, capacity: kept + chunk + slackOf(chosen, made), once: false, aside };
}

/** Room for a prompt of so many tokens, what must be held beside it, and half of it to stay unless told. */
function roomForPrompt(tokens: number, options: ModelCacheOptions, chosen: ChosenPolicies, made: Made): BoundedRoom {
  const { prefillChunk, decoding } = options;
  const policy = chosen.policy as Policy;
  const isOwn = policy.amount === "own";
  const kept = (isOwn ? decoding?.budget : options.budget) ?? Math.max(1, Math.floor(tokens / 2));
  const chunk = Math.min(prefillChunk ?? Math.min(MOST_CHUNK, Math.max(1, Math.floor(tokens / 4))), tokens);
  const repeat = repeatSize(policy.needs, options.repeat ?? {}, tokens, made.words);
  const rows = Math.max(tokens + repeat.repeatTokens, kept + chunk);
  return {
    ...{ budget: isOwn ? undefined : kept, kept, chunk, once: true },
    capacity: rows + slackOf(chosen, made),
    aside: asideFor(chosen, tokens, chunk, repeat),
  };
}

/** Heads end within a page: each may leave most of one unused, and keeps one row where it would keep none. */
function slackOf({ policy, decoding }: ChosenPolicies, { layers }: Made): number {
  const shares = [policy, decoding].some((one) => one !== undefined && sharesOut(one));
  return shares && layers[0].layout?.type === "paged" ? PAGE_SIZE : 0;
}

function asideFor(
  { policy, decoding }: ChosenPolicies,
  promptTokens: number,
  chunk: number,
  repeat: RepeatSize,
): AsidePlan {
  const heldQueries = Math.min(DECODING_QUERIES, Math.max(1, Math.floor(chunk / 2)));
  const held = (one: Policy | undefined, T: number): number => {
    const wanted = queriesWanted(one?.needs, T, chunk);
    // All of a step's queries are looked from at its end, and make room for the next ones.
    if (wanted === Infinity || one?.needs.attentionMass || one?.needs.queries === "question") {
      return Math.max(T, windowRows(heldQueries));
    }
    return windowRows(wanted);
  };
  const sliding = Math.max(held(policy, chunk), held(decoding, 1));
  const whole = Number.isFinite(promptTokens) && queriesWanted(policy?.needs, 0, 0) === Infinity ? promptTokens : 0;
  const asks = policy !== undefined && looksFromQuestion(policy.needs);
  return {
    ...{ promptTokens, queryRows: sliding, promptQueryRows: whole, heldQueries, repeat },
    questionRows: asks ? questionQueries(policy.needs, chunk) : 0,
  };
}

/** Bytes that a cache with this room ever holds at once. */
function roomBytes(config: DecoderConfig, policy: Policy | undefined, made: Made, room: BoundedRoom): number {
  const { capacity, aside } = room;
  const { layers, axes } = made;
  const request = { layers, axes, ragged: true, maxBytes: Number.MAX_SAFE_INTEGER };
  const rows = layers[0].layout?.type === "paged" ? PAGE_SIZE * Math.ceil(capacity / PAGE_SIZE) : capacity;
  const mass = policy?.needs.attentionMass === true;
  const queries = config.layers.reduce((sum, { heads, headDim }) => sum + 4 * heads * headDim, 0);
  return (
    planCacheBudget({ ...request, minTokens: capacity, maxTokens: capacity }).bytes +
    rows * recordBytesPerSlot({ layers: config.layers, mass }) +
    (aside.queryRows + aside.promptQueryRows + aside.questionRows) * queries +
    repeatBytes(config, policy?.needs ?? {}, aside.repeat)
  );
}

/** Refuses a budget that fills the model's context, which what moves together never leaves. */
function checkContext({ maxPositions }: DecoderConfig, moves: boolean, budget: number): void {
  if (!moves || budget < maxPositions) return;
  throw new BudgetError(
    WHERE,
    "the budget must leave room in the model's context, where what stays moves together",
    { budget, maxPositions },
    "Lower the budget, or pass rerotate: false.",
  );
}

/** Refuses a budget that the tokens looked from fill alone, so that nothing else could stay. */
function checkWindow(policy: Policy | undefined, budget: number): void {
  const window = policy?.needs.queries;
  if (typeof window !== "number" || window === Infinity || window < budget) return;
  throw new BudgetError(
    WHERE,
    "the budget must exceed the policy's window, which always stays",
    { budget, window, policy: policy?.name },
    "Raise budget or maxBytes, or give the policy a smaller window.",
  );
}
