import { describe, expect, test } from "vitest";
import { randomWeight } from "../../../../test/support/quantized-weights.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitLinear, type LinearSpec, linearScratchBytes } from "./linear.ts";
import { type WeightType, weightBytes } from "./weights.ts";

/** Errors of a sum, relative to the sum of the magnitudes of its terms. */
const BUDGET = 1e-6;

/** What rounding an input to 16 bits may change at most: half a step of its block of 32. */
function halfStep(x: Float32Array, first: number, k: number): number {
  const block = first + k - (k % 32);
  return x.subarray(block, block + 32).reduce((most, one) => Math.max(most, Math.abs(one)), 0) / 32767 / 2;
}

/** f32 rows as `interleaved-rows.ts` defines them. */
function interleave(rows: Float32Array, width: number): Float32Array {
  return rows.map((_, at) => {
    const group = Math.floor(at / (4 * width));
    const piece = Math.floor((at % (4 * width)) / 16);
    const row = Math.floor((at % 16) / 4);
    return rows[(4 * group + row) * width + 4 * piece + (at % 4)];
  });
}

type Shape = {
  inputs: number;
  outputs: number;
  tokens: number;
  from?: number;
  to?: number;
  bias?: boolean;
  interleaved?: boolean;
};

function check(weightType: WeightType, relaxed: boolean, shape: Shape): void {
  const { inputs, outputs, tokens, from = 0, to = outputs, bias = false, interleaved = false } = shape;
  const xStride = 4 * (inputs + 3);
  const outStride = 4 * (outputs + 5);
  const spec: LinearSpec = { inputs, xStride, outStride, weightType, bias, relaxed, interleaved };
  const kernel = new KernelUnderTest((module) => emitLinear(module, spec), {
    pages: Math.ceil((4 * tokens * (inputs + outputs + 8) + 4 * (inputs + 8) * (outputs + 4)) / 65536) + 1,
  });
  const x = randomNumbers((tokens * xStride) / 4, 1);
  const weight = randomWeight(weightType, outputs, inputs, 2);
  const bytes = interleaved
    ? new Uint8Array(interleave(new Float32Array(weight.bytes.buffer), inputs).buffer)
    : weight.bytes;
  const biases = randomNumbers(outputs, 4);
  const out = kernel.put(new Float32Array((tokens * outStride) / 4).fill(7));
  kernel.call(
    "linear",
    out,
    kernel.put(x),
    kernel.putLast(bytes),
    kernel.put(weight.scales),
    kernel.put(biases),
    tokens,
    from,
    to,
    kernel.reserve(linearScratchBytes(spec)),
  );
  const rounds = tokens === 1 && ["int8", "q8_0", "q4_0"].includes(weightType) && inputs % 32 === 0;
  const got = kernel.f32(out, (tokens * outStride) / 4);
  got.forEach((value, at) => {
    const t = Math.floor(at / (outStride / 4));
    const n = at % (outStride / 4);
    if (n < from || n >= to) {
      if (value !== 7) expect.fail(`token ${t} column ${n} was written`);
      return;
    }
    let want = bias ? biases[n] : 0;
    let magnitude = Math.abs(want);
    let rounding = 0;
    for (let k = 0; k < inputs; k++) {
      const term = x[(t * xStride) / 4 + k] * weight.numbers[n * inputs + k];
      want += term;
      magnitude += Math.abs(term);
      if (rounds) rounding += halfStep(x, (t * xStride) / 4, k) * Math.abs(weight.numbers[n * inputs + k]);
    }
    if (!(Math.abs(value - want) <= BUDGET * magnitude + rounding)) {
      expect.fail(`token ${t} column ${n} of ${JSON.stringify({ weightType, ...shape })}: ${value}, wanted ${want}`);
    }
  });
}

