import { describe, expect, test } from "vitest";
import { createContiguousCache, type KvCache } from "../cache/index.ts";
import { f32, type Tensor, zeros } from "../tensor.ts";
import { type GenerateOptions, type GenerationRun, generate } from "./generate.ts";
import type { LanguageModel, TextCodec } from "./language-model.ts";

const WORDS = ["<s>", "a", "b", "c", "d", "e", "f"];

/** One word per id, no spaces; ids of unknown words are not needed here. */
const tokenizer: TextCodec = {
  isSpecial: (id) => id === 0,
  encode: (text, { addSpecialTokens = true } = {}) => [
    ...(addSpecialTokens ? [0] : []),
    ...Array.from(text, (letter) => WORDS.indexOf(letter)),
  ],
  decode: (ids, { skipSpecialTokens = true } = {}) =>
    Array.from(ids, (id) => (id === 0 && skipSpecialTokens ? "" : WORDS[id])).join(""),
};

/** The same, but "c" is followed by a byte of a character whose others never come. */
const incomplete: TextCodec = {
  ...tokenizer,
  decode: (ids, options) => tokenizer.decode(ids, options).replace("c", "c\ufffd"),
};

/** After id i comes i + 1, after the last one 1; the logit of the second best, i + 2, is lower by one. */
class Counter implements LanguageModel {
  readonly vocabSize = WORDS.length;
  readonly maxPositions: number = 23;
  readonly stopTokenIds: readonly number[] = [];
  readonly tokenizer: TextCodec | undefined = tokenizer;
  /** What was fed, forward by forward. */
  readonly fed: number[][] = [];
  readonly wanted: string[] = [];
  readonly sequenceLengths: number[] = [];

  constructor(changes: Partial<Pick<Counter, "maxPositions" | "stopTokenIds" | "tokenizer">> = {}) {
    Object.assign(this, changes);
  }

  createCache(): KvCache {
    return createContiguousCache([{ kvHeads: 1, keyDim: 2, valueDim: 1 }]);
  }

  async forward({
    tokens,
    cache,
    sequenceLength,
    logits,
  }: Parameters<LanguageModel["forward"]>[0]): Promise<Tensor<"f32">> {
    const T = tokens.length;
    this.fed.push([...tokens]);
    this.wanted.push(logits);
    this.sequenceLengths.push(sequenceLength);
    cache.append(0, {
      keys: zeros("f32", [T, 1, 2]),
      values: f32([T, 1, 1], tokens),
      positions: Int32Array.from(tokens, (_, t) => cache.nextPosition + t),
      segments: new Int32Array(T),
    });
    if (logits === "none") return zeros("f32", [0, this.vocabSize]);
    const row = new Float32Array(this.vocabSize).fill(-50);
    const next = (id: number): number => (id + 1 < this.vocabSize ? id + 1 : 1);
    row[next(tokens[T - 1])] = 2;
    row[next(next(tokens[T - 1]))] = 1;
    return f32([1, this.vocabSize], row);
  }
}

/** The tokens in a cache of {@link Counter}. */
function tokensIn(cache: KvCache): number[] {
  return [...cache.view(0).values.data];
}

async function collect(run: GenerationRun): Promise<string[]> {
  const texts: string[] = [];
  for await (const piece of run) texts.push(piece.text);
  return texts;
}

