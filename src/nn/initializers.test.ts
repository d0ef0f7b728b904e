import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED, F32_STORED } from "../../test/support/tolerances.ts";
import type { Initializer } from "./index.ts";
import { initializers as init, random } from "./index.ts";

const KEY = random.key(17);

function variance(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, value) => sum + value ** 2, 0) / values.length;
}

describe("initialisers", () => {
  it("constants fill the shape", () => {
    expect([...init.zeros()(KEY, [2, 3]).data]).toEqual([0, 0, 0, 0, 0, 0]);
    expect([...init.ones()(KEY, [2]).data]).toEqual([1, 1]);
    expect([...init.constant(-2.5)(KEY, [3]).data]).toEqual([-2.5, -2.5, -2.5]);
  });

  it("normal, truncatedNormal and uniform are the draws times their scale", () => {
    const shape = [3, 5];
    const times = (data: Float32Array, factor: number) => data.map((value) => value * factor);
    expectClose(init.normal(0.5)(KEY, shape).data, times(random.normal(KEY, shape).data, 0.5), F32_STORED);
    const truncated = random.truncatedNormal(KEY, shape, -1, 3).data;
    expectClose(init.truncatedNormal(0.25, -1, 3)(KEY, shape).data, times(truncated, 0.25), F32_STORED);
    expectClose(init.uniform(4)(KEY, shape).data, times(random.uniform(KEY, shape).data, 4), F32_STORED);
  });

  // 211 inputs, 97 outputs
  it.each<[string, Initializer, number]>([
    ["lecunNormal", init.lecunNormal(), 1 / 211],
    ["lecunUniform", init.lecunUniform(), 1 / 211],
    ["glorotNormal", init.glorotNormal(), 2 / 308],
    ["glorotUniform", init.glorotUniform(), 2 / 308],
    ["heNormal", init.heNormal(), 2 / 211],
    ["heUniform", init.heUniform(), 2 / 211],
    ["fan out", init.varianceScaling(3, "fanOut", "normal"), 3 / 97],
    ["geometric mean of fans", init.varianceScaling(1, "fanGeoAvg", "normal"), 1 / Math.sqrt(211 * 97)],
  ])("%s has its variance", (_, initializer, want) => {
    const { data, shape } = initializer(KEY, [211, 97]);
    expect(shape).toEqual([211, 97]);
    expect(variance(data) / want).toBeCloseTo(1, 1);
  });

  it("axes other than inputs, outputs and batch are a receptive field", () => {
    const shape = [3, 5, 41, 43]; // fan in 3·5·41
    expect(variance(init.lecunNormal()(KEY, shape).data) * (3 * 5 * 41)).toBeCloseTo(1, 1);
    const [byAxes, plain] = [
      init.lecunNormal({ inAxis: [0, 1, 2], batchAxis: [] })(KEY, shape).data,
      init.lecunNormal()(KEY, [3 * 5 * 41, 43]).data,
    ];
    expect(byAxes).toEqual(plain);
    const batched = init.lecunNormal({ batchAxis: 0 })(KEY, [7, 41, 43]).data;
    expect(variance(batched) * 41).toBeCloseTo(1, 1);
  });

  it("orthogonal gives orthonormal columns, or rows where there are fewer", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 11 }),
        fc.integer({ min: 1, max: 11 }),
        fc.nat(99),
        (rows, columns, seed) => {
          const { data } = init.orthogonal(2)(random.key(seed), [rows, columns]);
          const short = Math.min(rows, columns);
          const entry = (line: number, i: number) =>
            rows < columns ? data[line * columns + i] : data[i * columns + line];
          for (let a = 0; a < short; a++) {
            for (let b = 0; b < short; b++) {
              let dot = 0;
              for (let i = 0; i < Math.max(rows, columns); i++) dot += entry(a, i) * entry(b, i);
              expectClose([dot], [a === b ? 4 : 0], F32_COMPUTED);
            }
          }
        },
      ),
      { numRuns: 30 },
    );
  });

  it("orthogonal puts its columns along the axis it is told", () => {
    const last = init.orthogonal()(KEY, [2, 3, 5]).data; // 6 rows, 5 columns
    const middle = init.orthogonal(1, 1)(KEY, [2, 5, 3]).data;
    for (let i = 0; i < 30; i++) {
      const [a, column, b] = [Math.floor(i / 15), Math.floor(i / 3) % 5, i % 3];
      expect(middle[i]).toBe(last[(a * 3 + b) * 5 + column]);
    }
  });

  it.each([
    [[3, 5, 7], 1],
    [[4, 5, 5, 7], 1 * 5 + 2],
    [[1, 2, 3, 5, 7], (0 * 2 + 0) * 3 + 1],
  ])("deltaOrthogonal fills the middle of %j with orthonormal rows, and nothing else", (shape, middle) => {
    const { data, shape: got } = init.deltaOrthogonal(3)(KEY, shape);
    expect(got).toEqual(shape);
    const [inputs, outputs] = shape.slice(-2);
    const rows = Array.from({ length: inputs }, (_, row) => {
      const from = (middle * inputs + row) * outputs;
      return data.subarray(from, from + outputs);
    });
    for (const [a, left] of rows.entries()) {
      for (const [b, right] of rows.entries()) {
        expectClose([left.reduce((sum, value, i) => sum + value * right[i], 0)], [a === b ? 9 : 0], F32_COMPUTED);
      }
    }
    const elsewhere = data.filter((_, i) => Math.floor(i / (inputs * outputs)) !== middle);
    expect(elsewhere.every((value) => value === 0)).toBe(true);
  });

  it("refuse shapes and options they have no meaning for", () => {
    expect(() => init.lecunNormal()(KEY, [5])).toThrow(
      "varianceScaling: a shape of at least 2 axes; got shape=[5]. " +
        "Flatten inputs and outputs to one axis each, or use normal or uniform.",
    );
    expect(() => init.lecunNormal({ inAxis: 2 })(KEY, [5, 3])).toThrow(
      "varianceScaling: an axis of the shape; got axis=2, shape=[5,3].",
    );
    expect(() => init.orthogonal()(KEY, [5])).toThrow("orthogonal: a shape of at least 2 axes; got shape=[5].");
    for (const shape of [
      [5, 7],
      [3, 7, 5],
      [1, 1, 1, 1, 2, 3],
    ]) {
      expect(() => init.deltaOrthogonal()(KEY, shape)).toThrow(
        "deltaOrthogonal: a shape of 1 to 3 spatial axes, inputs, and at least as many outputs; " +
          `got shape=${JSON.stringify(shape)}.`,
      );
    }
    expect(() => init.varianceScaling(1, "fan" as "fanIn", "normal")).toThrow(
      'varianceScaling: mode must be one of fanIn, fanOut, fanAvg, fanGeoAvg; got mode="fan".',
    );
    expect(() => init.varianceScaling(0, "fanIn", "normal")).toThrow(
      "varianceScaling: scale must be positive; got scale=0.",
    );
  });
});
