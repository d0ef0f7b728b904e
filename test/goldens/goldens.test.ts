import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { compare, runCase } from "./case.ts";
import { type GoldenCase, readGoldenCases } from "./format.ts";
import { suites } from "./suites/index.ts";

const DATA = fileURLToPath(new URL("./data", import.meta.url));

function casesOf(suite: string): [string, GoldenCase][] {
  const cases = readGoldenCases(readFileSync(`${DATA}/${suite}/cases.json`, "utf8"));
  return cases.map((golden) => [golden.name, golden]);
}

describe.each(["flax", "models", "rope"])("goldens of %s", (suite) => {
  it.each(casesOf(suite))("%s", async (_, golden) => {
    expect(await runCase(suites[suite], golden, `${DATA}/${suite}`, "reference")).toBeNull();
  });
});

describe.each(["flax", "models"])("goldens of %s on WASM", (suite) => {
  it.each(casesOf(suite))("%s", async (_, golden) => {
    expect(await runCase(suites[suite], golden, `${DATA}/${suite}`, "wasm")).toBeNull();
  });
});

describe("the runner", () => {
  const [[, golden]] = casesOf("rope");

  it("tells which output is wrong, and by how much", async () => {
    const wrong = async () => ({ attention_factor: [1.25] });
    expect(await runCase(wrong, golden, `${DATA}/rope`, "reference")).toBe(
      "attention_factor: largest error 0.25 at 0 (got 1.25, expected 1)",
    );
  });

  it("fails a case whose runner compares nothing, or an output that is not in the file", async () => {
    expect(await runCase(async () => ({}), golden, `${DATA}/rope`, "reference")).toBe("the runner compared nothing");
    const unknown = await runCase(async () => ({ other: [1] }), golden, `${DATA}/rope`, "reference");
    expect(unknown).toBe(`Error: ${golden.file} has no tensor other`);
  });

  it("refuses a cases.json that is not in the format", () => {
    expect(() => readGoldenCases("{}")).toThrow("cases.json must be a list");
    expect(() => readGoldenCases('[{"name": "a"}]')).toThrow("not a golden case");
  });
});

describe("comparison", () => {
  const want = (dtype: string, ...data: number[]) => ({ dtype, shape: [data.length], data });
  const tolerance = { rtol: 0.1, atol: 0.01 };

  it.each<[string, number[], ReturnType<typeof want>, string | null]>([
    ["within tolerance", [1.1, 0.01], want("f32", 1, 0), null],
    ["beyond tolerance", [1.2], want("f32", 1), "largest error 0.19999999999999996 at 0 (got 1.2, expected 1)"],
    ["not a number", [Number.NaN], want("f32", 1), "largest error NaN at 0 (got NaN, expected 1)"],
    ["equal infinities", [-Infinity], want("f32", -Infinity), null],
    [
      "a finite number for infinity",
      [-1e30],
      want("f32", -Infinity),
      "largest error Infinity at 0 (got -1e+30, expected -Infinity)",
    ],
    ["integers off by a little", [2.5], want("i32", 2), "largest error 0.5 at 0 (got 2.5, expected 2)"],
    ["too few values", [1], want("f32", 1, 2), "1 values, expected 2"],
  ])("of %s", (_, got, wanted, expected) => {
    expect(compare(got, wanted, tolerance)).toBe(expected);
  });
});
