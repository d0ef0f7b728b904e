import { expect, it } from "vitest";
import { blankLayer, fixedScores } from "../../test/support/observation.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { rerotated } from "./rerotated.ts";
import { think } from "./think.ts";

it("every head's kept keys move to 0, 1, 2, …", () => {
  const policy = fixedScores([
    [1, 5, 2, 4],
    [1, 2],
  ]);
  const [plan] = rerotated(policy).plan([blankLayer(4, 2)], { compressionRatio: 0.5 });
  expect(plan.kept.map((slots) => [...slots])).toEqual([[1, 3], [1]]);
  expect(plan.positions?.map((row) => [...row])).toEqual([[0, 1], [0]]);
});

it("a policy that moves keys already or drops channels is refused", () => {
  expect(thrownBy(() => rerotated(rerotated(fixedScores([]))))).toBe(
    'ConfigError: rerotated: a policy that leaves keys where they are; got policy="rerotated(fixed)".',
  );
  expect(thrownBy(() => rerotated(think()))).toBe(
    'ConfigError: rerotated: a policy that keeps whole pairs of key channels; got policy="think". Turning a key mixes the two channels of a pair, and here one of them may be gone.',
  );
});
