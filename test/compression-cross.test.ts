/**
 * Every policy × wrapper × kind of cache through the public model: it works, and so does a fork of it, or it is refused
 * with a reason.
 */

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { clearKeyChannels } from "../src/cache/index.ts";
import type { LayerPlan, Policy } from "../src/compress/index.ts";
import * as compress from "../src/compress/index.ts";
import { createWasmBackend } from "../src/engine/index.ts";
import { PhasorError } from "../src/errors.ts";
import { meanLength } from "../src/model/cache-room.ts";
import { type DecoderModel, loadModel, type ModelCache, type ModelCacheOptions } from "../src/model/index.ts";
import { expectClose } from "./support/expect-close.ts";
import { SMALL_POLICIES, SMALL_WRAPPERS } from "./support/policies.ts";
import { tinyLlama } from "./support/tiny-llama.ts";
import { F32_COMPUTED } from "./support/tolerances.ts";

const POLICIES: Readonly<Record<string, Policy>> = {
  ...SMALL_POLICIES,
  streamingLLM: compress.streamingLLM({ sinks: 2 }),
  expectedAttention: compress.expectedAttention({ futurePositions: 7, sinks: 2 }),
  capKV: compress.capKV({ futurePositions: 7, sinks: 2 }),
};

const WRAPPERS: Readonly<Record<string, (policy: Policy) => Policy>> = {
  ...SMALL_WRAPPERS,
  perLayer: (policy) => compress.perLayer(policy, [{ budget: 9 }, { compressionRatio: 0.5 }]),
  composed: (policy) => compress.composed(policy, compress.think({ window: 4 })),
};

const PROMPT = Array.from({ length: 29 }, (_, t) => (t * 7 + 3) % 37);
const QUESTION = [5, 6, 7];
const BUDGET = 12;
const CHUNK = 9;

let model: DecoderModel;
beforeAll(async () => {
  const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 28 });
  model = await loadModel(tinyLlama({ num_hidden_layers: 2 }), { backend });
});
afterAll(() => model.dispose());

/** The reason, where something refuses. */
async function reason(run: () => unknown): Promise<string | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    if (error instanceof PhasorError) return error.message;
    throw error;
  }
}

/** Rows, tokens and positions that fit together, in every head. */
function checkCache(cache: ModelCache, moves: boolean): void {
  const { layers, tokensSeen, nextPosition } = cache.report();
  let longest = 0;
  for (const [layer, heads] of layers.entries()) {
    for (const [head, { rows, kept, dropped }] of heads.entries()) {
      const positions = cache.positions(layer, head);
      expect(rows).toBe(positions.length);
      expect(rows).toBeGreaterThan(0);
      longest = Math.max(longest, rows);
      const all = [...kept, ...dropped].sort(([a], [b]) => a - b);
      expect(all[0][0]).toBe(0);
      expect(all.at(-1)?.[1]).toBe(tokensSeen);
      for (let n = 1; n < all.length; n++) expect(all[n][0]).toBe(all[n - 1][1]);
      if (!moves) expect([...positions]).toEqual([...cache.sources(layer, head)]);
    }
  }
  if (moves) expect(nextPosition).toBeGreaterThanOrEqual(longest);
  else expect(nextPosition).toBe(tokensSeen);
}

async function runOne(policy: Policy, cacheOptions: ModelCacheOptions): Promise<void> {
  const amount = policy.amount === "given" ? { budget: BUDGET, prefillChunk: CHUNK } : {};
  const cache = model.createCache({ policy, ...amount, ...cacheOptions });
  const moves = cache.closesGaps;
  await model.prefill(cache, PROMPT, policy.needs.questionTokens ? { question: QUESTION } : {});
  checkCache(cache, moves);
  expect(cache.tokensSeen).toBe(PROMPT.length);
  if (policy.amount === "given") expect(meanLength(cache)).toBeLessThanOrEqual(BUDGET);
  for (let step = 0; step < 9; step++) await model.forward({ tokens: [step], cache, logits: "none" });
  checkCache(cache, moves);
  const fork = cache.fork();
  const [first, second] = [cache, fork].map((one) => model.forward({ tokens: [11], cache: one }));
  const logits = await first;
  expect(logits.data.every(Number.isFinite)).toBe(true);
  expect((await second).data).toEqual(logits.data);
  checkCache(fork, moves);
  cache.dispose();
  checkCache(fork, moves);
  fork.dispose();
}

const KINDS: [layout: "contiguous" | "paged", elements: "f32" | "int8" | "int4"][] = [
  ["contiguous", "f32"],
  ["contiguous", "int8"],
  ["contiguous", "int4"],
  ["paged", "f32"],
  ["paged", "int8"],
  ["paged", "int4"],
];

