/**
 * From the options of a cache to numbers: layers with their capacities, budget, chunk and interval, and the policies of
 * prefill and decoding. Everything that cannot work is refused here, before memory is taken.
 */

import { type CacheLayout, type KvLayerSpec, planCacheBudget } from "../cache/index.ts";
import {
  type DecodingCompression,
  decodingCompression,
  type Policy,
  rerotated,
  streamingLLM,
  tova,
} from "../compress/index.ts";
import { BudgetError, ConfigError } from "../errors.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { DecoderConfig } from "./config.ts";
import { shareEqual } from "./share-equal.ts";
import { recordBytesPerSlot } from "./slot-records.ts";

/** A cache with nothing left open. */
export type CachePlan = {
  readonly layers: readonly KvLayerSpec[];
  /** Positions per slot beside the one that masks compare. */
  readonly axes: number;
  /** Rows that every layer can hold; undefined: it grows. */
  readonly capacity: number | undefined;
  /** Whether every head has rows of its own from the start, so that nothing is copied when heads choose differently. */
  readonly perHead: boolean;
  /** Tokens of a step at most; Infinity: any number. */
  readonly chunk: number;
  /** Absent: the cache never forgets by itself. */
  readonly compression: CompressionPlan | undefined;
};

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
};

const WHERE = "createCache";
const MOST_CHUNK = 512;
const LEAST_CHUNK = 32;
/** Rows of a ring beside its window: tokens that may come in one step. */
const RING_CHUNK = 512;
const PAGE_SIZE = 16;

/**
 * Plans a cache.
 *
 * @throws ConfigError for options that contradict each other
 * @throws BudgetError when the budget or the bytes cannot hold what the policy must keep
 */
export function planCache(config: DecoderConfig, options: ModelCacheOptions): CachePlan {
  checkOptions(options);
  const rotaries = shareEqual(config.layers.map((layer) => layer.positions.rotary));
  const axes = Math.max(0, ...rotaries.flatMap((rotary) => rotary?.pairAxes?.map((axis) => axis + 1) ?? []));
  const { elements = "f32", pristineKeys = false } = options;
  const specs = (layoutOf: (layer: number) => CacheLayout): KvLayerSpec[] =>
    config.layers.map(({ kvHeads, headDim }, layer) => ({
      ...{ kvHeads, keyDim: headDim, valueDim: headDim, rotary: rotaries[layer], elements, pristineKeys },
      layout: layoutOf(layer),
    }));

  const policy = policyOf(options);
  if (policy === undefined && options.decoding === undefined) {
    const layouts = plainLayouts(config, options.layout);
    const rings = layouts.some(({ type }) => type === "ring");
    const chunk = Math.min(options.prefillChunk ?? Infinity, rings ? RING_CHUNK : Infinity);
    return {
      layers: specs((layer) => layouts[layer]),
      axes,
      capacity: undefined,
      perHead: false,
      chunk,
      compression: undefined,
    };
  }
  if (options.layout === "ring") {
    throw new ConfigError(
      WHERE,
      "a contiguous or paged layout where a policy decides what goes",
      {
        layout: "ring",
        policy: policy?.name ?? options.decoding?.policy?.name,
      },
      "A ring forgets by age alone.",
    );
  }
  if (options.onFrequencyChange === "reprefill") {
    throw new ConfigError(
      WHERE,
      'onFrequencyChange "pin" or "rerotate" where the cache forgets',
      {
        onFrequencyChange: "reprefill",
      },
      "What was forgotten would be computed again.",
    );
  }
  const ragged = policy?.ragged === true || options.decoding?.policy?.ragged === true;
  const bytesDecide = options.maxBytes !== undefined;
  const layout = options.layout ?? (ragged && bytesDecide ? "paged" : "contiguous");
  const layers = specs(() => ({ type: layout }) as CacheLayout);
  const room = planRoom(config, options, policy, { layers, axes, ragged, paged: layout === "paged" });
  const compression = planCompression(options, policy, room);
  const capped =
    room.capacity === undefined ? layers : layers.map((layer) => ({ ...layer, capacity: room.capacity as number }));
  return { layers: capped, axes, capacity: room.capacity, perHead: bytesDecide, chunk: room.chunk, compression };
}

type Room = { readonly budget: number | undefined; readonly chunk: number; readonly capacity: number | undefined };

