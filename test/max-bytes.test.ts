/**
 * Bytes promised are bytes kept: every policy × wrapper × layout × elements under `maxBytes`, through prompts longer than
 * the budget, generation, a second prompt and a fork; what is refused is refused with a reason, all of which are listed.
 */

import { afterAll, beforeAll, expect, it } from "vitest";
import type { Policy } from "../src/compress/index.ts";
import * as compress from "../src/compress/index.ts";
import { createWasmBackend } from "../src/engine/index.ts";
import { BudgetError, PhasorError } from "../src/errors.ts";
import { type DecoderModel, loadModel, type ModelCache, type ModelCacheOptions } from "../src/model/index.ts";
import { SMALL_POLICIES, SMALL_WRAPPERS } from "./support/policies.ts";
import { thrownBy } from "./support/thrown-by.ts";
import { tinyLlama } from "./support/tiny-llama.ts";

/** A few dozen rows of each. */
const MAX_BYTES = { f32: 36_000, int8: 20_000, int4: 15_000 } as const;
const TEXT = Array.from({ length: 130 }, (_, t) => (t * 11 + (t >> 3)) % 37);
const QUESTION = [5, 6, 7, 8];

const POLICIES: Readonly<Record<string, Policy>> = {
  ...SMALL_POLICIES,
  structuredKvCompose: compress.kvCompose(),
  layerwiseKvzip: compress.kvzip({ layerwise: true }),
  normalizedKvzip: compress.kvzip({ normalize: true }),
};
const WRAPPERS: Readonly<Record<string, (policy: Policy) => Policy>> = {
  ...SMALL_WRAPPERS,
  perLayer: (policy) => compress.perLayer(policy, [{ budget: 14 }, { compressionRatio: 0.5 }]),
  composed: (policy) => compress.composed(policy, compress.think({ window: 2 })),
};
type Kind = { readonly elements: "f32" | "int8" | "int4"; readonly layout?: "paged" | "contiguous" };
const KINDS: readonly Kind[] = (["f32", "int8", "int4"] as const).flatMap((elements) =>
  ([undefined, "paged", "contiguous"] as const).map((layout) => ({ elements, ...(layout && { layout }) })),
);

let model: DecoderModel;
beforeAll(async () => {
  const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 28 });
  model = await loadModel(tinyLlama({ num_hidden_layers: 2, max_position_embeddings: 512 }), { backend });
});
afterAll(() => model.dispose());

/** Reads as much of a text as the cache takes, and goes on; returns the cache. */
async function use(options: ModelCacheOptions & { maxBytes: number }, asks: boolean): Promise<ModelCache> {
  const cache = model.createCache(options);
  const question = asks ? { question: QUESTION } : {};
  try {
    await model.prefill(cache, TEXT, question);
  } catch (error) {
    if (!(error instanceof BudgetError && "promptTokens" in error.got)) throw error;
    expect(cache.tokensSeen).toBe(0);
    const longest = (error.got.promptTokens as number) - (asks ? QUESTION.length : 0);
    await model.prefill(cache, TEXT.slice(0, longest), question);
  }
  for (let step = 0; step < 8; step++) await model.forward({ tokens: [step], cache, logits: "none" });
  if (cache.report().forgotten.length > 0) await model.prefill(cache, TEXT.slice(0, 30));
  for (let step = 0; step < 4; step++) await model.forward({ tokens: [step], cache, logits: "none" });
  const fork = cache.fork();
  await model.forward({ tokens: TEXT.slice(0, 3), cache: fork, logits: "none" });
  expect(fork.peakAllocatedBytes).toBeLessThanOrEqual(options.maxBytes);
  fork.dispose();
  return cache;
}

/** Why combinations of the crossing are refused, and no others. */
const REASONS = [
  /^createCache: a policy that keeps keys as wide as they are, for maxBytes; got policy="[\w(), ]*think[)]*"/,
  /^createCache: pages, for a policy that keeps unequal numbers of tokens in heads or layers within maxBytes; got layout="contiguous", policy="/,
];

async function tryOne(name: string, make: () => Policy, kind: ModelCacheOptions & Kind): Promise<void> {
  let policy: Policy;
  try {
    policy = make();
  } catch {
    return; // not a policy at all: every-combination.test.ts has the reasons
  }
  const maxBytes = MAX_BYTES[kind.elements];
  const options = { policy, maxBytes, ...kind };
  try {
    model.createCache(options).dispose();
  } catch (error) {
    if (!(error instanceof PhasorError)) throw error;
    expect(
      REASONS.filter((reason) => reason.test(error.message)),
      error.message,
    ).toHaveLength(1);
    return;
  }
  try {
    const used = await use(options, policy.needs.questionTokens === true);
    expect(used.peakAllocatedBytes).toBeLessThanOrEqual(maxBytes);
    expect(used.report().compressions).toBeGreaterThan(0);
    used.dispose();
  } catch (error) {
    throw new Error(`${name} ${JSON.stringify(kind)}: ${error instanceof Error ? error.stack : error}`);
  }
}