describe("generate: what it yields", () => {
  test("pieces carry token, text and index, and the summary adds them up", async () => {
    const model = new Counter();
    const run = generate(model, "ab", { maxNewTokens: 3, seed: 11 });
    expect([run.promptText, run.promptTokenIds]).toEqual(["ab", [0, 1, 2]]);
    const pieces = [];
    for await (const piece of run) pieces.push(piece);
    expect(pieces).toEqual([
      { tokenId: 3, text: "c", index: 0 },
      { tokenId: 4, text: "d", index: 1 },
      { tokenId: 5, text: "e", index: 2 },
    ]);
    expect(run.summary).toMatchObject({
      text: "abcde",
      newText: "cde",
      tokenIds: [0, 1, 2, 3, 4, 5],
      promptTokens: 3,
      newTokens: 3,
      cachedTokens: 5,
      cacheBytes: 5 * 3 * 4,
      stopReason: "max-new-tokens",
      seed: 11,
    });
  });

  test("times: seconds is prefill and decode, and the caller's own time is not counted", async () => {
    const run = generate(new Counter(), "ab", { maxNewTokens: 4 });
    for await (const _ of run) await new Promise((resolve) => setTimeout(resolve, 30));
    const { seconds, prefillSeconds, tokensPerSecond } = run.summary;
    expect(seconds).toBeLessThan(0.06);
    expect(prefillSeconds).toBeGreaterThan(0);
    expect(tokensPerSecond).toBeCloseTo(3 / (seconds - prefillSeconds), 6);
  });

  test("logprobs gives the model's own log-probability, whatever the sampler's options", async () => {
    const run = generate(new Counter(), "a", { maxNewTokens: 1, logprobs: true, temperature: 9, topK: 1 });
    const logprobs = [];
    for await (const piece of run) logprobs.push(piece.logprob);
    // softmax of 2 and 1: 1 / (1 + 1/e)
    expect(logprobs).toEqual([expect.closeTo(-Math.log(1 + Math.exp(-1)), 6)]);
  });

  test("finish runs without the pieces, and again gives the same summary", async () => {
    const run = generate(new Counter(), "a", { maxNewTokens: 2 });
    const summary = await run.finish();
    expect(summary.text).toBe("abc");
    expect(await run.finish()).toBe(summary);
  });

  test("a model without tokenizer generates from ids, without text", async () => {
    const model = new Counter({ tokenizer: undefined });
    const summary = await generate(model, [1], { maxNewTokens: 2 }).finish();
    expect([summary.tokenIds, summary.text]).toEqual([[1, 2, 3], ""]);
  });

  test("repetition penalty sees prompt and new tokens", async () => {
    // Logits 2 and 1 for b and c after a. b occurred: 2 / 3 < 1, so c comes.
    const { newText } = await generate(new Counter(), "ba", { maxNewTokens: 1, repetitionPenalty: 3 }).finish();
    expect(newText).toBe("c");
  });
});