/** Tokens to keep, tokens to take in at a time, and rows that both need. */
function planRoom(
  config: DecoderConfig,
  options: ModelCacheOptions,
  policy: Policy | undefined,
  cache: {
    readonly layers: readonly KvLayerSpec[];
    readonly axes: number;
    readonly ragged: boolean;
    readonly paged: boolean;
  },
): Room {
  const { budget, maxBytes, prefillChunk } = options;
  if (budget === undefined && maxBytes === undefined) {
    return { budget, chunk: prefillChunk ?? Infinity, capacity: undefined };
  }
  const once = policy !== undefined && runsOnce(policy);
  const moves = movesKeys(options, policy);
  // Heads end within a page; each may leave most of one unused.
  const slack = cache.ragged && cache.paged ? PAGE_SIZE : 0;
  if (maxBytes === undefined) {
    const kept = budget as number;
    checkContext(config, moves, kept);
    const context = moves ? config.maxPositions - kept : Infinity;
    const chunk = prefillChunk ?? Math.min(MOST_CHUNK, Math.max(LEAST_CHUNK, kept), context);
    checkWindow(policy, kept);
    const isEven = !cache.ragged && !once && policy?.uneven !== true && policy?.scope !== "model";
    // Memory that is taken once and for all would not follow keys that get narrower.
    const isFixed = isEven && !policy?.effects.includes("drops channels");
    return { budget, chunk, capacity: isFixed ? kept + chunk : undefined };
  }
  if (policy && (policy.scope === "model" || policy.uneven || once)) {
    throw new ConfigError(
      WHERE,
      "a policy whose bytes are known beforehand, for maxBytes",
      { policy: policy.name },
      once
        ? "This one must see the whole prompt before it forgets; give a budget instead."
        : "This one shares tokens out among layers; give a budget instead.",
    );
  }
  if (policy?.effects.includes("drops channels")) {
    throw new ConfigError(
      WHERE,
      "a policy that keeps keys as wide as they are, for maxBytes",
      { policy: policy.name },
      "The memory is taken beforehand, narrower keys would free none of it; give a budget instead.",
    );
  }
  if (budget !== undefined) checkContext(config, moves, budget);
  const rows = fittingRows(config, options, policy, cache);
  const given = budget === undefined ? undefined : budget + (prefillChunk ?? 1) + slack;
  const least = Math.max(given ?? 2 + slack, (prefillChunk ?? 1) + slack + 1);
  // More rows than the model has positions would be of no use.
  const most = Math.max(least, config.maxPositions + (moves ? 0 : MOST_CHUNK));
  const chunkFor = (tokens: number): number =>
    prefillChunk ??
    (budget === undefined
      ? Math.min(MOST_CHUNK, Math.max(1, Math.floor(tokens / 4)))
      : Math.min(MOST_CHUNK, Math.max(LEAST_CHUNK, budget), tokens - budget));
  if (rows.fit < least) {
    throw new BudgetError(
      WHERE,
      "maxBytes must hold the budget and one chunk in every layer",
      { maxBytes, neededBytes: rows.bytesOf(least), tokens: least },
      "Raise maxBytes, lower budget or prefillChunk, or choose int8 or int4 elements.",
    );
  }
  const tokens = Math.min(rows.fit, most) - slack;
  const chunk = chunkFor(tokens);
  const kept = budget ?? tokens - chunk;
  checkWindow(policy, kept);
  return { budget: kept, chunk, capacity: kept + chunk + slack };
}

/**
 * Whether a policy can look at a cache only once, before anything is gone: it wants the whole prompt at once, or
 * compares heads that it leaves with unequal numbers of tokens.
 */
export function runsOnce({ needs, ragged, evenHeads }: Policy): boolean {
  const wantsAll = needs.repeats !== undefined || (needs.queries === Infinity && !needs.questionTokens);
  return wantsAll || (ragged && evenHeads === true);
}

/** Rows per layer that fit into the bytes, with what is known about each. */
function fittingRows(
  config: DecoderConfig,
  { maxBytes = 0 }: ModelCacheOptions,
  policy: Policy | undefined,
  { layers, axes, paged }: { readonly layers: readonly KvLayerSpec[]; readonly axes: number; readonly paged: boolean },
): { readonly fit: number; readonly bytesOf: (tokens: number) => number } {
  const mass = policy?.needs.attentionMass === true;
  const recordBytes = recordBytesPerSlot({ layers: config.layers, mass });
  const bytesOf = (tokens: number): number => {
    const request = {
      layers,
      axes,
      ragged: true,
      maxBytes: Number.MAX_SAFE_INTEGER,
      minTokens: tokens,
      maxTokens: tokens,
    };
    const rows = paged ? PAGE_SIZE * Math.ceil(tokens / PAGE_SIZE) : tokens;
    return planCacheBudget(request).bytes + rows * recordBytes;
  };
  let [low, high] = [0, Math.max(1, Math.ceil(maxBytes / Math.max(1, recordBytes)))];
  high = Math.min(high, 2 ** 31 - 1);
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (bytesOf(middle) <= maxBytes) low = middle;
    else high = middle - 1;
  }
  return { fit: low, bytesOf };
}