describe.each(MODES)("linear, %o", ({ relaxed }) => {
  test.each(["f32", "f16", "bf16", "int8"] as const)("any K, N and T with %s weights", (weightType) => {
    for (const inputs of [1, 2, 3, 4, 5, 15, 16, 17, 37, 64, 95]) {
      for (const tokens of [1, 2, 3, 5]) check(weightType, relaxed, { inputs, outputs: 11, tokens, bias: true });
    }
    for (const outputs of [1, 2, 3, 4, 5, 8]) {
      for (const tokens of [1, 4, 7]) check(weightType, relaxed, { inputs: 29, outputs, tokens });
    }
  });

  test.each(["q8_0", "q4_0"] as const)("any N and T with %s weights", (weightType) => {
    for (const inputs of [32, 64, 96, 352]) {
      for (const tokens of [1, 2, 3, 5]) check(weightType, relaxed, { inputs, outputs: 11, tokens, bias: true });
    }
  });

  test.each(["f32", "f16", "bf16", "int8", "q8_0", "q4_0"] as const)(
    "K in several parts, whole and not, and many tokens, with %s weights",
    (weightType) => {
      const blocked = weightType === "q8_0" || weightType === "q4_0";
      for (const inputs of blocked ? [1024, 1056, 2080] : [1023, 1024, 1025, 1026, 1041, 2067]) {
        check(weightType, relaxed, { inputs, outputs: 6, tokens: 3, bias: true });
        check(weightType, relaxed, { inputs, outputs: 6, tokens: 3, bias: false });
        check(weightType, relaxed, { inputs, outputs: 5, tokens: 1, bias: true });
      }
      check(weightType, relaxed, { inputs: 1056, outputs: 5, tokens: 131 }); // more than one group of tokens
    },
  );

  test("interleaved rows of f32, in one part and several", () => {
    for (const inputs of [8, 16, 24, 40, 64, 1024, 1032, 2072]) {
      for (const tokens of [1, 2, 3, 5]) {
        check("f32", relaxed, { inputs, outputs: 12, tokens, bias: true, interleaved: true });
        check("f32", relaxed, { inputs, outputs: 20, tokens, from: 4, to: 16, interleaved: true });
      }
    }
  });

  test("f16 rows of whole turns, with inputs small and large", () => {
    for (const inputs of [16, 48, 1040]) check("f16", relaxed, { inputs, outputs: 7, tokens: 1, bias: true });
    const spec: LinearSpec = { inputs: 16, outStride: 4, weightType: "f16", bias: false, relaxed };
    for (const [x, bits, want] of [
      [2 ** 79, 0x3c00, 2 ** 83], // 16 · x · 1
      [2 ** 20, 0x0001, 1], // the smallest f16, 2^−24
      [-3, 0x7bff, -48 * 65504],
      [2 ** -30, 0x8400, -(2 ** -40)],
    ]) {
      const kernel = new KernelUnderTest((module) => emitLinear(module, spec));
      const [out, input] = [kernel.reserve(4), kernel.put(new Float32Array(16).fill(x))];
      const weight = kernel.put(new Uint8Array(Uint16Array.from({ length: 16 }, () => bits).buffer));
      kernel.call("linear", out, input, weight, 0, 0, 1, 0, 1, kernel.reserve(linearScratchBytes(spec)));
      expect(kernel.f32(out, 1)[0]).toBe(want);
    }
  });

  test("int8 rows of whole blocks", () => {
    for (const inputs of [32, 96, 1056]) check("int8", relaxed, { inputs, outputs: 7, tokens: 1, bias: true });
  });

  test.each(["int8", "q8_0", "q4_0"] as const)(
    "one token and %s weights in 16384 columns, and in ranges of rows",
    (type) => {
      check(type, relaxed, { inputs: 16384, outputs: 5, tokens: 1, bias: true });
      for (const [from, to] of [
        [3, 13],
        [5, 5],
        [12, 13],
      ]) {
        check(type, relaxed, { inputs: 96, outputs: 13, tokens: 1, from, to, bias: true });
      }
    },
  );

  test("the largest codes and inputs stay within their integers", () => {
    const inputs = 64;
    // Every code the lowest there is, and every scale 1: two blocks of 32, in q8_0 and q4_0 each behind its scale.
    const one = [0x00, 0x3c];
    const weights = {
      int8: { code: -128, bytes: new Array(64).fill(0x80) },
      q8_0: { code: -128, bytes: [...one, ...new Array(32).fill(0x80), ...one, ...new Array(32).fill(0x80)] },
      q4_0: { code: -8, bytes: [...one, ...new Array(16).fill(0), ...one, ...new Array(16).fill(0)] },
    };
    for (const weightType of ["int8", "q8_0", "q4_0"] as const) {
      const spec: LinearSpec = { inputs, outStride: 4, weightType, bias: false, relaxed };
      const { code, bytes } = weights[weightType];
      for (const x of [3, -3]) {
        const kernel = new KernelUnderTest((module) => emitLinear(module, spec));
        const out = kernel.reserve(4);
        const [input, at] = [kernel.put(new Float32Array(inputs).fill(x)), kernel.put(Uint8Array.from(bytes))];
        const scale = kernel.put(Float32Array.of(1));
        kernel.call("linear", out, input, at, scale, 0, 1, 0, 1, kernel.reserve(linearScratchBytes(spec)));
        expect(kernel.f32(out, 1)[0] / (inputs * x * code)).toBeCloseTo(1, 6);
      }
    }
  });

  test("inputs of 0, far apart, and not finite, with weights that are codes", () => {
    for (const weightType of ["int8", "q8_0", "q4_0"] as const) {
      const inputs = 96;
      const spec: LinearSpec = { inputs, outStride: 12, weightType, bias: false, relaxed };
      const { bytes, scales, numbers } = randomWeight(weightType, 3, inputs, 2);
      const run = (x: Float32Array): Float32Array => {
        const kernel = new KernelUnderTest((module) => emitLinear(module, spec));
        const out = kernel.reserve(12);
        const [input, weight, scale] = [kernel.put(x), kernel.put(bytes), kernel.put(scales)];
        const scratch = kernel.reserve(linearScratchBytes(spec));
        kernel.call("linear", out, input, weight, scale, 0, 1, 0, 3, scratch);
        return kernel.f32(out, 3);
      };
      expect([...run(new Float32Array(inputs))]).toEqual([0, 0, 0]);
      // The inverse of a step so small is no f32.
      for (const tiny of [1e-30, 1e-36, 1e-45]) {
        const x = Float32Array.from({ length: inputs }, (_, k) => (k % 32 === 0 ? tiny : tiny / 8));
        expect([...run(x)]).toEqual([0, 0, 0]);
      }
      // Blocks have scales of their own: a huge one does not drown the others.
      const apart = Float32Array.from({ length: inputs }, (_, k) => (k < 32 ? 0 : k < 64 ? 1e-20 : 1e20) * (1 + k));
      const [small, large] = [apart.slice().fill(0, 64), apart.slice().fill(0, 0, 64)];
      for (const x of [small, large, apart]) {
        run(x).forEach((value, n) => {
          let want = 0;
          let budget = 0;
          for (let k = 0; k < inputs; k++) {
            want += x[k] * numbers[n * inputs + k];
            budget += (BUDGET * Math.abs(x[k]) + halfStep(x, 0, k)) * Math.abs(numbers[n * inputs + k]);
          }
          expect(Math.abs(value - want)).toBeLessThanOrEqual(budget);
        });
      }
      for (const bad of [Number.NaN, Infinity]) {
        expect([...run(new Float32Array(inputs).fill(1).fill(bad, 37, 38))].map(Number.isFinite)).toEqual([
          ...[false, false, false],
        ]);
      }
    }
  });

  test("a range of rows writes only its columns", () => {
    for (const tokens of [1, 3]) {
      for (const [from, to] of [
        [0, 3],
        [3, 13],
        [5, 5],
        [12, 13],
      ]) {
        check("int8", relaxed, { inputs: 23, outputs: 13, tokens, from, to, bias: true });
      }
    }
  });
});