describe("generate: how it ends", () => {
  test("a stop token is neither shown nor counted", async () => {
    const model = new Counter({ stopTokenIds: [4] });
    const summary = await generate(model, "a").finish();
    expect(summary).toMatchObject({ text: "abc", tokenIds: [0, 1, 2, 3], newTokens: 2, stopReason: "stop-token" });
  });

  test("stopTokens replaces the model's own", async () => {
    const model = new Counter({ stopTokenIds: [4] });
    const summary = await generate(model, "a", { stopTokens: [6] }).finish();
    expect(summary).toMatchObject({ text: "abcde", stopReason: "stop-token" });
  });

  test("a stop string over several tokens is not shown, its tokens are counted", async () => {
    const run = generate(new Counter(), "a", { stopStrings: ["xyz", "de"] });
    expect(await collect(run)).toEqual(["b", "c", "", ""]);
    expect(run.summary).toMatchObject({ text: "abc", tokenIds: [0, 1, 2, 3, 4, 5], stopReason: "stop-string" });
  });

  test("nothing follows a stop string, not even a character that never became complete", async () => {
    const model = new Counter({ tokenizer: incomplete });
    const summary = await generate(model, "a", { stopStrings: ["c"] }).finish();
    expect(summary).toMatchObject({ newText: "b", stopReason: "stop-string" });
  });

  test("a character that never became complete is shown at the end", async () => {
    const model = new Counter({ tokenizer: incomplete });
    const run = generate(model, "a", { maxNewTokens: 2 });
    expect(await collect(run)).toEqual(["b", "c", "\ufffd"]);
    expect(run.summary.newText).toBe("bc\ufffd");
  });

  test("a stop string that the prompt began is not one", async () => {
    const summary = await generate(new Counter(), "ab", { stopStrings: ["bc"], maxNewTokens: 2 }).finish();
    expect(summary).toMatchObject({ text: "abcd", stopReason: "max-new-tokens" });
  });

  test("text held back comes in a last piece without token", async () => {
    const run = generate(new Counter(), "a", { stopStrings: ["cdx"], maxNewTokens: 3 });
    const pieces = [];
    for await (const piece of run) pieces.push(piece);
    expect(pieces.at(-1)).toEqual({ tokenId: null, text: "cd", index: 3 });
    expect(run.summary.newText).toBe("bcd");
  });

  test("the context is filled to its last position", async () => {
    const summary = await generate(new Counter({ maxPositions: 5 }), "ab").finish();
    expect(summary).toMatchObject({ tokenIds: [0, 1, 2, 3, 4], stopReason: "context-full" });
  });

  test("maxPositions replaces the model's limit", async () => {
    const summary = await generate(new Counter({ maxPositions: 5 }), "ab", { maxPositions: 7 }).finish();
    expect(summary.tokenIds.length).toBe(7);
  });

  test("a prompt that fills the context gets no token", async () => {
    const summary = await generate(new Counter({ maxPositions: 3 }), "ab").finish();
    expect(summary).toMatchObject({ newTokens: 0, stopReason: "context-full", tokensPerSecond: 0 });
  });

  test("the signal ends the run between steps and nothing is lost", async () => {
    const controller = new AbortController();
    const run = generate(new Counter(), "a", { signal: controller.signal, stopStrings: ["cx"] });
    const texts = [];
    for await (const piece of run) {
      texts.push(piece.text);
      if (piece.index === 1) controller.abort();
    }
    expect(texts).toEqual(["b", "", "c"]);
    expect(run.summary).toMatchObject({ text: "abc", tokenIds: [0, 1, 2, 3], stopReason: "aborted" });
  });

  test("a signal that fires from a timer is seen, though the model never waits", async () => {
    const model = new Counter({ maxPositions: 2 ** 30 });
    const summary = await generate(model, "a", { signal: AbortSignal.timeout(20), maxNewTokens: 1e6 }).finish();
    expect(summary.stopReason).toBe("aborted");
  });

  test("a signal during the prefill leaves the chunks fed so far", async () => {
    const controller = new AbortController();
    const model = new Counter();
    const forward = model.forward.bind(model);
    model.forward = (input) => {
      if (model.fed.length === 1) controller.abort();
      return forward(input);
    };
    const cache = model.createCache();
    const options = { cache, prefillChunk: 2, signal: controller.signal };
    const summary = await generate(model, [1, 2, 3, 4, 5, 6, 1], options).finish();
    expect(summary).toMatchObject({ cachedTokens: 4, newTokens: 0, stopReason: "aborted" });
    expect(tokensIn(cache)).toEqual([1, 2, 3, 4]);
  });
});