function planCompression(options: ModelCacheOptions, policy: Policy | undefined, room: Room): CompressionPlan {
  const { compressionRatio } = options;
  const moves = movesKeys(options, policy);
  const { budget, chunk } = room;
  const prefill = policy && (moves ? moving(policy) : policy);
  const decoding = planDecoding(options, policy, room, moves);
  if (room.capacity !== undefined && decoding && decoding.intervalTokens > chunk) {
    throw new ConfigError(WHERE, "decoding.interval must not exceed prefillChunk, for which there is room", {
      interval: decoding.intervalTokens,
      prefillChunk: chunk,
    });
  }
  return { prefill, decoding, budget, compressionRatio, moves };
}

function planDecoding(
  options: ModelCacheOptions,
  policy: Policy | undefined,
  { budget, chunk }: Room,
  moves: boolean,
): DecodingCompression | undefined {
  const { decoding } = options;
  if (decoding === undefined && budget === undefined) return undefined;
  const mayDecode = policy?.moments.includes("decoding") && !runsOnce(policy) ? policy : undefined;
  const fallback = policy?.ragged ? streamingLLM() : tova();
  const chosen = decoding?.policy ?? mayDecode ?? fallback;
  const evenInterval = budget === undefined ? 512 : Math.min(chunk, Math.max(8, Math.floor(budget / 16)));
  const intervalTokens = decoding?.interval ?? evenInterval;
  const targetTokens = decoding?.budget ?? (decoding?.compressionRatio === undefined ? budget : undefined);
  const ratio = decoding?.compressionRatio ?? (targetTokens === undefined ? options.compressionRatio : undefined);
  if (chosen.amount === "given" && targetTokens === undefined && ratio === undefined) {
    throw new ConfigError(
      WHERE,
      "decoding needs to know how much stays",
      { policy: chosen.name },
      "Give decoding.budget or decoding.compressionRatio.",
    );
  }
  if (budget !== undefined && (ratio !== undefined || (targetTokens ?? 0) > budget)) {
    throw new ConfigError(WHERE, "decoding must not keep more than the cache's budget", {
      budget,
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

/** The policy for prompts. */
function policyOf(options: ModelCacheOptions): Policy | undefined {
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
  if (policy.amount === "own" && hasAmount) {
    throw new ConfigError(
      WHERE,
      "no budget, maxBytes or compressionRatio for a policy whose own parameters decide",
      { policy: policy.name, budget, maxBytes, compressionRatio },
      "Bound what is generated with decoding: { budget } instead.",
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

function movesKeys(options: ModelCacheOptions, policy: Policy | undefined): boolean {
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

function moving(policy: Policy): Policy {
  return policy.effects.includes("moves keys") ? policy : rerotated(policy);
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

/** Layouts of a cache that forgets nothing, but for what windows no longer show. */
function plainLayouts(config: DecoderConfig, layout: ModelCacheOptions["layout"]): CacheLayout[] {
  return config.layers.map(({ slidingWindow: window }, layer) => {
    if (window !== undefined && (layout === undefined || layout === "ring")) {
      return { type: "ring", window, maxChunk: RING_CHUNK };
    }
    if (layout !== "ring") return { type: layout ?? "contiguous" };
    throw new ConfigError(
      WHERE,
      "a ring is for layers with a sliding window",
      { layer },
      "Choose contiguous or paged; without a layout, windowed layers get rings by themselves.",
    );
  });
}

function checkOptions(options: ModelCacheOptions): void {
  const { budget, maxBytes, prefillChunk, compressionRatio, onFrequencyChange, pinnedLength, decoding } = options;
  const counts = {
    ...{ budget, maxBytes, prefillChunk },
    "repeat.chunkTokens": options.repeat?.chunkTokens,
    "decoding.interval": decoding?.interval,
  };
  for (const [name, count] of Object.entries(counts)) {
    if (count === undefined || (Number.isSafeInteger(count) && count > 0)) continue;
    throw new ConfigError(WHERE, `${name} must be a positive integer`, { [name]: count });
  }
  if (compressionRatio !== undefined && !(compressionRatio >= 0 && compressionRatio < 1)) {
    throw new ConfigError(WHERE, "compressionRatio must lie in [0, 1)", { compressionRatio });
  }
  if (compressionRatio !== undefined && (budget !== undefined || maxBytes !== undefined)) {
    throw new ConfigError(
      WHERE,
      "either compressionRatio or a budget",
      { compressionRatio, budget, maxBytes },
      "A ratio of a text of unknown length cannot be promised.",
    );
  }
  if (
    pinnedLength !== undefined &&
    (onFrequencyChange !== "pin" || !(Number.isInteger(pinnedLength) && pinnedLength > 0))
  ) {
    throw new ConfigError(WHERE, 'pinnedLength must be a positive integer and goes with onFrequencyChange "pin"', {
      pinnedLength,
      onFrequencyChange,
    });
  }
}