test("no tokens write nothing", () => {
  check("f32", false, { inputs: 5, outputs: 4, tokens: 0 });
});

describe("the listing", () => {
  const spec: LinearSpec = { inputs: 32, outStride: 16, weightType: "f32", bias: false, relaxed: true };
  const loops = listingOf((module) => emitLinear(module, spec)).split(/\n\s+loop\n/);

  test("of one token: 16 weights in one turn", () => {
    const loop = loops.find((text) => text.includes("rowSum0 = f32x4.relaxed_madd"));
    expect(loop?.split(/\n\s+branch/)[0]).toMatchInlineSnapshot(`
      "            rowSum0 = f32x4.relaxed_madd(v128.load(weightHere), v128.load(inputHere), rowSum0)
                  rowSum1 = f32x4.relaxed_madd(v128.load(weightHere + 16), v128.load(inputHere + 16), rowSum1)
                  rowSum2 = f32x4.relaxed_madd(v128.load(weightHere + 32), v128.load(inputHere + 32), rowSum2)
                  rowSum3 = f32x4.relaxed_madd(v128.load(weightHere + 48), v128.load(inputHere + 48), rowSum3)
                  weightHere = i32.add(weightHere, 64)
                  inputHere = i32.add(inputHere, 64)"
    `);
  });

  test("of more tokens: two tokens by four weight rows in one turn", () => {
    const loop = loops.find((text) => text.includes("input1 = v128.load"));
    expect(loop?.split(/\n\s+branch/)[0]).toMatchInlineSnapshot(`
      "                        input0 = v128.load(inputAt)
                              input1 = v128.load(inputAt + 128)
                              four = v128.load(weightAt)
                              sum0 = f32x4.relaxed_madd(four, input0, sum0)
                              sum4 = f32x4.relaxed_madd(four, input1, sum4)
                              four = v128.load(weightAt + 128)
                              sum1 = f32x4.relaxed_madd(four, input0, sum1)
                              sum5 = f32x4.relaxed_madd(four, input1, sum5)
                              four = v128.load(weightAt + 256)
                              sum2 = f32x4.relaxed_madd(four, input0, sum2)
                              sum6 = f32x4.relaxed_madd(four, input1, sum6)
                              four = v128.load(weightAt + 384)
                              sum3 = f32x4.relaxed_madd(four, input0, sum3)
                              sum7 = f32x4.relaxed_madd(four, input1, sum7)
                              weightAt = i32.add(weightAt, 16)
                              inputAt = i32.add(inputAt, 16)"
    `);
  });
});

test("rows of blocks must be whole", () => {
  expect(() => weightBytes("q4_0", 33)).toThrow("weightBytes: q4_0 comes in blocks of 32; got 33");
});