describe("generate: the cache", () => {
  test("a prefill in chunks asks for logits once and gives the same text", async () => {
    const model = new Counter();
    const summary = await generate(model, "abcde", { prefillChunk: 4, maxNewTokens: 2 }).finish();
    expect(model.fed).toEqual([[0, 1, 2, 3], [4, 5], [6]]);
    expect(model.wanted).toEqual(["none", "last", "last"]);
    expect(model.sequenceLengths).toEqual([6, 6, 7]); // the whole prompt's from the first chunk on
    expect(summary.newText).toBe("fa");
  });

  test.each<[string, GenerateOptions]>([
    ["max-new-tokens", { maxNewTokens: 3 }],
    ["stop-token", { stopTokens: [5] }],
    ["stop-string", { stopStrings: ["cd"] }],
    ["context-full", { maxPositions: 6 }],
  ])("a cache given by the caller holds all tokens after %s", async (stopReason, options) => {
    const model = new Counter();
    const cache = model.createCache();
    const summary = await generate(model, "ab", { ...options, cache }).finish();
    expect(summary.stopReason).toBe(stopReason);
    expect(tokensIn(cache)).toEqual(summary.tokenIds);
    expect(summary.cachedTokens).toBe(summary.tokenIds.length);
  });

  test("leaving the loop leaves every token shown in the cache, and the next run continues it", async () => {
    const model = new Counter();
    const cache = model.createCache();
    const first = generate(model, "ab", { cache });
    for await (const piece of first) if (piece.text === "d") break;
    expect(first.summary).toMatchObject({ text: "abcd", stopReason: "aborted" });
    expect(tokensIn(cache)).toEqual([0, 1, 2, 3, 4]);

    const second = await generate(model, "aa", { cache, maxNewTokens: 1 }).finish();
    expect(second.tokenIds).toEqual([1, 1, 2]);
    expect(tokensIn(cache)).toEqual([0, 1, 2, 3, 4, 1, 1, 2]);
    expect(second.cacheBytes).toBe(cache.bytes);
  });

  test("leaving the loop loses no text that was held back", async () => {
    const run = generate(new Counter(), "a", { stopStrings: ["cdx"] });
    for await (const piece of run) if (piece.index === 2) break;
    expect(run.summary).toMatchObject({ text: "abcd", newTokens: 3, stopReason: "aborted" });
  });

  test("maxNewTokens 0 feeds the prompt to the cache", async () => {
    const model = new Counter();
    const cache = model.createCache();
    const summary = await generate(model, "ab", { cache, maxNewTokens: 0 }).finish();
    expect(tokensIn(cache)).toEqual([0, 1, 2]);
    expect(model.wanted).toEqual(["none"]);
    expect(summary).toMatchObject({ newTokens: 0, stopReason: "max-new-tokens" });
  });

  test("an error of the model reaches the caller", async () => {
    const model = new Counter();
    model.forward = () => Promise.reject(new Error("lost"));
    const run = generate(model, "a", { cache: model.createCache() });
    await expect(run.finish()).rejects.toThrow("lost");
  });
});

describe("generate: refusals", () => {
  const refused = (options: GenerateOptions, prompt: string | number[] = "a", model = new Counter()) => {
    return () => generate(model, prompt, options);
  };

  test("bad options", () => {
    expect(refused({ maxNewTokens: -1 })).toThrow(
      "generate: maxNewTokens must be an integer of at least 0; got maxNewTokens=-1.",
    );
    expect(refused({ prefillChunk: 0 })).toThrow(
      "generate: prefillChunk must be an integer of at least 1; got prefillChunk=0.",
    );
    expect(refused({ maxPositions: 1.5 })).toThrow(
      "generate: maxPositions must be an integer of at least 1; got maxPositions=1.5.",
    );
    expect(refused({ temperature: -1 })).toThrow("createSampler: temperature must be");
  });

  test("a prompt without tokens, with bad tokens, or without tokenizer", () => {
    expect(refused({ addSpecialTokens: false }, "")).toThrow("generate: the prompt must have at least one token.");
    expect(refused({}, [1, 7])).toThrow("generate: prompt tokens must be integers from 0 to 6; got token=7, index=1.");
    const model = new Counter({ tokenizer: undefined });
    expect(refused({}, "a", model)).toThrow(
      "generate: a text prompt needs a model with a tokenizer. Give token ids instead.",
    );
    expect(refused({ stopStrings: ["a"] }, [1], model)).toThrow(
      "generate: a stop string needs a model with a tokenizer. Give token ids instead.",
    );
  });

  test("a prompt longer than the room left", async () => {
    const model = new Counter({ maxPositions: 5 });
    const cache = model.createCache();
    await generate(model, "ab", { cache, maxNewTokens: 0 }).finish();
    expect(refused({ cache }, "abc", model)).toThrow(
      "generate: the prompt must fit the context of 5 positions; got promptTokens=3, cachedPositions=3. " +
        "Shorten the prompt, or raise maxPositions if the model can go further.",
    );
  });

  test("a summary before the end", () => {
    const run = generate(new Counter(), "a");
    expect(() => run.summary).toThrow(
      "generate: the summary is there when the run has ended. Finish the loop over the run, or await run.finish().",
    );
  });
});