it.each(Object.keys(WRAPPERS))("holds with %s of every policy, or is refused", async (outer) => {
  for (const [n, [inner, policy]] of Object.entries(POLICIES).entries()) {
    // Alone in every kind of cache; wrapped in one after the other.
    const kinds = outer === "alone" ? KINDS : [KINDS[(n + outer.length) % KINDS.length]];
    const rerotate = (n + outer.length) % 2 === 0 ? { rerotate: true } : {};
    for (const kind of kinds) {
      await tryOne(`${outer}(${inner})`, () => WRAPPERS[outer](policy), { ...kind, ...rerotate, prefillChunk: 11 });
    }
  }
});

it.each<[string, ModelCacheOptions, string]>([
  [
    "heads of unequal length in one run of rows each",
    { policy: compress.kvzip(), layout: "contiguous" },
    "createCache: pages, for a policy that keeps unequal numbers of tokens in heads or layers within maxBytes; got " +
      'layout="contiguous", policy="kvzip". Leave layout out, or choose "paged": what one of them leaves, another may use.',
  ],
  [
    "a ring",
    { policy: compress.knorm(), layout: "ring" },
    'createCache: a contiguous or paged layout where a policy decides what goes; got layout="ring", policy="knorm". ' +
      "A ring forgets by age alone.",
  ],
  [
    "a budget where own parameters decide",
    { policy: compress.simLayerKV({ threshold: 0.5 }), budget: 20 },
    "createCache: no budget or compressionRatio for a policy whose own parameters decide; got " +
      'policy="simLayerKV", budget=20, compressionRatio=undefined. Bound what is generated with decoding: { budget }, or ' +
      "all of it with maxBytes.",
  ],
  [
    "a threshold while decoding",
    { decoding: { policy: compress.dms(compress.knorm(), { threshold: 0 }) } },
    "createCache: a policy for decoding that is told how much to keep, for maxBytes; got " +
      'decoding.policy="dms(knorm)". This one keeps as much as its own parameters say.',
  ],
  [
    "a ratio",
    { policy: compress.knorm(), compressionRatio: 0.5 },
    "createCache: either compressionRatio or a budget; got compressionRatio=0.5, budget=undefined, maxBytes=20000. A ratio " +
      "of a text of unknown length cannot be promised.",
  ],
  [
    "a budget that a whole prompt must exceed",
    // 144 rows of 368 bytes in pages; a query of 320; 61 tokens once more, each 320 while it is fed and 480 as it is kept.
    { policy: compress.kvCompose(), budget: 60 },
    "createCache: maxBytes must hold a prompt longer than the budget, all of which the policy must see, in every layer; got " +
      'maxBytes=20000, neededBytes=106016, tokens=61, policy="kvCompose". Raise maxBytes, lower budget or prefillChunk, or ' +
      "choose int8 or int4 elements.",
  ],
])("refuses %s, with the reason", (_, options, message) => {
  expect(thrownBy(() => model.createCache({ maxBytes: 20_000, ...options }))).toContain(message);
});

it("refuses a prompt that a policy must see whole before anything is computed, and says what to do", async () => {
  const cache = model.createCache({ policy: compress.kvzip(), maxBytes: 60_000 });
  const refused = model.prefill(cache, [...TEXT, ...TEXT]);
  const { message, got } = await refused.then(
    () => new BudgetError("", ""),
    (error: BudgetError) => error,
  );
  expect(message).toMatch(
    /^forward: the whole prompt within maxBytes, for a policy that must see all of it; got policy="kvzip", tokens=260, promptTokens=\d+, capacity=\d+, maxBytes=60000\. Raise maxBytes, choose int8 or int4 elements, shorten the text, /,
  );
  expect([cache.tokensSeen, cache.bytes, cache.peakBytes]).toEqual([0, 0, 0]);
  const longest = got.promptTokens as number;
  await model.prefill(cache, TEXT.slice(0, longest));
  const another = model.createCache(cache.options);
  await expect(model.prefill(another, TEXT.slice(0, longest + 1))).rejects.toThrow("whole prompt");
  expect(cache.report().budget).toBe(Math.floor(longest / 2));
  expect(cache.bytes).toBeLessThanOrEqual(Math.floor(longest / 2) * 2 * 2 * 20 * 4);
  expect(cache.peakAllocatedBytes).toBeGreaterThan(0.8 * 60_000);
});

it("a policy that shares tokens out among layers keeps its sum within one pool of pages", async () => {
  const policy = compress.pyramidKV({ window: 4, beta: 6 });
  const cache = model.createCache({ policy, maxBytes: 60_000 });
  await model.prefill(cache, [...TEXT, ...TEXT, ...TEXT]);
  const { budget = 0, layers } = cache.report();
  const rows = layers.map(([first]) => first.rows);
  expect(rows[0]).toBeGreaterThan(1.5 * rows[1]);
  expect(rows[0] + rows[1]).toBeGreaterThan(2 * budget - 2);
  expect(rows[0] + rows[1]).toBeLessThanOrEqual(2 * budget);
  expect(cache.peakAllocatedBytes).toBeLessThanOrEqual(60_000);
  expect(cache.peakAllocatedBytes).toBeGreaterThan(0.8 * 60_000);
});
