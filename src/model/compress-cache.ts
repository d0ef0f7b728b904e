/**
 * One compression of a cache: observe, plan, let go.
 */

import {
  type Amount,
  type AttentionMass,
  applyPlanToCache,
  attentionMassOf,
  type LayerPlan,
  lastQueries,
  type Observation,
  type Policy,
  type RepeatPass,
} from "../compress/index.ts";
import type { Backend } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import { querySums } from "./attention-sums.ts";
import type { Decoder } from "./decoder.ts";
import type { ModelCache } from "./model-cache.ts";
import type { CacheMark } from "./model-rows.ts";
import { observeLayer, observeRows, windowQueries } from "./observe.ts";
import type { QueryWindow } from "./query-window.ts";
import { type RunTokens, repeatContext } from "./repeats.ts";
import { Scratch } from "./scratch.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What a compression needs of its model. */
export type CompressionParts = {
  readonly decoder: Decoder;
  readonly backend: Backend;
  readonly tokenizer: Tokenizer | undefined;
  readonly run: RunTokens;
};

/** One compression. */
export type CompressionTask = {
  readonly policy: Policy;
  /** Absent where the policy's own parameters decide. */
  readonly amount: Amount | undefined;
  /** The queries that the policy looks from. */
  readonly queries: QueryWindow;
  /** A question at the end of the cache; with a mark it is forgotten when the policy has seen it. */
  readonly question?: { readonly tokens: number; readonly forgetFrom: CacheMark | undefined } | undefined;
};

/**
 * Compresses a cache between two steps.
 *
 * @throws ConfigError when the policy needs a question that is not there
 */
export async function compressCache(parts: CompressionParts, cache: ModelCache, task: CompressionTask): Promise<void> {
  const { policy, question } = task;
  if ((policy.needs.queries === "question" || policy.needs.questionTokens) && question === undefined) {
    throw new ConfigError(
      "compress",
      "a question, for a policy that looks from one",
      { policy: policy.name },
      "Feed the text with model.prefill(cache, text, { question }).",
    );
  }
  const amount = task.amount?.budget === undefined ? task.amount : budgetWithQuestion(task.amount.budget, question);
  const scratch = new Scratch(parts.backend);
  let repeats: Awaited<ReturnType<typeof repeatContext>> | undefined;
  try {
    if (policy.needs.repeats) repeats = await repeatContext({ ...parts, scratch }, cache, policy);
    const plans = await planLayers({ ...parts, scratch }, cache, task, amount, repeats?.passes);
    apply(cache, plans, question?.forgetFrom);
  } finally {
    scratch.release();
    if (repeats) cache.holdAside(-repeats.bytes);
  }
}

/** What becomes of every layer; the cache stays as it is. */
async function planLayers(
  { decoder, scratch }: CompressionParts & { readonly scratch: Scratch },
  cache: ModelCache,
  { policy, queries, question }: CompressionTask,
  amount: Amount | undefined,
  repeats: readonly (readonly RepeatPass[])[] | undefined,
): Promise<LayerPlan[]> {
  const leavesFrom = question?.forgetFrom?.nextPosition;
  const from = { decoder, scratch, cache, queries, questionTokens: question?.tokens ?? 0, leavesFrom, repeats };
  const observe = (layer: number): ReturnType<typeof observeLayer> => observeLayer(from, layer, policy);
  const notify = cache.options.onCompress ?? (() => {});
  const plans: LayerPlan[] = [];
  if (policy.scope === "layer") {
    for (let layer = 0; layer < cache.layers; layer++) {
      const observation = await observe(layer);
      const [plan] = policy.plan([observation], amount);
      notify({ layer, observation, plan });
      plans.push(plan);
    }
  } else {
    const observations: Observation[] = [];
    for (let layer = 0; layer < cache.layers; layer++) observations.push(await observe(layer));
    plans.push(...policy.plan(observations, amount));
    for (const [layer, plan] of plans.entries()) notify({ layer, observation: observations[layer], plan });
  }
  return plans;
}

/**
 * Carries out plans, and forgets the question first where it shall go. Where that throws, layers no longer agree: the cache
 * is then empty.
 */
function apply(cache: ModelCache, plans: readonly LayerPlan[], forgetFrom: CacheMark | undefined): void {
  if (forgetFrom) cache.rollBack(forgetFrom);
  const before = cache.nextPosition;
  try {
    for (const [layer, plan] of plans.entries()) {
      const kept = applyPlanToCache(cache.kv, layer, forgetFrom ? withoutQuestion(cache, layer, plan) : plan);
      cache.records.keep(layer, kept, cache.kv.isRagged(layer));
    }
  } catch (error) {
    cache.clear();
    throw error;
  }
  if (cache.nextPosition !== before) cache.queries.shift(cache.nextPosition - before);
  cache.progress.count++;
  cache.progress.sinceLast = 0;
}

/** A plan for the slots that are there still. */
function withoutQuestion(cache: ModelCache, layer: number, plan: LayerPlan): LayerPlan {
  const { valueDim } = cache.plan.layers[layer];
  const kept = plan.kept.map((slots, head) => {
    const rows = cache.kv.length(layer, head);
    return slots.filter((slot) => slot < rows);
  });
  return {
    ...plan,
    kept,
    ...(plan.positions && { positions: plan.positions.map((to, head) => to.subarray(0, kept[head].length)) }),
    ...(plan.values && { values: plan.values.map((rows, head) => rows.subarray(0, kept[head].length * valueDim)) }),
  };
}

/** A budget of the text and, for as long as it is there, the question. */
function budgetWithQuestion(budget: number, question: CompressionTask["question"]): Amount {
  return { budget: question?.forgetFrom ? budget + question.tokens : budget };
}

/** Adds the attention of the step's queries to what every slot was given before: in all layers, or where it throws in none. */
export async function addAttentionMass(
  backend: Backend,
  decoder: Decoder,
  cache: ModelCache,
  T: number,
): Promise<void> {
  const { layers } = decoder.config;
  const scratch = new Scratch(backend);
  const additions: AttentionMass[] = [];
  try {
    for (const [layer, config] of layers.entries()) {
      const rows = observeRows(cache, config, layer, layers.length);
      const queries = lastQueries(windowQueries(cache.queries, config, layer, rows), T);
      const sums = await querySums(scratch, rows, queries, "equal");
      const known = sums && { queries, querySums: { queries: T, weights: "equal", sums } as const };
      additions.push(attentionMassOf({ ...rows, ...known }, queries));
    }
  } finally {
    scratch.release();
  }
  for (const [layer, added] of additions.entries()) addMass(cache.records.mass(layer), added);
}

function addMass(to: AttentionMass, added: AttentionMass): void {
  const sources = [...added.sums, ...added.counts];
  for (const [column, target] of [...to.sums, ...to.counts].entries()) {
    for (let n = 0; n < target.length; n++) target[n] += sources[column][n];
  }
}
