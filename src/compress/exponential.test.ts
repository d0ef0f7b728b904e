import { expect, it } from "vitest";
import { exponential } from "./exponential.ts";

it("is within 1e-9 of e^x, relatively, from 0 to -700", () => {
  for (let x = 0; x > -700; x -= 0.0371) expect(Math.abs(exponential(x) / Math.exp(x) - 1)).toBeLessThan(1e-9);
});

it("is 1 at 0, and 0 where e^x is nothing beside 1", () => {
  expect([0, -701, -1e6, -Infinity].map(exponential)).toEqual([1, 0, 0, 0]);
});
