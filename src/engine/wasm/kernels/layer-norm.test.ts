import { describe, test } from "vitest";
import { expectClose } from "../../../../test/support/expect-close.ts";
import { KernelUnderTest, MODES, randomNumbers } from "../../../../test/support/wasm-kernel.ts";
import { emitLayerNorm, emitLayerNormBackward } from "./layer-norm.ts";
import { NORM_CHUNK } from "./norm-backward.ts";

/** Errors relative to 1 + |wanted|, for outputs of magnitude about 1. */
const BUDGET = 2e-6;
const WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 31, 67, 288, 1031];

/** Rows about 0, about 3, and about 1000 with a spread of 1; f32 keeps steps of 6e-5 of the last. */
const OFFSETS = [0, 3, 1000];

type Norm = { readonly weight: ArrayLike<number>; readonly bias: ArrayLike<number>; readonly eps: number };

/** One row, in f64. */
function layerNorm(x: ArrayLike<number>, { weight, bias, eps }: Norm): number[] {
  const row = Array.from(x);
  const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
  const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length;
  return row.map((value, i) => ((value - mean) / Math.sqrt(variance + eps)) * weight[i] + bias[i]);
}

/** Derivatives of Σ g·layerNorm(x) in every x, by central differences of fourth order. */
function differences(x: ArrayLike<number>, g: ArrayLike<number>, norm: Norm): number[] {
  const step = 1e-3;
  const loss = (i: number, by: number): number => {
    const moved = Array.from(x, (value, at) => (at === i ? value + by : value));
    return layerNorm(moved, norm).reduce((sum, value, at) => sum + g[at] * value, 0);
  };
  return Array.from(x, (_, i) => {
    const near = loss(i, step) - loss(i, -step);
    const far = loss(i, 2 * step) - loss(i, -2 * step);
    return (8 * near - far) / (12 * step);
  });
}

const rowOf = (values: Float32Array, row: number, width: number): Float32Array =>
  values.subarray(row * width, (row + 1) * width);

