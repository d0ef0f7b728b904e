import { describe, expect, it } from "vitest";
import { RngStream, Rngs, random } from "./index.ts";

const nth = (seed: number, n: number) => random.foldIn(random.key(seed), n);

describe("Rngs", () => {
  it("gives the n-th key of a stream as foldIn(key(seed), n)", () => {
    const rngs = new Rngs({ params: 3, dropout: 4 });
    expect([rngs.next("params"), rngs.next("dropout"), rngs.next("params")]).toEqual([nth(3, 0), nth(4, 0), nth(3, 1)]);
    expect(rngs.stream("params").count).toBe(2);
  });

  it("names without a stream share the default one and its counter", () => {
    const rngs = new Rngs(5, { dropout: 6 });
    expect([rngs.next(), rngs.next("params"), rngs.next("dropout"), rngs.next("other")]).toEqual([
      nth(5, 0),
      nth(5, 1),
      nth(6, 0),
      nth(5, 2),
    ]);
  });

  it("takes keys and bigints as seeds", () => {
    const key = [7, 9] as const;
    expect(new Rngs(key).next()).toEqual(random.foldIn(key, 0));
    expect(new Rngs({ params: 2n ** 40n + 1n }).next("params")).toEqual(nth(1, 0));
  });

  it("a forked stream starts from the next key", () => {
    const stream = new RngStream(8);
    const fork = stream.fork();
    expect(fork.key).toEqual(nth(8, 0));
    expect(fork.next()).toEqual(random.foldIn(nth(8, 0), 0));
    expect(stream.next()).toEqual(nth(8, 1));
  });

  it("refuses a name without a stream or a default", () => {
    expect(() => new Rngs({ params: 1 }).next("toString")).toThrow(
      'Rngs: a stream of this name, or a default one; got name="toString", streams=["params"]. ' +
        "Pass its seed, or a default seed, to new Rngs.",
    );
  });
});