describe.each(KINDS)("a %s cache of %s", (layout, elements) => {
  it.each(Object.keys(WRAPPERS))(
    "%s of every policy works, and so does a fork, or is refused when made",
    async (outer) => {
      for (const [inner, policy] of Object.entries(POLICIES)) {
        let wrapped: Policy | undefined;
        const refused = await reason(() => {
          wrapped = WRAPPERS[outer](policy);
        });
        if (wrapped === undefined) {
          expect(refused, inner).toMatch(/; got |\. /);
          continue;
        }
        const one = wrapped;
        try {
          await runOne(one, { layout, elements });
        } catch (error) {
          throw new Error(`${outer}(${inner}): ${error instanceof Error ? error.stack : error}`);
        }
      }
    },
  );
});

/** Logits of tokens decoded one by one. */
async function decoded(cache: ModelCache): Promise<Float32Array[]> {
  const logits: Float32Array[] = [];
  for (let step = 0; step < 5; step++) logits.push((await model.forward({ tokens: [step], cache })).data.slice());
  return logits;
}

describe.each(KINDS)("key channels that go, in a %s cache of %s", (layout, elements) => {
  // 29 tokens of 2 layers, 2 heads: keys and values of 10, keys of 5 after it.
  const unit = { f32: (d: number) => 4 * d, int8: (d: number) => d + 4, int4: (d: number) => Math.ceil(d / 2) + 4 }[
    elements
  ];

  it("free their bytes, decoding goes on as if they were 0, and a saved cache is the same", async () => {
    const plans: LayerPlan[] = [];
    const policy = compress.think({ window: 4 });
    const options: ModelCacheOptions = { policy, layout, elements, onCompress: ({ plan }) => plans.push(plan) };
    const cache = model.createCache(options);
    await model.prefill(cache, PROMPT);
    const twin = model.createCache({ layout, elements });
    await model.prefill(twin, PROMPT);
    expect(twin.bytes).toBe(29 * 2 * 2 * 2 * unit(10));
    expect(cache.bytes).toBe(29 * 2 * 2 * (unit(5) + unit(10)));
    // Beside the rows: three integers of every slot, lists of channels, four queries, and what rounds arrays up to words.
    const queries = 4 * 2 * 4 * 10 * 4;
    expect(cache.allocatedBytes - cache.bytes - 29 * 2 * 3 * 4 - 2 * 2 * 5 * 4 - queries).toBeLessThan(2 * 3 * 4);

    const restored = model.createCache(options);
    await restored.restore(cache.snapshot());
    expect(restored.bytes).toBe(cache.bytes);
    const logits = await decoded(cache);
    expect(await decoded(restored)).toEqual(logits);
    for (const [layer, { droppedChannels = [] }] of plans.entries()) clearKeyChannels(twin.kv, layer, droppedChannels);
    // Clearing rounds quantised numbers once more.
    const tolerance = { f32: F32_COMPUTED, int8: 0.02, int4: 0.3 }[elements];
    for (const [n, want] of (await decoded(twin)).entries()) expectClose(logits[n], want, tolerance);
  });

  it("go again with the next prompt, from all rows, also where heads hold different ones", async () => {
    const policy = compress.composed(compress.adaptiveHeads(compress.snapKV({ window: 3 })), compress.think());
    const cache = model.createCache({ policy, compressionRatio: 0.5, layout, elements });
    await model.prefill(cache, PROMPT);
    await decoded(cache);
    await model.prefill(cache, [7, 8, 9]);
    expect([cache.isRagged(0), cache.kv.isNarrowed(0)]).toEqual([true, true]);
    const rows = [0, 1].flatMap((layer) => [0, 1].map((head) => cache.length(layer, head))).reduce((a, b) => a + b);
    expect(cache.bytes).toBe(rows * (unit(5) + unit(10)));
    expect((await decoded(cache)).flatMap((row) => [...row]).every(Number.isFinite)).toBe(true);
  });
});

it("under maxBytes a policy that drops channels is refused: the memory is taken beforehand", async () => {
  const policy = compress.composed(compress.knorm(), compress.think());
  expect(await reason(() => model.createCache({ policy, maxBytes: 20_000 }))).toBe(
    'createCache: a policy that keeps keys as wide as they are, for maxBytes; got policy="composed(knorm, think)". ' +
      "The memory is taken beforehand, narrower keys would free none of it; give a budget instead.",
  );
});

it("rings are refused where a policy decides, for they forget by age", async () => {
  for (const policy of Object.values(POLICIES)) {
    const amount = policy.amount === "given" ? { budget: BUDGET } : {};
    expect(await reason(() => model.createCache({ layout: "ring", policy, ...amount }))).toMatch(
      /^createCache: a contiguous or paged layout where a policy decides what goes; got layout="ring"/,
    );
  }
});