describe.each(MODES)("layer norm, %o", ({ relaxed }) => {
  const eps = Math.fround(1e-5);

  test.each(WIDTHS)("of width %i, with a bias and without, in place and not, follows its formula", (width) => {
    const rows = 5;
    for (const offset of OFFSETS) {
      const x = randomNumbers(rows * width, 1).map((value) => offset + value);
      const [weight, bias] = [randomNumbers(width, 2), randomNumbers(width, 3)];
      const kernel = new KernelUnderTest(
        (module) => {
          emitLayerNorm(module, { width, relaxed, bias: true });
          emitLayerNorm(module, { width, relaxed, bias: false, name: "plain" });
        },
        { pages: 4 },
      );
      const [xAt, weightAt, biasAt] = [x, weight, bias].map((data) => kernel.put(data));
      for (const [name, added] of [
        ["layerNorm", bias],
        ["plain", new Float32Array(width)],
      ] as const) {
        const out = kernel.put(new Float32Array(rows * width).fill(7));
        const inPlace = kernel.put(x);
        kernel.call(name, out, xAt, weightAt, biasAt, 1, 4, eps);
        kernel.call(name, inPlace, inPlace, weightAt, biasAt, 0, rows, eps);
        const want = Array.from({ length: rows }, (_, row) =>
          layerNorm(rowOf(x, row, width), { weight, bias: added, eps }),
        );
        const seven = new Array<number>(width).fill(7);
        expectClose(kernel.f32(out, rows * width), [...seven, ...want.slice(1, 4).flat(), ...seven], BUDGET);
        expectClose(kernel.f32(inPlace, rows * width), want.flat(), BUDGET);
      }
    }
  });

  test.each([1, 3, 5, 67])("of constant rows of %i, however large, is the bias", (width) => {
    const constants = [0, 0.1, -1000.1, 1e6 / 3, 1e-20];
    const x = Float32Array.from({ length: constants.length * width }, (_, at) => constants[Math.floor(at / width)]);
    const [weight, bias] = [randomNumbers(width, 2), randomNumbers(width, 3)];
    const kernel = new KernelUnderTest((module) => emitLayerNorm(module, { width, relaxed, bias: true }));
    const at = kernel.put(x);
    kernel.call("layerNorm", at, at, kernel.put(weight), kernel.put(bias), 0, constants.length, eps);
    expectClose(
      kernel.f32(at, x.length),
      constants.flatMap(() => [...bias]),
      BUDGET,
    );
  });

  test.each(WIDTHS.filter((width) => width < 32))(
    "gradients of width %i, some chunks of several, equal central differences",
    (width) => {
      const rows = 3 * NORM_CHUNK - 5;
      const chunks = 3;
      const start = NORM_CHUNK * width;
      for (const offset of OFFSETS) {
        // The last row is constant; the variance must not be small beside the differences' steps.
        const x = randomNumbers(rows * width, 1).map((value, at) => {
          return offset + (at >= (rows - 1) * width ? 0.1 : value);
        });
        const [g, before, weight] = [
          randomNumbers(rows * width, 2),
          randomNumbers(rows * width, 4),
          randomNumbers(width, 3),
        ];
        const norm = { weight, bias: new Float32Array(width), eps: 0.25 };
        const dx = Array.from({ length: rows }, (_, row) =>
          differences(rowOf(x, row, width), rowOf(g, row, width), norm),
        ).flat();
        const sums = new Array<number>(chunks * width).fill(0);
        for (let row = NORM_CHUNK; row < rows; row++) {
          const plain = layerNorm(rowOf(x, row, width), { ...norm, weight: new Array(width).fill(1) });
          for (let c = 0; c < width; c++)
            sums[Math.floor(row / NORM_CHUNK) * width + c] += plain[c] * g[row * width + c];
        }
        for (const add of [false, true]) {
          const kernel = new KernelUnderTest((module) => emitLayerNormBackward(module, { relaxed, width, add }), {
            pages: 2,
          });
          const dxAt = kernel.put(before);
          const sumsAt = kernel.put(new Float32Array(chunks * width));
          const inputs = [kernel.put(g), kernel.put(x), kernel.put(weight)];
          for (const [from, to] of [
            [1, 3],
            [2, 2],
          ]) {
            kernel.call("layerNormBackward", dxAt, sumsAt, ...inputs, rows, from, to, norm.eps);
          }
          const want = dx.map((value, at) => (at < start ? before[at] : value + (add ? before[at] : 0)));
          expectClose(kernel.f32(dxAt, rows * width), want, 2 * BUDGET);
          expectClose(kernel.f32(sumsAt, chunks * width), sums, 8 * BUDGET); // of 32 terms
        }
      }
    },
  );

  test("gradients of a constant row in place, with a small epsilon, are those of a plain scaling", () => {
    const [width, tiny] = [5, 1e-6];
    const kernel = new KernelUnderTest((module) => emitLayerNormBackward(module, { relaxed, width, add: false }));
    const [g, weight] = [randomNumbers(width, 1), randomNumbers(width, 2)];
    const at = kernel.put(g);
    const sums = kernel.put(new Float32Array(width));
    const x = kernel.put(new Float32Array(width).fill(1000.1));
    kernel.call("layerNormBackward", at, sums, at, x, kernel.put(weight), 1, 0, 1, tiny);
    const scaled = Array.from(g, (value, c) => value * weight[c]);
    const mean = scaled.reduce((a, b) => a + b) / width;
    // 1/sqrt(eps) is 1000.
    const want = scaled.map((value) => 1000 * (value - mean));
    expectClose(kernel.f32(at, width), want, BUDGET);
    expectClose(kernel.f32(sums, width), new Array(width).fill(0), BUDGET);
  });
});
