/**
 * From the options of a cache to what it is: layers with their capacities, chunk, and when it forgets how much. Everything
 * that cannot work is refused here, before memory is taken.
 */

import type { CacheLayout, KvCacheHeads, KvLayerSpec } from "../cache/index.ts";
import { CapabilityError, ConfigError } from "../errors.ts";
import type { ModelCacheOptions } from "./cache-options.ts";
import type { DecoderConfig } from "./config.ts";
import {
  type ChosenPolicies,
  type CompressionPlan,
  decodingPolicyOf,
  movesKeys,
  planCompression,
  policyOf,
  sharesOut,
} from "./plan-compression.ts";
import { type AsidePlan, planRoom } from "./plan-room.ts";
import { shareEqual } from "./share-equal.ts";

/** A cache with nothing left open. */
export type CachePlan = {
  readonly layers: readonly KvLayerSpec[];
  /** Positions per slot beside the one that masks compare. */
  readonly axes: number;
  /** Rows that every layer can hold, on average over the heads that share pages; undefined: it grows. */
  readonly capacity: number | undefined;
  /** Under maxBytes heads are apart from the start, so that nothing is copied when they choose differently. */
  readonly heads: KvCacheHeads;
  /** Tokens of a step at most; Infinity: any number. */
  readonly chunk: number;
  /** What may be held beside the rows; absent where no bytes are promised. */
  readonly aside: AsidePlan | undefined;
  /** Absent: the cache never forgets by itself. */
  readonly compression: CompressionPlan | undefined;
};

const WHERE = "createCache";
/** Rows of a ring beside its window: tokens that may come in one step. */
const RING_CHUNK = 512;

/**
 * Plans a cache.
 *
 * @param words - whether the model has a tokenizer
 * @throws ConfigError for options that contradict each other
 * @throws CapabilityError for a layout that cannot hold what the policy leaves
 * @throws BudgetError when the budget or the bytes cannot hold what the policy must keep
 */
export function planCache(config: DecoderConfig, options: ModelCacheOptions, words: boolean): CachePlan {
  checkOptions(options);
  const rotaries = shareEqual(config.layers.map((layer) => layer.positions.rotary));
  const axes = Math.max(0, ...rotaries.flatMap((rotary) => rotary?.pairAxes?.map((axis) => axis + 1) ?? []));
  const { elements = "f32", pristineKeys = false, maxBytes } = options;
  const specs = (layoutOf: (layer: number) => CacheLayout): KvLayerSpec[] =>
    config.layers.map(({ kvHeads, headDim }, layer) => ({
      ...{ kvHeads, keyDim: headDim, valueDim: headDim, rotary: rotaries[layer], elements, pristineKeys },
      layout: layoutOf(layer),
    }));

  const policy = policyOf(options);
  const chosen = { policy, decoding: decodingPolicyOf(options, policy) };
  if (policy === undefined && chosen.decoding === undefined) {
    const layouts = plainLayouts(config, options.layout);
    const rings = layouts.some(({ type }) => type === "ring");
    const chunk = Math.min(options.prefillChunk ?? Infinity, rings ? RING_CHUNK : Infinity);
    const layers = specs((layer) => layouts[layer]);
    return { layers, axes, capacity: undefined, heads: "together", chunk, aside: undefined, compression: undefined };
  }
  const layout = forgetfulLayout(config, options, chosen);
  const layers = specs(() => ({ type: layout }));
  const moves = movesKeys(options, policy);
  const room = planRoom(config, options, chosen, { layers, axes, moves, words });
  const { capacity, chunk, aside } = room;
  const compression = planCompression(options, chosen, room);
  const heads = maxBytes === undefined ? "together" : layout === "paged" ? "pooled" : "apart";
  const capped = capacity === undefined ? layers : layers.map((layer) => ({ ...layer, capacity }));
  return { layers: capped, axes, capacity, heads, chunk, aside, compression };
}

/** Where rows lie in a cache that forgets. */
function forgetfulLayout(
  config: DecoderConfig,
  { layout, onFrequencyChange, maxBytes }: ModelCacheOptions,
  { policy, decoding }: ChosenPolicies,
): "contiguous" | "paged" {
  if (layout === "ring") {
    throw new ConfigError(
      WHERE,
      "a contiguous or paged layout where a policy decides what goes",
      { layout: "ring", policy: policy?.name ?? decoding?.name },
      "A ring forgets by age alone.",
    );
  }
  if (onFrequencyChange === "reprefill") {
    throw new ConfigError(
      WHERE,
      'onFrequencyChange "pin" or "rerotate" where the cache forgets',
      { onFrequencyChange: "reprefill" },
      "What was forgotten would be computed again.",
    );
  }
  const sharing = [policy, decoding].find((one) => one !== undefined && sharesOut(one));
  if (maxBytes === undefined || sharing === undefined) return layout ?? "contiguous";
  if (layout === "contiguous") {
    throw new CapabilityError(
      WHERE,
      "pages, for a policy that keeps unequal numbers of tokens in heads or layers within maxBytes",
      { layout, policy: sharing.name },
      'Leave layout out, or choose "paged": what one of them leaves, another may use.',
    );
  }
  const widths = new Set(config.layers.map(({ headDim }) => headDim));
  if (widths.size > 1 && (sharing.scope === "model" || sharing.uneven || sharing.amount === "own")) {
    throw new CapabilityError(
      WHERE,
      "layers whose heads are equally wide, for a policy that shares tokens out among layers within maxBytes",
      { headDims: [...widths], policy: sharing.name },
      "Rows of another width cannot take each other's place; give a budget instead.",
    );
  }
  return "paged";
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
    "repeat.requestTokens": options.repeat?.requestTokens,
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
