import { describe, expect, test } from "vitest";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { POLICY_NAMES, parsePolicy } from "./parse-policy.ts";

describe("parsePolicy", () => {
  test("makes every policy from its name alone, except those with an option they cannot do without", () => {
    const wrappers = POLICY_NAMES.slice(POLICY_NAMES.indexOf("rerotated"));
    for (const name of POLICY_NAMES) {
      const inner = name === "composed" ? "(knorm, think)" : name === "dms" ? "(knorm, threshold=1)" : "(knorm)";
      const alone = name === "simlayerkv" ? "(threshold=0.9)" : "";
      expect(parsePolicy(`${name}${wrappers.includes(name) ? inner : alone}`).name.toLowerCase()).toContain(
        name === "random" ? "random" : name,
      );
    }
  });

  test("passes options and inner policies on", () => {
    const policy = parsePolicy("Adaptive-Heads( snapKV(window=7, kernel=3), safeguard = .5 )");
    expect(policy.name).toBe("adaptiveHeads(snapKV)");
    expect(policy.needs.queries).toBe(7);
    expect(parsePolicy("kvcompose(structured=false)").ragged).toBe(true);
    expect(parsePolicy("kvcompose(structured=true)").ragged).toBe(false);
    expect(parsePolicy("rerotated(cur(leverage=key))").effects).toContain("moves keys");
  });

  test("names what it cannot read", () => {
    expect(thrownBy(() => parsePolicy("snapkv(windows=3)"))).toBe(
      'ConfigError: parsePolicy: an option of snapkv; got option="windows". It has window, kernel.',
    );
    expect(thrownBy(() => parsePolicy("knorm(sinks=3)"))).toBe(
      'ConfigError: parsePolicy: an option of knorm; got option="sinks". It has none.',
    );
    expect(thrownBy(() => parsePolicy("snapvk"))).toMatch(
      /^ConfigError: parsePolicy: the name of a policy; got name="snapvk"/,
    );
    expect(thrownBy(() => parsePolicy("snapkv(window=x)"))).toBe(
      'ConfigError: parsePolicy: window must be a number; got window="x".',
    );
    expect(thrownBy(() => parsePolicy("snapkv(window=3"))).toBe(
      'ConfigError: parsePolicy: ")"; got found="the end", text="snapkv(window=3". Write NAME(INNER, option=value).',
    );
    expect(thrownBy(() => parsePolicy("adaptiveheads"))).toBe(
      "ConfigError: parsePolicy: one policy inside adaptiveheads; got policies=[].",
    );
    expect(thrownBy(() => parsePolicy("knorm(tova)"))).toBe(
      'ConfigError: parsePolicy: no policy inside knorm; got policies=["tova"].',
    );
    expect(thrownBy(() => parsePolicy("dms(knorm)"))).toMatch(/dms with its threshold/);
    expect(thrownBy(() => parsePolicy("snapkv(window=0)"))).toMatch(/^ConfigError: snapKV/);
    expect(thrownBy(() => parsePolicy("knorm tova"))).toMatch(/nothing behind it/);
    expect(thrownBy(() => parsePolicy(""))).toMatch(/more of it/);
    expect(thrownBy(() => parsePolicy(`${"rerotated(".repeat(9)}knorm`))).toMatch(/at most 8/);
    expect(thrownBy(() => parsePolicy("snapkv(window=3, window=4)"))).toMatch(/each option once/);
  });
});
