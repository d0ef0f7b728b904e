import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { decodingCompression, dms, knorm, prefillDecoding, rerotated, snapKV } from "./index.ts";

describe("a schedule", () => {
  it("is due after every interval", () => {
    const schedule = decodingCompression(knorm(), { intervalTokens: 3, targetTokens: 40 });
    expect([1, 2, 3, 4].map((tokens) => schedule.isDue(tokens))).toEqual([false, false, true, true]);
    expect(schedule.amount(1000)).toEqual({ budget: 40 });
  });

  it("with a ratio keeps a share of all tokens seen", () => {
    const schedule = decodingCompression(knorm(), { compressionRatio: 0.4 });
    expect([65, 69, 73].map((seen) => schedule.amount(seen))).toEqual([{ budget: 39 }, { budget: 41 }, { budget: 43 }]);
  });

  it("passes no amount to a policy that decides itself", () => {
    expect(decodingCompression(dms(knorm(), { threshold: 1 })).amount(50)).toBeUndefined();
  });
});

it("what cannot run while decoding or is told twice how much to keep is refused", () => {
  expect(thrownBy(() => decodingCompression(snapKV()))).toBe(
    'ConfigError: decodingCompression: a policy that can run while decoding; got policy="snapKV". This one looks at a whole prompt.',
  );
  expect(thrownBy(() => decodingCompression(knorm(), { targetTokens: 3, compressionRatio: 0.5 }))).toBe(
    "ConfigError: decodingCompression: either targetTokens or compressionRatio; got targetTokens=3, compressionRatio=0.5.",
  );
  expect(thrownBy(() => decodingCompression(dms(knorm(), { threshold: 1 }), { targetTokens: 3 }))).toBe(
    'ConfigError: decodingCompression: no target, because the policy\'s own parameters decide how much stays; got policy="dms(knorm)", targetTokens=3, compressionRatio=undefined.',
  );
});

describe("prefill and decoding", () => {
  const decoding = decodingCompression(knorm());

  it("go together", () => {
    const prefill = { policy: snapKV(), amount: { compressionRatio: 0.5 } };
    expect(prefillDecoding(prefill, decoding)).toEqual({ prefill, decoding });
  });

  it("are refused where only one moves keys, or the prefill's amount is missing", () => {
    const amount = { budget: 3 };
    expect(thrownBy(() => prefillDecoding({ policy: rerotated(knorm()), amount }, decoding))).toBe(
      'ConfigError: prefillDecoding: both policies or neither to move keys; got prefill="rerotated(knorm)", decoding="knorm". Wrap both in rerotated, or neither.',
    );
    expect(thrownBy(() => prefillDecoding({ policy: knorm() }, decoding))).toBe(
      'ConfigError: prefillDecoding: an amount exactly where the policy takes one; got policy="knorm", amount=undefined.',
    );
  });
});
