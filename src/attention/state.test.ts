import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { causal } from "../mask/index.ts";
import { zeros } from "../tensor.ts";
import { referenceAttention } from "./reference.ts";
import { emptyState, finishState, mergeStates, sinkState, stateFromOutput } from "./state.ts";

describe("states", () => {
  it("refuse to merge when there is none or shapes differ", () => {
    expect(thrownBy(() => mergeStates())).toBe("ShapeError: mergeStates: at least one state; got states=0.");
    expect(thrownBy(() => mergeStates(emptyState([3, 2, 5]), emptyState([3, 2, 7])))).toBe(
      "ShapeError: mergeStates: states must have the same shape; got shape=[3,2,7], first=[3,2,5].",
    );
  });

  it("refuse an output without one lse per row", () => {
    expect(thrownBy(() => stateFromOutput({ out: zeros("f32", [3, 2, 5]), lse: zeros("f32", [3]) }))).toBe(
      "ShapeError: stateFromOutput: lse must have one entry per row of out; got out=[3,2,5], lse=[3].",
    );
  });
});

describe("sinks", () => {
  it("are one per head", () => {
    expect(thrownBy(() => sinkState([1, 2, 3], [1, 2, 4]))).toBe(
      "ShapeError: sinkState: sinks must have one entry per head of [..., H, Dv]; got length=3, shape=[1,2,4].",
    );
  });

  it("of −Infinity add nothing, also to a row that sees no key", () => {
    const state = mergeStates(emptyState([1, 2, 3]), sinkState([-Infinity, 2], [1, 2, 3]));
    const { out, lse } = finishState(state, "f64");
    expect([...lse.data]).toEqual([-Infinity, 2]);
    expect([...out.data]).toEqual([0, 0, 0, 0, 0, 0]);
  });
});

it("NaN of a query, a key or a bias shows in the rows that see it, and in no other", () => {
  const k = values([7, 1, 5], 2);
  k.data[6 * 5] = NaN; // the last key
  const { out, lse } = referenceAttention({ q: values([3, 2, 5], 1), k, v: values([7, 1, 3], 3), mask: causal() });
  expect(Array.from(lse.data, Number.isNaN)).toEqual([false, false, false, false, true, true]);
  expect(Array.from(out.data, Number.isNaN)).toEqual(Array.from({ length: 18 }, (_, n) => n >= 12));
});

describe("attention refuses", () => {
  const request = { q: values([3, 2, 5], 1), k: values([7, 1, 5], 2), v: values([7, 1, 3], 3) };

  it.each<[string, object, string]>([
    ["no head", { q: zeros("f32", [3, 0, 5]) }, "ShapeError: attention: there must be at least 1 head; got q=[3,0,5]."],
    [
      "numbers that are fewer than the shape says",
      { q: { dtype: "f32", shape: [3, 2, 5], data: new Float32Array(29) } },
      "ShapeError: attention: the data of q must have the size of its shape; got length=29, shape=[3,2,5].",
    ],
    [
      "bits of half precision as queries",
      { q: { dtype: "f16", shape: [3, 2, 5], data: new Uint16Array(30) } },
      'ShapeError: attention: q must be f32 or f64, in an array of that type; got dtype="f16".',
    ],
    [
      "a bias of integers",
      { bias: { dtype: "i32", shape: [1], data: new Int32Array(1) } },
      'ShapeError: attention: bias must be f32 or f64, in an array of that type; got dtype="i32".',
    ],
    [
      "a sink that is no number",
      { sinks: [0, NaN] },
      "ConfigError: attention: sinks must be numbers below Infinity; got head=1, sink=NaN.",
    ],
    [
      "an infinite sink",
      { sinks: [Infinity, 0] },
      "ConfigError: attention: sinks must be numbers below Infinity; got head=0, sink=Infinity.",
    ],
    [
      "an infinite slope",
      { alibiSlopes: [0, -Infinity] },
      "ConfigError: attention: alibiSlopes must be finite numbers; got head=1, slope=-Infinity.",
    ],
    [
      "a selection without kind",
      { select: "moba" },
      'ConfigError: attention: select.kind must be "moba", "indexer", "blocks" or "keys"; got kind=undefined.',
    ],
    [
      "a mask that is a name",
      { mask: "causal" },
      'ConfigError: attention: a mask made by the builders; got mask="causal". Plain JSON is read by parseMask.',
    ],
  ])("%s", (_, change, message) => {
    expect(thrownBy(() => referenceAttention({ ...request, ...change }))).toBe(message);
  });

  it("a head dim of 0", () => {
    const none = { ...request, q: zeros("f32", [3, 2, 0]), k: zeros("f32", [7, 1, 0]) };
    expect(thrownBy(() => referenceAttention(none))).toBe(
      "ShapeError: attention: the head dim must be at least 1; got q=[3,2,0].",
    );
  });

  it("an unknown precision", () => {
    expect(thrownBy(() => referenceAttention({ ...request, accumulate: "f16" as "f32" }))).toBe(
      'ConfigError: attention: accumulate must be "f32" or "f64"; got accumulate="f16".',
    );
  });
});
