/**
 * The contract of a compression policy: what it needs to see, when it may run, and which tokens of which head stay.
 *
 * A policy is a pure function of observations. It holds no cache and knows no engine; whoever owns the cache makes
 * the observations that `needs` asks for and carries the plans out.
 */

import { ConfigError } from "../errors.ts";
import { type Amount, keptCount } from "./amount.ts";
import { type ChunkSumsNeed, leavingTokens, type Observation, type QueryWeights } from "./observation.ts";
import { type ProtectedEnds, topSlots } from "./top-slots.ts";

/** What a policy must be shown beside keys, values and positions. */
export type PolicyNeeds = {
  /** Rotated queries: of this many last tokens (Infinity: of the whole prompt), or of the question. */
  readonly queries?: number | "question";
  /** Queries before rotation, of this many last tokens. */
  readonly unrotatedQueries?: number;
  readonly unrotatedKeys?: boolean;
  /** Attention given to every slot, over all queries so far. */
  readonly attentionMass?: boolean;
  readonly outputProjection?: boolean;
  readonly questionTokens?: boolean;
  /** The context fed once more: with KVzip's prompts in chunks, or as it stands. */
  readonly repeats?: "chunks" | "whole";
  /** Norms of the repeated tokens' inputs. */
  readonly inputNorms?: boolean;
};

/**
 * What a policy takes from its observations where it is there, and computes by itself, with the same numbers, where it is
 * not: whoever observes may be faster.
 */
export type PolicyTakes = {
  /** Sums of the attention of the last queries, of those that it needs. */
  readonly querySums?: { readonly queries: number | "question"; readonly weights: QueryWeights };
  /** Sums of the attention within chunks. */
  readonly chunkSums?: ChunkSumsNeed;
  /** The largest attention of repeated tokens, with this many first slots in the softmax. */
  readonly repeatSinks?: number;
  /** Norms of the values behind the output projection, of this order. */
  readonly projectedNorms?: 1 | 2;
};

/** When a policy may run: at the end of a prefill, or between decoded tokens. */
export type Moment = "prefill" | "decoding";

/** What a plan does to a layer. */
export type Effect = "evicts" | "moves keys" | "merges values" | "drops channels";

/** What becomes of one layer. */
export type LayerPlan = {
  /** i32 [Hk][n] slots that stay, ascending. */
  readonly kept: readonly Int32Array[];
  /** i32 [Hk][n] the position every kept key is turned to; absent: keys stay where they are. */
  readonly positions?: readonly Int32Array[];
  /** f32 [Hk][n, Dv] values in place of the kept ones; absent: values stay what they are. */
  readonly values?: readonly Float32Array[];
  /** u8 [Hk][D], 1 for key channels that go; absent: all stay. */
  readonly droppedChannels?: readonly Uint8Array[];
};

/** f64 [Hk][T]: the higher, the longer a token stays. */
export type HeadScores = Float64Array[];

/** A way to decide what a cache forgets. */
export type Policy = {
  /** For messages and reports. */
  readonly name: string;
  readonly needs: PolicyNeeds;
  /** Absent: nothing. */
  readonly takes?: PolicyTakes;
  readonly moments: readonly Moment[];
  /** Whether a layer can be planned alone, or only all layers together. */
  readonly scope: "layer" | "model";
  /** Whether the caller says how much to keep, or the policy's own parameters do. */
  readonly amount: "given" | "own";
  /** Whether heads of a layer may keep different numbers of tokens. */
  readonly ragged: boolean;
  /** Whether layers planned alone may keep different numbers of tokens under one amount; absent: they may not. */
  readonly uneven?: boolean;
  /** Whether it compares tokens across the heads of a layer, which must then hold equally many; absent: it does not. */
  readonly evenHeads?: boolean;
  readonly effects: readonly Effect[];
  /**
   * Plans the layers shown.
   *
   * @param layers - one observation per layer: all of the model for scope "model", any for scope "layer"
   * @param amount - how much to keep; must be absent for amount "own"
   * @returns one plan per observation
   * @throws ConfigError when the amount is missing, not wanted or impossible, or an observation lacks what is needed
   */
  plan(layers: readonly Observation[], amount?: Amount): LayerPlan[];
};

