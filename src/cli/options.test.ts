import { describe, expect, test } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { parseCounts, parsePolicies, parseWords } from "./options.ts";

describe("lists on the command line", () => {
  test("policies are split at the commas between them, not at those inside", () => {
    expect(parsePolicies("knorm, adaptiveheads(safeguard=0.1,snapkv(window=3,kernel=5)),tova")).toEqual([
      "knorm",
      "adaptiveheads(safeguard=0.1,snapkv(window=3,kernel=5))",
      "tova",
    ]);
    expect(thrownBy(() => parsePolicies("knorm,"))).toMatch(/parsePolicy: more of it/);
    expect(thrownBy(() => parsePolicies("knorm),("))).toMatch(/parsePolicy/);
  });

  test("numbers and words are checked one by one", () => {
    expect(parseCounts("1,20,1e3,20")).toEqual([1, 20, 1000]);
    for (const text of ["1,2.5", "1,0", "1,-3", "9007199254740992"]) {
      expect(thrownBy(() => parseCounts(text))).toMatch(/It must be a whole number from 1 to 2\^53 - 1\.$/);
    }
    expect(parseWords(["f32", "int8"])("int8, f32")).toEqual(["int8", "f32"]);
    expect(thrownBy(() => parseWords(["f32", "int8"])("int9"))).toMatch(/It must be made of f32, int8/);
  });
});
