import { describe, expect, test } from "vitest";
import { randomWeight } from "../../../../test/support/quantized-weights.ts";
import { KernelUnderTest, listingOf, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitLinear, type LinearSpec, linearScratchBytes } from "./linear.ts";
import { type WeightType, weightBytes } from "./weights.ts";

/** Errors of a sum, relative to the sum of the magnitudes of its terms. */
const BUDGET = 1e-6;

type Shape = { inputs: number; outputs: number; tokens: number; from?: number; to?: number; bias?: boolean };

function check(weightType: WeightType, relaxed: boolean, shape: Shape): void {
  const { inputs, outputs, tokens, from = 0, to = outputs, bias = false } = shape;
  const xStride = 4 * (inputs + 3);
  const outStride = 4 * (outputs + 5);
  const spec: LinearSpec = { inputs, xStride, outStride, weightType, bias, relaxed };
  const kernel = new KernelUnderTest((module) => emitLinear(module, spec), {
    pages: Math.ceil((4 * tokens * (inputs + outputs + 8) + 4 * (inputs + 8) * (outputs + 4)) / 65536) + 1,
  });
  const x = randomNumbers((tokens * xStride) / 4, 1);
  const weight = randomWeight(weightType, outputs, inputs, 2);
  const biases = randomNumbers(outputs, 4);
  const out = kernel.put(new Float32Array((tokens * outStride) / 4).fill(7));
  kernel.call(
    "linear",
    out,
    kernel.put(x),
    kernel.putLast(weight.bytes),
    kernel.put(weight.scales),
    kernel.put(biases),
    tokens,
    from,
    to,
    kernel.reserve(linearScratchBytes(spec)),
  );
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
    for (let k = 0; k < inputs; k++) {
      const term = x[(t * xStride) / 4 + k] * weight.numbers[n * inputs + k];
      want += term;
      magnitude += Math.abs(term);
    }
    if (!(Math.abs(value - want) <= BUDGET * magnitude)) {
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
