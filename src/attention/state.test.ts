import { describe, expect, it } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { zeros } from "../tensor.ts";
import { referenceAttention } from "./reference.ts";
import { emptyState, mergeStates, stateFromOutput } from "./state.ts";

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

describe("attention refuses", () => {
  const request = { q: values([3, 2, 5], 1), k: values([7, 1, 5], 2), v: values([7, 1, 3], 3) };

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
