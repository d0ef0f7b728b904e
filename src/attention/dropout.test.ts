import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { F64_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { causal } from "../mask/index.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import { dropoutBits } from "./dropout.ts";
import { referenceAttention } from "./reference.ts";

/** The formula of the file's head in 64-bit integers. */
function bitsByBigInt(seed: number, batch: number, head: number, query: number, key: number): number {
  const mask = 0xffffffffn;
  const mix = (value: bigint): bigint => {
    let x = value & mask;
    x ^= x >> 16n;
    x = (x * 0x85ebca6bn) & mask;
    x ^= x >> 13n;
    x = (x * 0xc2b2ae35n) & mask;
    return x ^ (x >> 16n);
  };
  const row = mix(mix(mix(mix(BigInt(seed) + 0x9e3779b9n) + BigInt(batch)) + BigInt(head)) + BigInt(query));
  return Number(mix(row + BigInt(key) * 0x9e3779b9n));
}

function f64(shape: readonly number[], salt: number): Tensor<"f64"> {
  return tensor("f64", shape, Float64Array.from(values(shape, salt).data));
}

describe("dropoutBits", () => {
  it("equals the documented formula in exact arithmetic", () => {
    const cases: [number, number, number, number, number][] = [
      [0, 0, 0, 0, 0],
      [1, 0, 0, 0, 0],
      [7, 1, 3, 131071, 131071],
      [2 ** 32 - 1, 5, 127, 2 ** 31 - 1, 2 ** 31 - 1],
      [123456789, 2, 11, 40961, 77777],
    ];
    for (const indices of cases) {
      expect(dropoutBits(...indices)).toBe(bitsByBigInt(...indices));
    }
  });

  it("stays the same from version to version", () => {
    expect([dropoutBits(0, 0, 0, 0, 0), dropoutBits(42, 1, 2, 3, 5)]).toEqual([1608878740, 1177389517]);
  });

  it("drops the asked share in every row, column and head", () => {
    const threshold = Math.floor(0.3 * 2 ** 32);
    const [heads, queries, keys] = [3, 97, 101];
    const byKey = new Float64Array(keys);
    for (let h = 0; h < heads; h++) {
      let inHead = 0;
      for (let i = 0; i < queries; i++) {
        for (let j = 0; j < keys; j++) {
          if (dropoutBits(5, 0, h, i, j) >= threshold) continue;
          inHead += 1;
          byKey[j] += 1;
        }
      }
      expect(Math.abs(inHead / (queries * keys) - 0.3)).toBeLessThan(0.02);
    }
    for (const count of byKey) expect(Math.abs(count / (heads * queries) - 0.3)).toBeLessThan(0.12);
  });
});

describe("attention with dropout", () => {
  const [B, Tq, Tk, H, Hk, D] = [2, 3, 11, 4, 2, 5];
  const request = { q: f64([B, Tq, H, D], 1), k: f64([B, Tk, Hk, D], 2), mask: causal() };
  /** With the identity as values the output is the row of probabilities. */
  const identity = zeros("f64", [B, Tk, Hk, Tk]);
  for (let at = 0; at < B * Tk * Hk; at++) identity.data[at * Tk + (Math.floor(at / Hk) % Tk)] = 1;
  const v = identity;

  it("multiplies each probability by 0 or 1 / (1 − rate) as the bits say, and leaves lse and max logits alone", () => {
    const whole = referenceAttention({ ...request, v });
    const dropped = referenceAttention({ ...request, v, dropout: { rate: 0.25, seed: 9 } });
    const want = whole.out.data.map((probability, at) => {
      const [key, row] = [at % Tk, Math.floor(at / Tk)];
      const [head, query, batch] = [row % H, Math.floor(row / H) % Tq, Math.floor(row / (H * Tq))];
      return bitsByBigInt(9, batch, head, query, key) >= 2 ** 30 ? probability / 0.75 : 0;
    });
    expectClose(dropped.out.data, want, F64_COMPUTED);
    expect(dropped.lse.data).toEqual(whole.lse.data);
    expect(dropped.maxLogits.data).toEqual(whole.maxLogits.data);
    expect(want.some((value, at) => value === 0 && whole.out.data[at] > 0)).toBe(true);
  });

  it("is off when the rate is 0 or the call is deterministic", () => {
    const whole = referenceAttention({ ...request, v });
    const none = referenceAttention({ ...request, v, dropout: { rate: 0, seed: 1 } });
    const off = referenceAttention({ ...request, v, dropout: { rate: 0.5, seed: 1 }, deterministic: true });
    expect(none.out.data).toEqual(whole.out.data);
    expect(off.out.data).toEqual(whole.out.data);
  });

  it("refuses a rate or a seed out of range", () => {
    const attend = (rate: number, seed: number) =>
      thrownBy(() => referenceAttention({ ...request, v, dropout: { rate, seed } }));
    expect(attend(1, 0)).toBe("ConfigError: attention: dropout.rate must be from 0 to below 1; got rate=1.");
    expect(attend(NaN, 0)).toBe("ConfigError: attention: dropout.rate must be from 0 to below 1; got rate=NaN.");
    expect(attend(0.1, -1)).toBe(
      "ConfigError: attention: dropout.seed must be an integer from 0 to 2^32 - 1; got seed=-1.",
    );
  });
});
