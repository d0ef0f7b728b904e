import { describe, expect, it } from "vitest";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { temperatureAt, temperatureScales } from "./query-temperature.ts";

const llama4 = { beta: 0.1, length: 8192, offset: 1 } as const;

describe("query temperature", () => {
  // mpmath: 1 + 0.1·ln(1 + floor((p + 1)/8192)), and with p instead of p + 1
  it.each([
    [0, 1, 1],
    [8190, 1, 1],
    [8191, 1.0693147180559945, 1],
    [8192, 1.0693147180559945, 1.0693147180559945],
    [16383, 1.109861228866811, 1.0693147180559945],
    [100000, 1.2564949357461537, 1.2564949357461537],
  ])("position %d: Llama 4 counts from 1, Ministral from 0", (position, ofLlama, ofMinistral) => {
    expect(Math.abs(temperatureAt(llama4, position) - ofLlama)).toBeLessThan(F64_COMPUTED);
    expect(Math.abs(temperatureAt({ ...llama4, offset: 0 }, position) - ofMinistral)).toBeLessThan(F64_COMPUTED);
  });

  it("gives one scale per query", () => {
    expect(temperatureScales(llama4, [0, 8191])).toEqual(Float32Array.of(1, 1.0693147180559945));
  });

  it("refuses negative positions", () => {
    expect(() => temperatureScales(llama4, [3, -1])).toThrow(
      "temperatureScales: positions must be at least 0; got index=1, position=-1.",
    );
  });
});
