import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tinyLlama } from "../../test/support/tiny-llama.ts";
import { finch, keyDiff, kvzip, parsePolicy, rerotated, snapKV, streamingLLM, think } from "../compress/index.ts";
import { createReferenceBackend } from "../engine/index.ts";
import { ConfigError } from "../errors.ts";
import { generate } from "../generate/index.ts";
import { type DecoderModel, loadModel, type ModelCacheOptions } from "../model/index.ts";
import { planFrequencyChange } from "../rope/index.ts";
import { inOptions, messageInOptions } from "./option-words.ts";

let model: DecoderModel;
beforeAll(async () => {
  model = await loadModel(tinyLlama(), { backend: createReferenceBackend() });
});
afterAll(() => model.dispose());

/** What is thrown, as a user of the command reads it. */
async function told(action: () => unknown, command = "generate"): Promise<string> {
  try {
    await action();
  } catch (error) {
    return messageInOptions(error, command);
  }
  return "";
}

describe("refusals in the words of the command line", () => {
  it.each<[ModelCacheOptions, string]>([
    [
      { policy: snapKV(), budget: 40 },
      'generate: the budget must exceed the policy\'s window, which always stays; got budget=40, window=64, policy="snapKV". Raise --budget or --max-cache-bytes, or give the policy a smaller window.',
    ],
    [
      { budget: 64 },
      "generate: the budget must leave room in the model's context, where what stays moves together; got budget=64, positions=64. Lower --budget, or give --no-rerotate.",
    ],
    [
      { policy: kvzip(), maxBytes: 1000 },
      'generate: --max-cache-bytes must hold a prompt longer than the budget, all of which the policy must see, in every layer; got max-cache-bytes=1000, neededBytes=NUMBER, tokens=2, policy="kvzip". Raise --max-cache-bytes, lower --budget or --prefill-chunk, or choose --cache-dtype int8 or int4.',
    ],
    [
      { policy: think(), maxBytes: 1e6 },
      'generate: a policy that keeps keys as wide as they are, for --max-cache-bytes; got policy="think". The memory is taken beforehand, narrower keys would free none of it; leave --max-cache-bytes out.',
    ],
    [
      { policy: parsePolicy("composed(keydiff,think)"), maxBytes: 1e6 },
      'generate: a policy that keeps keys as wide as they are, for --max-cache-bytes; got policy="composed(keyDiff, think)". The memory is taken beforehand, narrower keys would free none of it; give --budget instead.',
    ],
    [
      { policy: think(), rerotate: true },
      'generate: a policy that keeps whole pairs of key channels; got policy="think". Turning a key mixes the two channels of a pair, and here one of them may be gone. Leave --rerotate out.',
    ],
    [
      { policy: rerotated(keyDiff()), budget: 9, rerotate: false },
      'generate: no --no-rerotate for a policy that moves keys; got policy="rerotated(keyDiff)".',
    ],
    [
      { policy: parsePolicy("duoattention"), budget: 9 },
      'generate: no budget or --compression-ratio for a policy whose own parameters decide; got policy="duoAttention", budget=9. Bound all of it with --max-cache-bytes.',
    ],
    [
      { policy: keyDiff(), budget: 9, layout: "ring" },
      'generate: a contiguous or paged layout where a policy decides what goes; got cache-layout="ring", policy="keyDiff". A ring forgets by age alone.',
    ],
    [
      { policy: parsePolicy("adaptiveheads(keydiff)"), maxBytes: 1e5, layout: "contiguous" },
      'generate: pages, for a policy that keeps unequal numbers of tokens in heads or layers within --max-cache-bytes; got cache-layout="contiguous", policy="adaptiveHeads(keyDiff)". Leave --cache-layout out, or choose paged: what one of them leaves, another may use.',
    ],
    [
      { policy: keyDiff(), budget: 9, onFrequencyChange: "reprefill" },
      'generate: --on-frequency-change pin or rerotate where the cache forgets; got on-frequency-change="reprefill". What was forgotten would be computed again.',
    ],
  ])("createCache(%j)", async (options, message) => {
    const text = await told(() => model.createCache(options));
    expect(text.replace(/neededBytes=\d+/, "neededBytes=NUMBER")).toBe(message);
  });

  it("a prompt that the promised bytes do not hold, or the model", async () => {
    const tokens = new Array<number>(100).fill(3);
    const prefill = (maxBytes: number) => () => model.prefill(model.createCache({ policy: kvzip(), maxBytes }), tokens);
    expect((await told(prefill(30_000))).replaceAll(/=\d+/g, "=N")).toBe(
      'generate: the whole prompt within --max-cache-bytes, for a policy that must see all of it; got policy="kvzip", tokens=N, promptTokens=N, capacity=N, max-cache-bytes=N. Raise --max-cache-bytes, choose --cache-dtype int8 or int4, shorten the text, or choose a policy that runs between chunks, such as keydiff.',
    );
    const long = new Array<number>(700).fill(3);
    const cache = model.createCache({ policy: kvzip(), maxBytes: 2 ** 30 });
    expect(await told(() => model.prefill(cache, long))).toMatch(
      /The model has no more positions: shorten the text, or choose a policy that runs between chunks, such as keydiff\.$/,
    );
  });

  it("a question that there is none of, for each command", async () => {
    const read = (): Promise<unknown> =>
      model.prefill(model.createCache({ policy: finch(), budget: 9 }), new Array<number>(60).fill(3));
    const start = 'a question, for a policy that looks from one; got policy="finch".';
    expect(await told(read)).toBe(`generate: ${start} Give --ask once.`);
    expect(await told(read, "eval")).toBe(`eval: ${start} Give --question known.`);
  });

  it("what eval has under other names", async () => {
    const small = await told(() => model.createCache({ policy: snapKV(), budget: 40 }), "eval");
    expect(small).toMatch(/\. Raise --budgets, or give the policy a smaller window\.$/);
    const large = await told(() => model.createCache({ policy: streamingLLM(), budget: 64, rerotate: true }), "eval");
    expect(large).toMatch(/\. Lower --budgets, or give --rerotate off\.$/);
  });

  it("a prompt beyond the context, and frequencies that change", async () => {
    expect(await told(() => generate(model, new Array<number>(70).fill(3)))).toBe(
      "generate: the prompt must fit the context of 64 positions; got promptTokens=70, cachedPositions=0. Shorten the prompt, give --budget with --rerotate to read on, or raise --context if the model can go further.",
    );
    const schedule = { type: "dynamic", dim: 8, theta: 10000, factor: 2, maxLength: 16 } as const;
    const layer = { headDim: 8, rotaryDim: 8, rotaryOffset: 0, pairing: "half", schedule } as const;
    expect(await told(() => planFrequencyChange({ layer, cachedLength: 17, newLength: 18 }))).toBe(
      "generate: the dynamic schedule changes its frequencies under cached keys, so a choice is required; got cachedLength=17, newLength=18. Give --on-frequency-change pin (keep the first frequencies), rerotate (turn the cached keys) or reprefill (compute again).",
    );
  });

  it("leaves alone what names a file or the command, and what is no refusal", () => {
    const own = new ConfigError("model/config.json", "maxBytes", { maxBytes: undefined });
    expect(messageInOptions(own, "generate")).toBe("model/config.json: maxBytes; got maxBytes=undefined.");
    expect(messageInOptions(new TypeError("createCache: maxBytes"), "generate")).toBe("createCache: maxBytes");
    expect(messageInOptions("stopped", "generate")).toBe("stopped");
    expect(inOptions("createCache: a; got b=undefined.", "eval")).toBe("eval: a.");
    expect(inOptions("createCache: a; got b=undefined, c=1. d.", "eval")).toBe("eval: a; got c=1. d.");
  });
});
