import { expect, it } from "vitest";
import { keptOf, randomLayers } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { knorm, kvzip, perLayer, think } from "./index.ts";

it("every layer keeps its own amount, in whatever order layers are planned", () => {
  const layers = randomLayers(10);
  const policy = perLayer(knorm(), [{ compressionRatio: 0.2 }, { budget: 3 }, { compressionRatio: 0.75 }]);
  expect(keptOf(policy.plan(layers)).map(([first]) => first.length)).toEqual([8, 3, 2]);
  expect(policy.plan([layers[1]])).toEqual([policy.plan(layers)[1]]);
});

it("what cannot be divided among layers is refused", () => {
  expect(thrownBy(() => perLayer(kvzip(), []))).toBe(
    'ConfigError: perLayer: a policy that plans each layer alone and is told how much to keep; got policy="kvzip", scope="model", amount="given". This one shares out the layers\' tokens itself.',
  );
  expect(thrownBy(() => perLayer(think(), []))).toBe(
    'ConfigError: perLayer: a policy that plans each layer alone and is told how much to keep; got policy="think", scope="layer", amount="own". This one shares out the layers\' tokens itself.',
  );
  expect(thrownBy(() => perLayer(knorm(), [{ compressionRatio: 2 }]))).toBe(
    "ConfigError: compress: compressionRatio must lie in [0, 1); got compressionRatio=2. It is the fraction removed; to forget everything, clear the cache.",
  );
  expect(thrownBy(() => perLayer(knorm(), [{ budget: 3 }]).plan(randomLayers(10)))).toBe(
    "ConfigError: perLayer: an amount for every layer of the model; got amounts=1, layers=3.",
  );
});
