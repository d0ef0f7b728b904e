/**
 * Tokens into a cache: cut into steps that it has room for, and compressed in between, so that a cache with a budget
 * never holds more than that and one chunk.
 */

import { type Amount, keptCount, type Policy, rerotated, streamingLLM } from "../compress/index.ts";
import type { Backend } from "../engine/index.ts";
import { planFrequencyChange, type RotaryLayer } from "../rope/index.ts";
import { f32, type Tensor } from "../tensor.ts";
import { hasForgotten, hasUnevenHeads, meanLength, queryRoom, roomOf } from "./cache-room.ts";
import { checkOneText, checkPrompt, looksFromQueries, noRoom } from "./check-feed.ts";
import { addAttentionMass, type CompressionParts, compressCache } from "./compress-cache.ts";
import type { Decoder, LayerListener, StepObserver, TokenBatch } from "./decoder.ts";
import type { ModelCache } from "./model-cache.ts";
import { runsOnce } from "./plan-compression.ts";
import { DECODING_QUERIES, queriesWanted, questionQueries } from "./query-needs.ts";
import { QueryWindow } from "./query-window.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What feeding needs of a model. */
export type FeedParts = {
  readonly decoder: Decoder;
  readonly backend: Backend;
  readonly tokenizer: Tokenizer | undefined;
  /** The layers whose frequencies change with length, each different one once. */
  readonly changing: readonly RotaryLayer[];
};

/** Tokens of one call. */
export type FeedInput = {
  readonly tokens: Int32Array;
  /** Where the caller says they are; on from the cache's next position when absent. */
  readonly positions?: Int32Array | undefined;
  readonly segments: Int32Array;
  /** Tokens whose logits are wanted, counted from the last. */
  readonly logits: number;
  /** Length that schedules are resolved for at least. */
  readonly sequenceLength: number;
  /** Tokens of the prompt that will follow in other calls. */
  readonly remaining: number;
  /** Whether the cache shall be back at its budget at the end, however little is above it. */
  readonly settle?: boolean | undefined;
  /** What policies shall look from; forgotten each time they have. */
  readonly question?: Int32Array | undefined;
  /** Last tokens of the call that are the question and stay; policies look from them when the prompt ends. */
  readonly questionTail?: number | undefined;
  readonly onLayer?: LayerListener | undefined;
};

/**
 * Runs tokens through the model and keeps the cache within what it was made for. Where a step throws, the cache holds the
 * tokens of the steps before it; where a compression does, the next call tries once more.
 *
 * @returns f32 [logits, V]
 * @throws BudgetError when not even one token finds room, or a policy must see a longer prompt than the bytes hold;
 * ConfigError when the policy needs a question
 */
export async function feed(parts: FeedParts, cache: ModelCache, input: FeedInput): Promise<Tensor<"f32">> {
  const T = input.tokens.length;
  checkOneText(cache, input);
  const decoding = T === 1 && cache.length() > 0 && input.question === undefined && !input.settle;
  if (!decoding) checkPrompt(cache, input);
  const question = looksFromQueries(cache) ? (input.question?.length ?? 0) : 0;
  const { overdue } = cache.progress;
  if (overdue) {
    cache.progress.overdue = undefined;
    await shrink(parts, cache, input, { decoding: overdue === "generated", more: true, overdue: true });
  }
  const pieces: Tensor<"f32">[] = [];
  for (let at = 0; at < T; ) {
    let room = roomOf(cache) - question;
    if (room < 1 && cache.length() > 0) {
      await shrink(parts, cache, input, { decoding, more: true });
      room = roomOf(cache) - question;
    }
    if (room < 1) throw noRoom(cache, question);
    const count = Math.min(T - at, room);
    const end = at + count;
    const batch = {
      tokens: input.tokens.subarray(at, end),
      positions: input.positions?.subarray(at, end) ?? following(cache.nextPosition, count),
      segments: input.segments.subarray(at, end),
    };
    const logits = Math.max(0, end - Math.max(at, T - input.logits));
    pieces.push(await runStep(parts, cache, batch, logits, input, decoding));
    at = end;
    try {
      await compressIfDue(parts, cache, input, { decoding, more: T - at + input.remaining });
    } catch (error) {
      if (cache.length() > 0) cache.progress.overdue = decoding ? "generated" : "prompt";
      throw error;
    }
  }
  return pieces.length === 1 ? pieces[0] : joinRows([input.logits, parts.decoder.config.vocabSize], pieces);
}

