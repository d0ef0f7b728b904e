import { describe, expect, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { randomWeight } from "../../../../test/support/quantized-weights.ts";
import { F32_STORED } from "../../../../test/support/tolerances.ts";
import { KernelUnderTest, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitAdd, emitCopy, emitGate, emitScaleRows, type GateFunction } from "./elementwise.ts";
import { emitEmbed } from "./embed.ts";

/** erf(x) = 2/√π · exp(−x²) · Σ 2^n·x^(2n+1) / (1·3·…·(2n+1)), whose terms have one sign. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let sum = 0;
  let term = x;
  for (let n = 0; n < 300; n++) {
    sum += term;
    term *= (2 * x * x) / (2 * n + 3);
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const ACTIVATIONS: Record<GateFunction, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

const LENGTHS = [0, 1, 3, 4, 5, 8, 19, 64, 131];

describe("elementwise", () => {
  test.each(LENGTHS)("add of %i elements, from the third on, in place and not", (length) => {
    const [a, b] = [randomNumbers(length + 3, 1), randomNumbers(length + 3, 2)];
    const kernel = new KernelUnderTest((module) => emitAdd(module));
    const out = kernel.put(new Float32Array(length + 3).fill(7));
    const [aAt, bAt] = [kernel.put(a), kernel.put(b)];
    kernel.call("add", out, aAt, bAt, 2, length + 2);
    const sums = Array.from({ length }, (_, i) => Math.fround(a[i + 2] + b[i + 2]));
    expect([...kernel.f32(out, length + 3)]).toEqual([7, 7, ...sums, 7]);
    kernel.call("add", aAt, aAt, bAt, 2, length + 2);
    expect([...kernel.f32(aAt, length + 3)]).toEqual([a[0], a[1], ...sums, a[length + 2]]);
  });

  const cases = MODES.flatMap(({ relaxed }) =>
    (["silu", "gelu", "geluTanh"] as const).map((activation) => ({ relaxed, activation })),
  );
  test.each(cases)("gate follows the formula of $activation, relaxed $relaxed", ({ relaxed, activation }) => {
    const length = 203;
    const gate = Float32Array.from({ length }, (_, i) => ((i - 101) / 101) * 8);
    gate.set([-100, 100, -1e30, 1e30, 0, -1e-20], 0);
    const up = randomNumbers(length, 3);
    const kernel = new KernelUnderTest((module) => emitGate(module, { relaxed, activation }));
    const out = kernel.put(new Float32Array(length));
    kernel.call("gate", out, kernel.put(gate), kernel.put(up), 0, length);
    const want = Array.from(gate, (x, i) => ACTIVATIONS[activation](x) * up[i]);
    expectClose(kernel.f32(out, length), want, 1e-6);
  });

  test.each([1, 3, 4, 7, 64])("scaleRows of width %i", (width) => {
    const x = randomNumbers(5 * width, 1);
    const scales = randomNumbers(5, 2);
    const kernel = new KernelUnderTest((module) => emitScaleRows(module, { width }));
    const at = kernel.put(x);
    kernel.call("scaleRows", at, kernel.put(scales), 1, 4);
    const want = Array.from(x, (v, i) => {
      const row = Math.floor(i / width);
      return row >= 1 && row < 4 ? Math.fround(v * scales[row]) : v;
    });
    expect([...kernel.f32(at, x.length)]).toEqual(want);
  });

  test("copy takes any number of bytes", () => {
    const kernel = new KernelUnderTest((module) => emitCopy(module));
    const source = Uint8Array.from({ length: 37 }, (_, i) => i);
    const out = kernel.put(new Uint8Array(37));
    kernel.call("copy", out, kernel.put(source), 33);
    expect([...kernel.u8(out, 37)]).toEqual([...source.subarray(0, 33), 0, 0, 0, 0]);
  });
});

describe("embed", () => {
  test.each(["f32", "f16", "bf16", "int8", "q8_0", "q4_0"] as const)("takes rows of a %s table", (weightType) => {
    const blocked = weightType === "q8_0" || weightType === "q4_0";
    for (const width of blocked ? [32, 96] : [1, 5, 16, 37, 64]) {
      const table = randomWeight(weightType, 7, width, 5);
      const ids = Int32Array.of(3, 0, 6, 6, 1);
      const outStride = 4 * (width + 1);
      const kernel = new KernelUnderTest((module) => emitEmbed(module, { width, outStride, weightType }));
      const out = kernel.put(new Float32Array(5 * (width + 1)).fill(7));
      const scales = kernel.put(table.scales);
      kernel.call("embed", out, kernel.putLast(table.bytes), scales, kernel.put(ids), 1, 4);
      const seven = new Array<number>(width).fill(7);
      const rows = [...ids].map((id, t) =>
        t >= 1 && t < 4 ? table.numbers.subarray(id * width, (id + 1) * width) : seven,
      );
      expectClose(
        kernel.f32(out, 5 * (width + 1)),
        rows.flatMap((row) => [...row, 7]),
        F32_STORED,
      );
    }
  });
});
