import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { f32, sizeOf, type Tensor, tensor } from "../tensor.ts";
import {
  Activation,
  Dropout,
  Embedding,
  flattenParameters,
  initializers,
  LayerNorm,
  type LayerNormOptions,
  Linear,
  LinearGeneral,
  type Module,
  RMSNorm,
  Rngs,
  RoPE,
  random,
} from "./index.ts";

const rngs = new Rngs(1);
const drawn = initializers.normal(1);
/** Formulas in f64. */
type Numbers = ArrayLike<number>;

/** Derivatives of f in every number of x, by central differences in f64. */
function differences(x: Numbers, f: (x: Float64Array) => number): number[] {
  const step = 1e-5;
  return Array.from(x, (_, i) => {
    const at = (by: number): number => {
      const moved = Float64Array.from(x);
      moved[i] += by;
      return f(moved);
    };
    return (at(step) - at(-step)) / (2 * step);
  });
}

/** Σ g·y. */
const weighted = (g: Numbers, y: Numbers): number => Array.from(y).reduce((sum, value, i) => sum + g[i] * value, 0);

/**
 * Checks a module's output and all gradients of Σ dOut · out against a formula.
 *
 * @param formula - the output for an input and parameters by name
 */
function check(
  module: Module,
  call: {
    x: Tensor<"f32">;
    run: (x: Tensor<"f32">) => { out: Tensor<"f32">; backward: (dOut: Tensor<"f32">) => object };
  },
  formula: (x: Numbers, parameters: Record<string, Numbers>) => number[],
): void {
  const { x, run } = call;
  const { out, backward } = run(x);
  const parameters = flattenParameters<Tensor<"f32">>(module.parameters());
  const present = Object.fromEntries(Object.entries(parameters).map(([name, { data }]) => [name, data]));
  expectClose(out.data, formula(x.data, present), F32_STORED);
  const dOut = values(out.shape, 77);
  const gradients = backward(dOut) as { dx?: Tensor<"f32">; parameters?: Record<string, Tensor<"f32">> };
  if (gradients.dx) {
    expect(gradients.dx.shape).toEqual(x.shape);
    const want = differences(x.data, (x) => weighted(dOut.data, formula(x, present)));
    expectClose(gradients.dx.data, want, F32_STORED);
  }
  const given = flattenParameters<Tensor<"f32">>(gradients.parameters ?? {});
  expect(Object.keys(given)).toEqual(Object.keys(parameters));
  for (const [name, { shape, data }] of Object.entries(given)) {
    expect(shape).toEqual(parameters[name].shape);
    const loss = (moved: Numbers): number => weighted(dOut.data, formula(x.data, { ...present, [name]: moved }));
    expectClose(data, differences(present[name], loss), F32_STORED);
  }
}

const matrixProduct = (x: Numbers, kernel: Numbers, bias: Numbers | undefined, inputs: number, outputs: number) =>
  Array.from({ length: (x.length / inputs) * outputs }, (_, at) => {
    const [row, o] = [Math.floor(at / outputs), at % outputs];
    let sum = bias?.[o] ?? 0;
    for (let i = 0; i < inputs; i++) sum += x[row * inputs + i] * kernel[i * outputs + o];
    return sum;
  });

const norm = (x: Numbers, width: number, eps: number, centre: boolean, scale?: Numbers, bias?: Numbers): number[] =>
  Array.from(x, (value, at) => {
    const row = Array.from(x).slice(at - (at % width), at - (at % width) + width);
    const mean = centre ? row.reduce((a, b) => a + b, 0) / width : 0;
    const variance = row.reduce((sum, one) => sum + (one - mean) ** 2, 0) / width;
    return ((value - mean) / Math.sqrt(variance + eps)) * (scale?.[at % width] ?? 1) + (bias?.[at % width] ?? 0);
  });

/** exp(−t²/2)/√(2π) up to x, by Simpson's rule. */
function normalCdf(x: number): number {
  const density = (t: number): number => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI);
  const h = x / 1000;
  let sum = density(0) + density(x);
  for (let i = 1; i < 1000; i++) sum += (i % 2 === 0 ? 2 : 4) * density(i * h);
  return 0.5 + (sum * h) / 3;
}