/** Runs one step, whose length schedules are settled first. */
async function runStep(
  parts: FeedParts,
  cache: ModelCache,
  added: TokenBatch,
  logits: number,
  { sequenceLength, onLayer, questionTail = 0 }: FeedInput,
  decoding: boolean,
): Promise<Tensor<"f32">> {
  const { decoder, backend } = parts;
  // Where tokens move together, the text's length says nothing about positions.
  const known = cache.closesGaps ? 1 : sequenceLength;
  const { batch, scheduleLength } = keepFrequencies(parts, added, cache, known);
  const T = batch.tokens.length;
  const mark = cache.mark();
  const lengthBefore = cache.scheduleLength;
  try {
    const limit = queriesToHold(cache, decoding, T, questionTail);
    if (limit > 0) cache.queries.begin(T, limit, queryRoom(cache));
    else if (cache.queries.length > 0) cache.queries.clear();
    const observer: StepObserver | undefined =
      limit > 0 ? { queries: (layer, queries) => cache.queries.capture(layer, queries) } : undefined;
    cache.scheduleLength = scheduleLength;
    const result = await decoder.run(batch, cache, scheduleLength, T - logits, { onLayer, observer });
    if (limit > 0) cache.queries.end(batch.positions);
    cache.commit(batch);
    if (!decoding && cache.plan.compression?.prefill?.needs.attentionMass) {
      await addAttentionMass(backend, decoder, cache, T);
    }
    if (decoding) cache.progress.sinceLast += T;
    return result;
  } catch (error) {
    await settle(backend);
    cache.abandon();
    cache.rollBack(mark);
    cache.queries.dropAfter(mark.nextPosition);
    cache.scheduleLength = lengthBefore;
    throw error;
  }
}

/** Runs tokens that will be forgotten again, at the positions that follow. */
async function runAside(
  { decoder, backend }: FeedParts,
  cache: ModelCache,
  tokens: Int32Array,
  observer: StepObserver,
): Promise<void> {
  const positions = following(cache.nextPosition, tokens.length);
  const batch = { tokens, positions, segments: new Int32Array(tokens.length) };
  const length = cache.scheduleLength > 0 ? cache.scheduleLength : cache.nextPosition + tokens.length;
  try {
    await decoder.run(batch, cache, length, tokens.length, { observer });
  } catch (error) {
    await settle(backend);
    cache.abandon();
    throw error;
  }
  cache.commit(batch);
}

/** Waits for what was issued before something threw. What fails now fails for the same reason, which is told already. */
async function settle(backend: Backend): Promise<void> {
  await Promise.resolve(backend.flush()).catch(() => {});
}

/** Compresses where the budget is passed, or the interval is over. */
async function compressIfDue(
  parts: FeedParts,
  cache: ModelCache,
  input: FeedInput,
  { decoding, more }: { readonly decoding: boolean; readonly more: number },
): Promise<void> {
  const { compression } = cache.plan;
  if (compression === undefined) return;
  const { budget, prefill } = compression;
  if (decoding) {
    if (!compression.decoding?.isDue(cache.progress.sinceLast)) return;
    await shrink(parts, cache, input, { decoding, more: false });
    return;
  }
  if (prefill === undefined) return;
  if (more > 0 && compression.once) return;
  const slack = more > 0 || input.settle ? 0 : (compression.decoding?.intervalTokens ?? 0);
  if (budget !== undefined && meanLength(cache) <= budget + slack) return;
  await shrink(parts, cache, input, { decoding, more: more > 0 });
}

/** Why a cache is compressed. */
type Shrinking = {
  readonly decoding: boolean;
  /** Whether the prompt goes on. */
  readonly more: boolean;
  /** Whether it should have been compressed before. */
  readonly overdue?: boolean;
};