/** A policy that scores tokens; wrappers build on the scores. */
export type ScorePolicy = Policy & {
  /** Scores of every token of a layer. Few depend on the amount. */
  score(observation: Observation, amount: Amount): HeadScores;
  /** Slots that stay whatever they score. */
  protects(observation: Observation): ProtectedEnds;
  /** [Hk] tokens each head keeps. */
  counts(observation: Observation, amount: Amount): number[];
  /** Whether scores of different heads are on one scale, so that heads can compete. */
  readonly comparable: boolean;
};

/** What {@link scorePolicy} is given; the rest has defaults. */
export type ScoreDefinition = {
  readonly name: string;
  readonly needs?: PolicyNeeds;
  readonly takes?: PolicyTakes;
  /** Prefill and decoding unless told. */
  readonly moments?: readonly Moment[];
  readonly score: ScorePolicy["score"];
  readonly protects?: ScorePolicy["protects"];
  readonly counts?: ScorePolicy["counts"];
  readonly comparable?: boolean;
  readonly evenHeads?: boolean;
};

const NO_ENDS: ProtectedEnds = { first: 0, last: 0 };

/**
 * A policy from a score: in each head the best tokens stay, and of equal scores the lower position.
 *
 * @param definition - name, needs and the score
 */
export function scorePolicy(definition: ScoreDefinition): ScorePolicy {
  const { name, needs = {}, takes, moments = ["prefill", "decoding"], score, comparable = true } = definition;
  const protects = withLeaving(definition.protects ?? (() => NO_ENDS));
  const counts = definition.counts ? besideLeaving(definition.counts) : keptCounts;
  const planLayer = (observation: Observation, amount: Amount): LayerPlan => {
    const ends = protects(observation);
    const keep = counts(observation, amount);
    return { kept: score(observation, amount).map((scores, head) => topSlots(scores, keep[head], ends)) };
  };
  const plan: Policy["plan"] = (layers, amount) => {
    const given = givenAmount(name, amount);
    return layers.map((observation) => planLayer(observation, given));
  };
  const kind = { scope: "layer", amount: "given", ragged: false, effects: ["evicts"] } as const;
  const uneven = definition.counts !== undefined;
  const flags = {
    ...(uneven && { uneven }),
    ...(definition.evenHeads && { evenHeads: true }),
    ...(takes && { takes }),
  };
  return { name, needs, moments, ...kind, ...flags, plan, score, protects, counts, comparable };
}

/** What leaves anyway stays until then, so that every head keeps as many of the others. */
function withLeaving(protects: ScorePolicy["protects"]): ScorePolicy["protects"] {
  return (observation) => {
    const { first, last } = protects(observation);
    return { first, last: Math.max(last, leavingTokens(observation)) };
  };
}

/** A budget holds what leaves too, which every layer has alike: only the rest of it is shared out. */
function besideLeaving(counts: ScorePolicy["counts"]): ScorePolicy["counts"] {
  return (observation, amount) => {
    const leaving = leavingTokens(observation);
    if (leaving === 0 || amount.budget === undefined) return counts(observation, amount);
    return counts(observation, { budget: amount.budget - leaving }).map((count) => count + leaving);
  };
}

/** [Hk] the amount applied to every head alike. */
export function keptCounts({ keys }: Observation, amount: Amount): number[] {
  return Array.from(keys.lengths, (length) => keptCount(amount, length));
}

/** The amount as it is for one layer: a budget where the policy gives layers different ones. */
export function layerAmount(policy: ScorePolicy, observation: Observation, amount: Amount): Amount {
  return policy.counts === keptCounts ? amount : { budget: policy.counts(observation, amount)[0] };
}

/**
 * The amount of a policy that cannot do without.
 *
 * @throws ConfigError when it is missing
 */
export function givenAmount(name: string, amount: Amount | undefined): Amount {
  if (amount === undefined) {
    throw new ConfigError(name, "an amount to keep", {}, "Pass { compressionRatio } or { budget }.");
  }
  return amount;
}

/**
 * Refuses an amount for a policy whose own parameters decide.
 *
 * @throws ConfigError when one is given
 */
export function refuseAmount(name: string, amount: Amount | undefined): void {
  if (amount !== undefined) {
    throw new ConfigError(name, "no amount, because its own parameters decide how much stays", { ...amount });
  }
}

/**
 * A policy as one that scores.
 *
 * @param where - the wrapper that needs the scores
 * @throws ConfigError when the policy decides without scores
 */
export function requireScores(where: string, policy: Policy): ScorePolicy {
  if (!("score" in policy)) {
    throw new ConfigError(where, "a policy that scores tokens", { policy: policy.name }, "This one decides directly.");
  }
  return policy as ScorePolicy;
}
