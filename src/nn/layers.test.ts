import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { f32, tensor } from "../tensor.ts";
import {
  Dropout,
  Embedding,
  flattenParameters,
  initializers,
  LayerNorm,
  Linear,
  LinearGeneral,
  nestParameters,
  RMSNorm,
  Rngs,
  random,
} from "./index.ts";

const rngs = new Rngs(1);

describe("Linear and LinearGeneral", () => {
  it("multiply by the kernel and add the bias", () => {
    const layer = new Linear(2, 3, { rngs });
    layer.load({ kernel: f32([2, 3], [1, 2, 3, 4, 5, 6]), bias: f32([3], [10, 20, 30]) });
    const y = layer.forward(f32([2, 1, 2], [1, 0, 2, -1]));
    expect(y.shape).toEqual([2, 1, 3]);
    expect([...y.data]).toEqual([11, 22, 33, 8, 19, 30]);
  });

  it("contract and make several axes at once", () => {
    const layer = new LinearGeneral([2, 3], [5, 7], { rngs });
    const flat = new Linear(6, 35, { rngs });
    flat.load({ kernel: tensor("f32", [6, 35], layer.kernel.data), bias: f32([35], new Array(35).fill(0)) });
    const x = values([11, 2, 3], 4);
    const y = layer.forward(x);
    expect(y.shape).toEqual([11, 5, 7]);
    expect(y.data).toEqual(flat.forward(tensor("f32", [11, 6], x.data)).data);
  });

  it("draw one key for the kernel and one for the bias, if there is one", () => {
    const streams = new Rngs(3);
    new Linear(2, 3, { rngs: streams, useBias: false });
    const { kernel, bias } = new Linear(5, 7, { rngs: streams, biasInit: initializers.normal() });
    expect(kernel.data).toEqual(initializers.lecunNormal()(random.foldIn(random.key(3), 1), [5, 7]).data);
    expect(bias?.data).toEqual(initializers.normal()(random.foldIn(random.key(3), 2), [7]).data);
  });

  it("refuse other sizes", () => {
    expect(() => new Linear(0, 3, { rngs })).toThrow(
      "Linear: inFeatures must be a positive integer; got inFeatures=0.",
    );
    expect(() => new LinearGeneral([], 3, { rngs })).toThrow(
      "LinearGeneral: inFeatures must have at least one axis; got inFeatures=[].",
    );
    expect(() => new Linear(5, 3, { rngs }).forward(values([2, 3], 1))).toThrow(
      "Linear.forward: the last axes must be [5]; got shape=[2,3].",
    );
    const unfilled = { dtype: "f32", shape: [2, 5], data: new Float32Array(9) } as const;
    expect(() => new Linear(5, 3, { rngs }).forward(unfilled)).toThrow(
      "Linear.forward: data length must equal the product of the shape; got length=9, shape=[2,5].",
    );
  });
});

describe("norms", () => {
  it("LayerNorm has mean 0 and variance 1, then scale and bias", () => {
    const norm = new LayerNorm(4, { rngs, epsilon: 0 });
    norm.load({ scale: f32([4], [1, 2, 3, 4]), bias: f32([4], [0, 0, 0, 100]) });
    // mean 4, variance 5
    const want = [-3, -1, 1, 3].map((value, i) => ((i + 1) * value) / Math.sqrt(5) + (i === 3 ? 100 : 0));
    expectClose(norm.forward(f32([1, 4], [1, 3, 5, 7])).data, want, F32_COMPUTED);
  });

  it("RMSNorm divides by the root of the mean square", () => {
    const norm = new RMSNorm(2, { rngs, epsilon: 0.5 });
    norm.load({ scale: f32([2], [1, -2]) });
    expectClose(norm.forward(f32([2], [1, 3])).data, [1 / Math.sqrt(5.5), -6 / Math.sqrt(5.5)], F32_COMPUTED);
  });

  it("have the parameters they are told to have", () => {
    expect(Object.keys(new LayerNorm(3, { rngs }).parameters())).toEqual(["scale", "bias"]);
    expect(Object.keys(new LayerNorm(3, { rngs, useBias: false }).parameters())).toEqual(["scale"]);
    expect(new RMSNorm(3, { rngs, useScale: false }).parameters()).toEqual({});
  });

  it.each([-1e-6, Number.NaN, Infinity])("refuse an epsilon of %d", (epsilon) => {
    for (const Norm of [LayerNorm, RMSNorm]) {
      expect(() => new Norm(3, { rngs, epsilon })).toThrow(
        `${Norm.name}: epsilon must be a finite number, 0 or more; got epsilon=${epsilon}.`,
      );
    }
  });

  it("refuse another width", () => {
    expect(() => new LayerNorm(3, { rngs }).forward(values([3, 2], 1))).toThrow(
      "LayerNorm.forward: the last axes must be [3]; got shape=[3,2].",
    );
    expect(() => new RMSNorm(1.5, { rngs })).toThrow(
      "RMSNorm: numFeatures must be a positive integer; got numFeatures=1.5.",
    );
  });
});

