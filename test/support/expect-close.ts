import { expect } from "vitest";

/** Fails unless every value lies within `tolerance`·(1 + |want|) of its wanted one; infinities must be equal. */
export function expectClose(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  expect(got.length).toBe(want.length);
  for (let i = 0; i < got.length; i++) {
    if (got[i] === want[i] || Math.abs(got[i] - want[i]) <= tolerance * (1 + Math.abs(want[i]))) continue;
    expect.fail(`value ${i}: got ${got[i]}, wanted ${want[i]} within ${tolerance} relative to 1 + |wanted|`);
  }
}