/** Compresses now, by the policy for prompts or the one for generated tokens. */
async function shrink(
  parts: FeedParts,
  cache: ModelCache,
  input: FeedInput,
  { decoding, more, overdue = false }: Shrinking,
): Promise<void> {
  const { compression } = cache.plan;
  if (compression === undefined) return;
  const run: CompressionParts["run"] = (tokens, observer) => runAside(parts, cache, tokens, observer);
  const task = { ...parts, run };
  const { prefill } = compression;
  const asksAtEnd = !more && input.questionTail !== undefined;
  const asked = asksAtEnd || input.question !== undefined;
  const midPrompt = more && compression.once && !overdue;
  const lacksQuestion = overdue && !asked && prefill !== undefined && needsQuestion(prefill);
  // What was generated may have left no room for a question to look from.
  const asideTokens = !asksAtEnd && looksFromQueries(cache) ? (input.question?.length ?? 0) : 0;
  const isFull = roomOf(cache) < asideTokens;
  if (!decoding && !midPrompt && !lacksQuestion && !isFull && prefill && suits(prefill, cache, asked)) {
    const amount = prefillAmount(cache, prefill);
    const isUneven = prefill.evenHeads && hasUnevenHeads(cache);
    if (input.question !== undefined && !asksAtEnd && !isUneven && looksFromQueries(cache)) {
      await compressWithQuestion(parts, task, cache, prefill, amount, input.question);
      return;
    }
    const question = asksAtEnd ? { tokens: input.questionTail ?? 0, forgetFrom: undefined } : undefined;
    const policy = able(prefill, cache, amount);
    if (policy) await compressCache(task, cache, { policy, amount, queries: cache.queries, question });
    if (question) cache.progress.hadQuestion = true;
    // Where bytes are promised, the queries of a whole prompt do not stay when nobody will look from them again.
    if (cache.plan.aside?.promptQueryRows) cache.queries.clear();
    return;
  }
  if (compression.decoding === undefined) return;
  const amount = compression.decoding.amount(cache.tokensSeen);
  if (amount?.budget !== undefined && meanLength(cache) <= amount.budget) {
    cache.progress.sinceLast = 0;
    return;
  }
  const policy = able(compression.decoding.policy, cache, amount);
  if (policy) await compressCache(task, cache, { policy, amount, queries: cache.queries });
}

/**
 * The policy, or one by age where it cannot look: operations between two steps forget the queries, and leave heads that
 * hold other tokens with unequal numbers of them. Undefined where nothing says how many would stay.
 */
function able(policy: Policy, cache: ModelCache, amount: Amount | undefined): Policy | undefined {
  const { queries, unrotatedQueries } = policy.needs;
  const looks = (typeof queries === "number" && queries > 0) || unrotatedQueries;
  const isAble = (!looks || cache.queries.length > 0) && !(policy.evenHeads && hasUnevenHeads(cache));
  if (isAble) return policy;
  if (amount === undefined) return undefined;
  return policy.effects.includes("moves keys") ? rerotated(streamingLLM()) : streamingLLM();
}

/** Whether the policy for prompts can run again; where it cannot, that for generated tokens takes its place. */
function suits(policy: Policy, cache: ModelCache, asked: boolean): boolean {
  if (runsOnce(policy)) {
    const hasQueries = policy.needs.queries !== Infinity || cache.queries.length >= cache.length();
    return hasQueries && !hasForgotten(cache);
  }
  if (!needsQuestion(policy)) return true;
  return asked || !cache.progress.hadQuestion;
}

function needsQuestion({ needs }: Policy): boolean {
  return needs.queries === "question" || needs.questionTokens === true;
}