describe("gradients of layers equal central differences", () => {
  it.each([true, false])("Linear, with a bias: %s", (useBias) => {
    const layer = new Linear(5, 3, { rngs, useBias, biasInit: drawn });
    check(layer, { x: values([2, 7, 5], 1), run: (x) => layer.vjp(x) }, (x, { kernel, bias }) =>
      matrixProduct(x, kernel, bias, 5, 3),
    );
  });

  it("LinearGeneral, of several axes to several", () => {
    const layer = new LinearGeneral([2, 3], [5, 1], { rngs, biasInit: drawn });
    check(layer, { x: values([4, 2, 3], 1), run: (x) => layer.vjp(x) }, (x, { kernel, bias }) =>
      matrixProduct(x, kernel, bias, 6, 5),
    );
  });

  it.each<[string, number, number, number, Partial<LayerNormOptions>]>([
    ["of a few numbers", 5, 0.3, 0, {}],
    ["one wide", 1, 0.3, 0, {}],
    ["without scale", 5, 0.3, 0, { useScale: false }],
    ["without bias", 5, 0.3, 0, { useBias: false }],
    ["far from 0", 7, 1e-6, 1000, {}],
  ])("LayerNorm %s", (_, width, epsilon, offset, options) => {
    const layer = new LayerNorm(width, { rngs, epsilon, scaleInit: drawn, biasInit: drawn, ...options });
    const x = values([3, width], 1);
    for (let i = 0; i < x.data.length; i++) x.data[i] += offset;
    check(layer, { x, run: (x) => layer.vjp(x) }, (x, { scale, bias }) => norm(x, width, epsilon, true, scale, bias));
  });

  it.each([true, false])("RMSNorm, with a scale: %s", (useScale) => {
    const layer = new RMSNorm(5, { rngs, epsilon: 0.3, scaleInit: drawn, useScale });
    check(layer, { x: values([2, 3, 5], 1), run: (x) => layer.vjp(x) }, (x, { scale }) =>
      norm(x, 5, 0.3, false, scale),
    );
  });

  it("Embedding, of tokens that come again and as a head", () => {
    const layer = new Embedding(5, 3, { rngs });
    const tokens = Int32Array.of(4, 0, 4, 2);
    const lookup = { x: f32([0], []), run: () => layer.vjp(tensor("i32", [2, 2], tokens)) };
    check(layer, lookup, (_, { embedding }) =>
      Array.from(tokens).flatMap((token) => [0, 1, 2].map((c) => embedding[token * 3 + c])),
    );
    check(layer, { x: values([2, 7, 3], 1), run: (x) => layer.attendVjp(x) }, (x, { embedding }) => {
      const transposed = Array.from({ length: 15 }, (_, at) => embedding[(at % 5) * 3 + Math.floor(at / 5)]);
      return matrixProduct(x, transposed, undefined, 3, 5);
    });
  });

  it.each([
    // PyTorch: F.silu, F.gelu, F.gelu(approximate="tanh") of 1.
    ["silu", 0.73105858, (x: number) => x / (1 + Math.exp(-x))],
    [
      "geluTanh",
      0.84119199,
      (x: number) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    ],
    ["gelu", 0.84134475, (x: number) => x * normalCdf(x)],
  ] as const)("Activation %s", (name, ofOne, formula) => {
    const layer = new Activation(name);
    expectClose(layer.forward(f32([1], [1])).data, [ofOne], F32_STORED);
    const x = f32(
      [2, 7],
      values([14], 1).data.map((value) => 5 * value),
    );
    check(layer, { x, run: (x) => layer.vjp(x) }, (x) => Array.from(x, formula));
  });

  it.each(["half", "interleaved"] as const)("RoPE of pairing %s, at positions of its own", (pairing) => {
    const layer = new RoPE({ headDim: 6, theta: 50, pairing });
    const positions = [3, 1, 40, 0, 2, 7];
    const x = values([2, 3, 2, 6], 1);
    check(layer, { x, run: (x) => layer.vjp(x, { positions }) }, (x) => {
      const out = Array.from(x);
      for (let row = 0; row < 12; row++) {
        for (let pair = 0; pair < 3; pair++) {
          const first = row * 6 + (pairing === "half" ? pair : 2 * pair);
          const second = first + (pairing === "half" ? 3 : 1);
          const angle = positions[Math.floor(row / 2)] * 50 ** (-pair / 3);
          out[first] = x[first] * Math.cos(angle) - x[second] * Math.sin(angle);
          out[second] = x[second] * Math.cos(angle) + x[first] * Math.sin(angle);
        }
      }
      return out;
    });
  });

  it("Dropout, which drops the same on the way back", () => {
    const x = values([5, 7], 1);
    const key = random.foldIn(random.key(4), 0);
    for (const broadcastAxes of [[], [0]]) {
      const layer = new Dropout(0.4, { broadcastAxes });
      const keep = random.bernoulli(key, 0.6, broadcastAxes.length ? [1, 7] : [5, 7]).data;
      const run = (x: Tensor<"f32">) => layer.vjp(x, { rngs: new Rngs({ dropout: 4 }) });
      check(layer, { x, run }, (x) => Array.from(x, (value, i) => (value * keep[i % keep.length]) / 0.6));
    }
    const nothing = new Dropout(0.4).vjp(x, { deterministic: true });
    expect(nothing.out).toBe(x);
    expect(nothing.backward(x).dx.data).toEqual(x.data);
    expect(new Dropout(1).vjp(x).backward(x).dx.data).toEqual(new Float32Array(sizeOf(x.shape)));
  });
});

describe("the way back", () => {
  it("gives tensors of its own", () => {
    const x = values([3, 5], 1);
    const { dx } = new Dropout(0).vjp(x).backward(x);
    expect([dx.data === x.data, dx.data]).toEqual([false, x.data]);
  });

  it("leaves what it was given as it was, and can be taken again", () => {
    const layer = new LayerNorm(5, { rngs });
    const { backward } = layer.vjp(values([3, 5], 1));
    const dOut = values([3, 5], 2);
    const first = backward(dOut);
    expect(dOut.data).toEqual(values([3, 5], 2).data);
    expect(backward(dOut)).toEqual(first);
  });

  it("knows the activations there are", () => {
    expect(() => new Activation("relu" as never)).toThrow(
      'Activation: activation must be one of silu, gelu, geluTanh; got activation="relu".',
    );
  });

  it("refuses gradients of other shapes and types", () => {
    const layer = new Linear(2, 3, { rngs });
    const { backward } = layer.vjp(values([5, 2], 1));
    expect(() => backward(values([5, 2], 1))).toThrow(
      "Linear.vjp: dOut must have the shape of the output; got dOut=[5,2], out=[5,3].",
    );
    expect(() => backward(tensor("f64", [5, 3], new Float64Array(15)) as never)).toThrow(
      'Linear.vjp: an f32 tensor; got dtype="f64".',
    );
    expect(() => backward({ dtype: "f32", shape: [5, 3], data: new Float32Array(14) })).toThrow(
      "Linear.vjp: data length must equal the product of the shape; got length=14, shape=[5,3].",
    );
  });
});
