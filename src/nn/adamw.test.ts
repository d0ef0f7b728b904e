import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_STORED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { f32, type Tensor, tensor } from "../tensor.ts";
import { AdamW, crossEntropy, Linear, Rngs } from "./index.ts";

describe("AdamW", () => {
  it("takes the steps of optax.adamw with its defaults", () => {
    const weight = f32([2], [1, -2]);
    const optimizer = new AdamW({ a: { weight } }, { learningRate: 0.1 });
    // By hand: the first step is the sign of the gradient; the second has m̂ = (0.9·0.1·g + 0.1·h)/0.19 and v̂ likewise.
    const [g, h] = [
      [0.5, -4],
      [-1, -4],
    ];
    optimizer.update({ a: { weight: f32([2], g) } });
    const first = [1, -2].map((w, i) => w - 0.1 * (Math.sign(g[i]) + 1e-4 * w));
    expectClose(weight.data, first, F32_STORED);
    optimizer.update({ a: { weight: f32([2], h) } }, { learningRate: 0.01 });
    const second = first.map((w, i) => {
      const mean = (0.09 * g[i] + 0.1 * h[i]) / (1 - 0.9 ** 2);
      const square = (0.999 * 0.001 * g[i] ** 2 + 0.001 * h[i] ** 2) / (1 - 0.999 ** 2);
      return w - 0.01 * (mean / (Math.sqrt(square) + 1e-8) + 1e-4 * w);
    });
    expectClose(weight.data, second, F32_STORED);
    expect(optimizer.steps).toBe(2);
  });

  it("refuses gradients that do not fit, and changes nothing then", () => {
    const layer = new Linear(2, 3, { rngs: new Rngs(0) });
    const before = layer.kernel.data.slice();
    const optimizer = new AdamW(layer.parameters(), { learningRate: 1 });
    const { kernel, bias } = { kernel: values([2, 3], 1), bias: values([3], 2) };
    expect(() => optimizer.update({ kernel })).toThrow(
      'AdamW.update: a value for every parameter; got missing="bias".',
    );
    expect(() => optimizer.update({ kernel, bias, scale: bias })).toThrow(
      'AdamW.update: only names of this module; got name="scale". It has kernel, bias.',
    );
    expect(() => optimizer.update({ kernel, bias: kernel })).toThrow(
      "AdamW.update: bias must have shape [3]; got shape=[2,3].",
    );
    expect([layer.kernel.data, optimizer.steps]).toEqual([before, 0]);
  });

  it("refuses gradients of other types, too few numbers, and a learning rate that is no number, and changes nothing", () => {
    const weight = f32([2], [1, -2]);
    const optimizer = new AdamW({ weight }, { learningRate: 1 });
    const update = (gradient: Tensor, learningRate?: number) => () =>
      optimizer.update({ weight: gradient as Tensor<"f32"> }, { ...(learningRate !== undefined && { learningRate }) });
    expect(update(tensor("f64", [2], Float64Array.of(1, 1)))).toThrow('AdamW.update: an f32 tensor; got dtype="f64".');
    expect(update({ ...weight, data: Float32Array.of(1) })).toThrow(
      "AdamW.update: data length must equal the product of the shape; got length=1, shape=[2].",
    );
    expect(update(f32([2], [1, 1]), Number.NaN)).toThrow(
      "AdamW.update: learningRate must be a finite number, 0 or more; got learningRate=NaN.",
    );
    expect([weight.data, optimizer.steps]).toEqual([Float32Array.of(1, -2), 0]);
  });

  it.each([
    [{ learningRate: Number.NaN }, "learningRate must be a finite number, 0 or more; got learningRate=NaN."],
    [{ learningRate: -1 }, "learningRate must be a finite number, 0 or more; got learningRate=-1."],
    [{ learningRate: 1, beta1: 1 }, "beta1 must be from 0 to below 1; got beta1=1."],
    [{ learningRate: 1, beta2: -0.5 }, "beta2 must be from 0 to below 1; got beta2=-0.5."],
    [{ learningRate: 1, epsilon: 0 }, "epsilon must be above 0; got epsilon=0."],
    [{ learningRate: 1, weightDecay: -1 }, "weightDecay must be a finite number, 0 or more; got weightDecay=-1."],
  ])("refuses %j", (options, message) => {
    expect(() => new AdamW({}, options)).toThrow(`AdamW: ${message}`);
  });
});

describe("crossEntropy", () => {
  it("is the mean over the labels that count, and its gradient equals central differences", () => {
    const logits = values([2, 3, 5], 1);
    const labels = Int32Array.of(4, -1, 0, 2, 2, -1);
    const lossOf = (x: ArrayLike<number>, row: number): number => {
      const own = Array.from(x).slice(row * 5, row * 5 + 5);
      return Math.log(own.reduce((sum, value) => sum + Math.exp(value), 0)) - own[labels[row]];
    };
    const mean = (x: ArrayLike<number>): number => [0, 2, 3, 4].reduce((sum, row) => sum + lossOf(x, row) / 4, 0);
    const { loss, losses, dLogits } = crossEntropy(logits, tensor("i32", [2, 3], labels));
    expectClose([loss], [mean(logits.data)], F32_STORED);
    expectClose(
      losses.data,
      Array.from(labels, (label, row) => (label < 0 ? 0 : lossOf(logits.data, row))),
      F32_STORED,
    );
    const want = Array.from(logits.data, (_, i) => {
      const at = (by: number): number => mean(Array.from(logits.data, (value, n) => (n === i ? value + by : value)));
      return (at(1e-5) - at(-1e-5)) / 2e-5;
    });
    expectClose(dLogits.data, want, F32_STORED);
    expect(logits.data).toEqual(values([2, 3, 5], 1).data);
  });

  it.each([
    [
      [2, 5],
      [3],
      Int32Array.of(0, 1, 2),
      "crossEntropy: logits must be [..., classes] for labels [...]; got logits=[2,5], labels=[3].",
    ],
    [[2, 5], [2], Int32Array.of(0, 5), "crossEntropy: labels must be from -1 to 4; got label=5, index=1."],
    [[2, 5], [2], Int32Array.of(-1, -1), "crossEntropy: at least one label that counts; got labels=2."],
  ])("refuses logits %j with labels %j", (shape, labelShape, labels, message) => {
    expect(() => crossEntropy(values(shape, 1), tensor("i32", labelShape, labels))).toThrow(message);
  });
});