/** Lets a policy look from a question, which is forgotten afterwards. */
async function compressWithQuestion(
  parts: FeedParts,
  task: CompressionParts,
  cache: ModelCache,
  policy: Policy,
  amount: Amount | undefined,
  question: Int32Array,
): Promise<void> {
  const { layers } = parts.decoder.config;
  const window = new QueryWindow(parts.backend, layers);
  const mark = cache.mark();
  const kept = amount?.compressionRatio === undefined ? amount : { budget: keptCount(amount, cache.length()) };
  const seen = questionQueries(policy.needs, question.length);
  let held = 0;
  try {
    if (seen > 0) window.begin(question.length, seen);
    held = window.allocatedBytes;
    cache.holdAside(held);
    await task.run(question, seen > 0 ? { queries: (layer, queries) => window.capture(layer, queries) } : {});
    if (seen > 0) window.end(following(mark.nextPosition, question.length));
    const asked = { tokens: question.length, forgetFrom: mark };
    await compressCache(task, cache, { policy, amount: kept, queries: window, question: asked });
    cache.progress.hadQuestion = true;
  } catch (error) {
    await settle(parts.backend);
    cache.rollBack(mark);
    throw error;
  } finally {
    window.clear();
    cache.holdAside(-held);
  }
}

/** How much a prompt's policy keeps. A ratio is of all tokens, also of those that went before. */
function prefillAmount(cache: ModelCache, policy: Policy): Amount | undefined {
  const { budget, compressionRatio } = cache.plan.compression ?? {};
  if (policy.amount === "own") return undefined;
  if (budget !== undefined) return { budget };
  const ratio = { compressionRatio: compressionRatio ?? 0 };
  return hasForgotten(cache) ? { budget: keptCount(ratio, cache.tokensSeen) } : ratio;
}

/** Queries that the policies want to look from after a step. */
function queriesToHold(cache: ModelCache, decoding: boolean, T: number, questionTail: number): number {
  const { compression, aside } = cache.plan;
  if (compression === undefined) return 0;
  // A prompt that is compressed once, at its end, may be one that a policy wants all queries of.
  const whole = compression.once && (aside === undefined || !hasForgotten(cache));
  const most = !decoding && whole ? cache.queries.length + T : T;
  const all = Math.max(aside?.heldQueries ?? DECODING_QUERIES, most);
  const ofPrompt = decoding ? 0 : queriesWanted(compression.prefill?.needs, T, questionTail);
  const ofDecoding = queriesWanted(compression.decoding?.policy.needs, T, questionTail);
  return Math.max(...[ofPrompt, ofDecoding].map((wanted) => (wanted === Infinity ? all : wanted)));
}

/**
 * Settles which length the schedules are resolved for, and carries out the cache's choice where that changes the
 * frequencies its keys were rotated with.
 */
function keepFrequencies(
  { changing }: FeedParts,
  added: TokenBatch,
  cache: ModelCache,
  sequenceLength: number,
): { batch: TokenBatch; scheduleLength: number } {
  const newLength = Math.max(sequenceLength, cache.nextPosition, lengthOf(added.positions));
  if (cache.length() === 0) return { batch: added, scheduleLength: cache.pinnedLength ?? newLength };
  const choice = cache.onFrequencyChange;
  const cachedLength = cache.scheduleLength;
  if (choice === "pin") return { batch: added, scheduleLength: cachedLength };
  const actions = changing.map((layer) => planFrequencyChange({ layer, cachedLength, newLength, choice }).action);
  if (actions.includes("reprefill")) {
    return { batch: concatenate([...cache.takeHistory(), added]), scheduleLength: newLength };
  }
  if (actions.includes("rerotate")) cache.changeFrequencies(newLength);
  return { batch: added, scheduleLength: newLength };
}

function following(next: number, count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, t) => next + t);
}

function lengthOf(positions: Int32Array): number {
  let length = 0;
  for (const position of positions) length = Math.max(length, position + 1);
  return length;
}

function concatenate(batches: readonly TokenBatch[]): TokenBatch {
  const join = (pick: (batch: TokenBatch) => Int32Array): Int32Array =>
    Int32Array.from(batches.flatMap((batch) => Array.from(pick(batch))));
  return { tokens: join((b) => b.tokens), positions: join((b) => b.positions), segments: join((b) => b.segments) };
}

function joinRows(shape: readonly number[], pieces: readonly Tensor<"f32">[]): Tensor<"f32"> {
  const data = new Float32Array(shape[0] * shape[1]);
  let at = 0;
  for (const piece of pieces) {
    data.set(piece.data, at);
    at += piece.data.length;
  }
  return f32(shape, data);
}
