import { describe, expect, test } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { parseIntegers, parsePolicies, parseWords } from "./options.ts";

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
    expect(parseIntegers("1,20,-3")).toEqual([1, 20, -3]);
    expect(thrownBy(() => parseIntegers("1,2.5"))).toMatch(/It must be a whole number/);
    expect(parseWords(["f32", "int8"])("int8, f32")).toEqual(["int8", "f32"]);
    expect(thrownBy(() => parseWords(["f32", "int8"])("int9"))).toMatch(/It must be made of f32, int8/);
  });
});
