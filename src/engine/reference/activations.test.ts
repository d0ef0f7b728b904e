import { describe, expect, it } from "vitest";
import { ACTIVATIONS, normalCdf } from "./activations.ts";

describe("the normal distribution function", () => {
  // Abramowitz and Stegun, table 26.1, and the tails from Mills' ratio to twenty terms.
  it.each([
    [0, 0.5],
    [0.5, 0.691462461274013],
    [1, 0.841344746068543],
    [2, 0.977249868051821],
    [3, 0.99865010196837],
    [-1.5, 0.0668072012688581],
    [-4, 3.16712418331199e-5],
    [-5, 2.86651571879194e-7],
    [-8, 6.22096057427178e-16],
  ])("at %d is %d, to twelve places", (x, want) => {
    expect(Math.abs(normalCdf(x) / want - 1)).toBeLessThan(1e-12);
  });

  it("goes on smoothly where the series ends", () => {
    for (const end of [-3, 3]) expect(normalCdf(end + 1e-9) - normalCdf(end - 1e-9)).toBeCloseTo(2e-9 * 0.00443, 13);
  });

  it("ends at 0 and 1", () => {
    expect([-1e300, -40, 40, 1e300].map(normalCdf)).toEqual([0, 0, 1, 1]);
  });
});

describe("activations", () => {
  it.each([
    // PyTorch 2: F.silu, F.gelu, F.gelu(approximate="tanh") in f64.
    ["silu", 0.7310585786300049],
    ["gelu", 0.8413447460685429],
    ["geluTanh", 0.8411919906082768],
  ] as const)("%s of 1 is what PyTorch has", (name, want) => {
    expect(ACTIVATIONS[name](1).value).toBeCloseTo(want, 14);
  });
});
