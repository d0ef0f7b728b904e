import { describe, expect, it } from "vitest";
import { planFrequencyChange } from "./frequency-change.ts";
import type { RotaryLayer } from "./layer.ts";

const layer: RotaryLayer = {
  headDim: 8,
  rotaryDim: 8,
  rotaryOffset: 0,
  pairing: "half",
  schedule: { type: "dynamic", dim: 8, theta: 10000, factor: 2, maxLength: 100 },
};

describe("planFrequencyChange", () => {
  it("asks nothing while the frequencies stay, whatever the choice", () => {
    expect(planFrequencyChange({ layer, cachedLength: 5, newLength: 100 })).toEqual({ action: "none", length: 100 });
    const plain: RotaryLayer = { ...layer, schedule: { type: "default", dim: 8, theta: 10 } };
    const change = { layer: plain, cachedLength: 5, newLength: 1e6, choice: "reprefill" } as const;
    expect(planFrequencyChange(change)).toEqual({ action: "none", length: 1e6 });
  });

  it("asks nothing of an empty cache", () => {
    expect(planFrequencyChange({ layer, cachedLength: 0, newLength: 500 })).toEqual({ action: "none", length: 500 });
  });

  it("pin keeps the length of the cached keys", () => {
    const change = { layer, cachedLength: 100, newLength: 101, choice: "pin" } as const;
    expect(planFrequencyChange(change)).toEqual({ action: "none", length: 100 });
  });

  it.each(["rerotate", "reprefill"] as const)("%s goes to the new length", (choice) => {
    expect(planFrequencyChange({ layer, cachedLength: 101, newLength: 102, choice })).toEqual({
      action: choice,
      length: 102,
    });
  });

  it("without a choice the change is an error that names all three", () => {
    expect(() => planFrequencyChange({ layer, cachedLength: 100, newLength: 101 })).toThrow(
      'planFrequencyChange: the dynamic schedule changes its frequencies under cached keys, so a choice is required; got cachedLength=100, newLength=101, choice=undefined. Choose "pin" (keep the first frequencies), "rerotate" (turn the cached keys) or "reprefill" (compute again).',
    );
  });
});