describe("Embedding", () => {
  it("looks up rows, and attends to all of them", () => {
    const embedding = new Embedding(3, 2, { rngs });
    embedding.load({ embedding: f32([3, 2], [1, 2, 3, 4, 5, 6]) });
    const x = embedding.forward(tensor("i32", [2, 1], Int32Array.of(2, 0)));
    expect(x.shape).toEqual([2, 1, 2]);
    expect([...x.data]).toEqual([5, 6, 1, 2]);
    expect([...embedding.attend(f32([2], [1, -1])).data]).toEqual([-1, -1, -1]);
  });

  it("starts from normal numbers of variance 1 / features", () => {
    const { embedding } = new Embedding(101, 53, { rngs: new Rngs(2) });
    const sum = embedding.data.reduce((total, value) => total + value ** 2, 0);
    expect(sum / 101).toBeCloseTo(1, 1);
  });

  it("refuses a token without a vector", () => {
    const embedding = new Embedding(3, 2, { rngs });
    expect(() => embedding.forward(tensor("i32", [2], Int32Array.of(1, 3)))).toThrow(
      "Embedding.forward: tokens must be from 0 to 2; got token=3, index=1.",
    );
  });

  it("refuses tokens that are no i32", () => {
    const embedding = new Embedding(3, 2, { rngs });
    expect(() => embedding.forward(f32([1], [0.5]) as never)).toThrow(
      'Embedding.forward: an i32 tensor; got dtype="f32".',
    );
  });
});

describe("Dropout", () => {
  const x = values([7, 5, 3], 9);

  it("drops its share, and divides the rest by what is kept", () => {
    const y = new Dropout(0.25, { rngs: new Rngs(4) }).forward(values([101, 97], 2)).data;
    const zeros = y.filter((value) => value === 0).length;
    expect(zeros / y.length).toBeCloseTo(0.25, 1);
    const kept = values([101, 97], 2).data.map((value, i) => (y[i] === 0 ? 0 : value / 0.75));
    expectClose(y, kept, F32_COMPUTED);
  });

  it("draws with the keys of a fork of the dropout stream, as bernoulli(1 − rate)", () => {
    const y = new Dropout(0.5, { rngs: new Rngs({ dropout: 4 }) }).forward(x).data;
    const key = random.foldIn(random.foldIn(random.key(4), 0), 0);
    const keep = random.bernoulli(key, 0.5, [7, 5, 3]).data;
    expect(y).toEqual(x.data.map((value, i) => (keep[i] === 1 ? value * 2 : 0)));
  });

  it("drops other numbers in the next call, and the same along broadcast axes", () => {
    const dropout = new Dropout(0.5, { rngs: new Rngs(4), broadcastAxes: [0, -1] });
    const [first, second] = [dropout.forward(x).data, dropout.forward(x).data];
    expect(first).not.toEqual(second);
    const dropped = (i: number) => first[i] === 0;
    first.forEach((_, i) => {
      expect(dropped(i)).toBe(dropped((Math.floor(i / 3) % 5) * 3));
    });
  });

  it("passes its input on when deterministic, without a rate, or gives zeros at rate 1", () => {
    expect(new Dropout(0.5).forward(x, { deterministic: true })).toBe(x);
    expect(new Dropout(0).forward(x)).toBe(x);
    expect(new Dropout(0.5, { deterministic: true }).forward(x)).toBe(x);
    expect(new Dropout(1).forward(x).data.every((value) => value === 0)).toBe(true);
  });

  it("refuses to drop without keys, and rates and axes there are not", () => {
    expect(() => new Dropout(0.5).forward(x)).toThrow(
      "Dropout.forward: rngs, of the module or of the call; got rate=0.5. Pass deterministic: true to drop nothing.",
    );
    expect(() => new Dropout(-0.1)).toThrow("Dropout: rate must be from 0 to 1; got rate=-0.1.");
    expect(() => new Dropout(0.5, { rngs, broadcastAxes: [3] }).forward(x)).toThrow(
      "Dropout.forward: broadcastAxes must be axes of the input; got axis=3, shape=[7,5,3].",
    );
  });
});

describe("parameters", () => {
  it("flatten to dotted names and back", () => {
    const tree = { a: { b: values([2], 1), c: { d: values([3], 2) } }, e: values([5], 3) };
    const flat = flattenParameters(tree);
    expect(Object.keys(flat)).toEqual(["a.b", "a.c.d", "e"]);
    expect(nestParameters(flat)).toEqual(tree);
  });

  it("load all or nothing, in any float type", () => {
    const layer = new Linear(2, 1, { rngs });
    const before = layer.kernel.data.slice();
    const kernel = f32([2, 1], [5, 6]);
    expect(() => layer.load({ kernel, bias: values([2], 1) })).toThrow(
      "load: bias must have shape [1]; got shape=[2].",
    );
    expect(() => layer.load({ kernel })).toThrow('load: a value for every parameter; got missing="bias".');
    expect(() => layer.load({ kernel, bias: values([1], 1), scale: kernel })).toThrow(
      'load: only names of this module; got name="scale". It has kernel, bias.',
    );
    expect(layer.kernel.data).toEqual(before);
    layer.load({
      kernel: tensor("f64", [2, 1], Float64Array.of(5, 6)),
      bias: tensor("bf16", [1], Uint16Array.of(0x3f80)),
    });
    expect([...layer.kernel.data, ...(layer.bias?.data ?? [])]).toEqual([5, 6, 1]);
  });

  it("refuse a name that is a parameter and a group", () => {
    const x = values([1], 1);
    for (const flat of [
      { a: x, "a.b": x },
      { "a.b": x, a: x },
    ]) {
      const path = Object.keys(flat)[1];
      expect(() => nestParameters(flat)).toThrow(
        `nestParameters: a name must be a parameter or a group of them, not both; got path="${path}".`,
      );
    }
  });
});
