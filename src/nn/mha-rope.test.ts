import { expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import { initializers, mhaRope, random } from "./index.ts";

it("mhaRope is four linear maps of successive keys around attention with adjacent pairs", () => {
  const [T, heads, width, base] = [5, 3, 12, 100];
  const D = width / heads;
  const x = values([T, width], 1);
  const kernels = [0, 2, 4, 6].map((count) => {
    return initializers.lecunNormal()(random.foldIn(random.key(9), count), [width, width]).data;
  });
  const times = (rows: ArrayLike<number>, kernel: Float32Array): number[] =>
    Array.from({ length: T * width }, (_, n) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += rows[Math.floor(n / width) * width + i] * kernel[i * width + (n % width)];
      return sum;
    });
  const turned = (rows: number[]): number[] =>
    rows.map((value, n) => {
      const [d, t] = [n % D, Math.floor(n / width)];
      const angle = t / base ** ((d - (d % 2)) / D);
      return value * Math.cos(angle) + (d % 2 === 0 ? -rows[n + 1] : rows[n - 1]) * Math.sin(angle);
    });
  const [q, k, v] = [turned(times(x.data, kernels[0])), turned(times(x.data, kernels[1])), times(x.data, kernels[2])];
  const attended = Array.from({ length: T * width }, (_, n) => {
    const [t, head] = [Math.floor(n / width), Math.floor((n % width) / D) * D];
    let [sum, total] = [0, 0];
    for (let j = 0; j < T; j++) {
      let dot = 0;
      for (let d = 0; d < D; d++) dot += q[t * width + head + d] * k[j * width + head + d];
      const weight = Math.exp(dot / Math.sqrt(D));
      total += weight;
      sum += weight * v[j * width + (n % width)];
    }
    return sum / total;
  });
  const out = mhaRope(9, x, heads, width, base);
  expect(out.shape).toEqual([T, width]);
  expectClose(out.data, times(attended, kernels[3]), F32_COMPUTED);
});

it("mhaRope refuses sizes that do not fit together", () => {
  expect(() => mhaRope(0, values([5, 6], 1), 1, 8)).toThrow("mhaRope: x must be [T, 8]; got shape=[5,6].");
  expect(() => mhaRope(0, values([5, 6], 1), 2, 6)).toThrow(
    "mhaRope: dModel must be a multiple of 2 * numHeads; got dModel=6, numHeads=2.",
  );
});
