import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { randomWeight } from "../../../test/support/quantized-weights.ts";
import { values } from "../../../test/support/values.ts";
import { MODES, randomNumbers } from "../../../test/support/wasm-kernel.ts";
import { numberToBf16 } from "../../dtype.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import type { Backend } from "../backend.ts";
import { createReferenceBackend } from "../reference/backend.ts";
import {
  isInterleaved,
  type QuantizedMatrix,
  WEIGHT_TYPES,
  type WeightType,
  weightMatrixBytes,
  weightsToF32,
} from "../weight-matrix.ts";
import { createWasmBackend, type WasmBackend } from "./backend.ts";

/** Sums of up to 2080 products in f32, relative to 1 + |wanted|. */
const TOLERANCE = 1e-5;
const BLOCKED = ["q8_0", "q4_0"] as const;

/** Widths that a type can have: primes, or primes of blocks. */
function widths(type: WeightType): number[] {
  return type === "q8_0" || type === "q4_0" ? [32, 7 * 32, 37 * 32] : [1, 37, 1049];
}

function tensorOn(backend: Backend, t: Tensor<"f32">): Tensor<"f32"> {
  const there = backend.allocate(t.shape);
  there.data.set(t.data);
  return there;
}

describe.each(MODES)("matrices of every type, %o", ({ relaxed }) => {
  const reference = createReferenceBackend();
  let wasm: WasmBackend;
  beforeAll(async () => {
    wasm = await createWasmBackend({ threads: 0, maxBytes: 2 ** 26, features: { relaxed } });
  });
  afterAll(() => wasm.dispose());

  async function compare(run: (backend: Backend) => Tensor<"f32">, tolerance = TOLERANCE): Promise<void> {
    const [got, want] = [run(wasm), run(reference)];
    await wasm.flush();
    expectClose(got.data, want.data, tolerance);
  }

  test.each(WEIGHT_TYPES)("linear with weights loaded as %s gives the reference's numbers", async (type) => {
    for (const K of widths(type)) {
      for (const [T, N] of [
        [1, 13],
        [1, 1],
        [3, 11],
        [7, 5],
      ]) {
        const source = values([N, K], 1);
        // One token by codes: K inputs, at most 1, are off by up to half a step of 16 bits each, independently.
        const rounds = T === 1 && ["int8", ...BLOCKED].some((codes) => codes === type) && K % 32 === 0;
        const tolerance = TOLERANCE + (rounds ? (2 * Math.sqrt(K)) / 65534 : 0);
        const bits = tensor("bf16", [N, K], Uint16Array.from(source.data, numberToBf16));
        for (const matrix of [source, bits]) {
          await compare((backend) => {
            const out = backend.allocate([T, N]);
            const bias = backend.vector(values([N], 3));
            backend.linear(out, tensorOn(backend, values([T, K], 2)), backend.matrix(matrix, type), bias);
            return out;
          }, tolerance);
        }
      }
    }
  });

  test.each(WEIGHT_TYPES)("rows of a table loaded as %s are the reference's", async (type) => {
    for (const K of widths(type)) {
      await compare((backend) => {
        const out = backend.allocate([5, K]);
        backend.embed(out, backend.matrix(values([17, K], 4), type), Int32Array.of(16, 0, 3, 3, 11));
        return out;
      });
    }
  });

  test("f32 rows that are interleaved: linear, embedding, and back to f32", async () => {
    for (const [N, K] of [
      [4, 8],
      [12, 40],
      [20, 1032],
    ]) {
      for (const source of [values([N, K], 1), tensor("f64", [N, K], Float64Array.from(values([N, K], 1).data))]) {
        const matrix = wasm.matrix(source, "f32");
        expect(isInterleaved(matrix)).toBe(true);
        expect(weightsToF32(matrix)).toEqual(values([N, K], 1).data);
      }
      for (const T of [1, 5]) {
        await compare((backend) => {
          const out = backend.allocate([T, N]);
          const bias = backend.vector(values([N], 3));
          backend.linear(out, tensorOn(backend, values([T, K], 2)), backend.matrix(values([N, K], 1)), bias);
          return out;
        });
      }
      await compare((backend) => {
        const out = backend.allocate([3, K]);
        backend.embed(out, backend.matrix(values([N, K], 4)), Int32Array.of(N - 1, 0, 2));
        return out;
      });
    }
  });

  test.each(["int8", ...BLOCKED] as const)("%s weights that come quantised are used as they are", async (type) => {
    const [N, K, T] = [7, 96, 3];
    const { bytes, numbers, scales } = randomWeight(type, N, K, 5);
    const rows = { shape: [N, K], data: bytes };
    const source: QuantizedMatrix = type === "int8" ? { dtype: type, ...rows, scales } : { dtype: type, ...rows };
    const x = tensor("f32", [T, K], randomNumbers(T * K, 6));
    for (const backend of [wasm, reference]) {
      const out = backend.allocate([T, N]);
      backend.linear(out, tensorOn(backend, x), backend.matrix(source));
      await backend.flush();
      const want = Array.from({ length: T * N }, (_, at) => {
        const [t, n] = [Math.floor(at / N), at % N];
        let sum = 0;
        for (let k = 0; k < K; k++) sum += x.data[t * K + k] * numbers[n * K + k];
        return sum;
      });
      expectClose(out.data, want, TOLERANCE);
    }
  });

  test.each(WEIGHT_TYPES)("a matrix as %s takes its own bytes of memory, and gives them back", async (type) => {
    const before = wasm.usedBytes;
    const matrix = wasm.matrix(values([64, 96], 7), type);
    expect(wasm.usedBytes - before).toBe(weightMatrixBytes(type, [64, 96])); // whole cache lines for all types
    wasm.release(matrix);
    await wasm.flush();
    expect(wasm.usedBytes).toBe(before);
  });

  test("a matrix with weights that its type cannot hold leaves no memory taken", async () => {
    const before = wasm.usedBytes;
    const bad = values([3, 64], 8);
    bad.data[100] = Number.NaN;
    for (const type of ["int8", "q8_0", "q4_0", "f16"] as const) {
      expect(() => wasm.matrix(bad, type, "lm_head.weight")).toThrow(`lm_head.weight: weights that ${type} can hold`);
    }
    await wasm.flush();
    expect(wasm.usedBytes).toBe(before);
  });

  test("a matrix that cannot have a type is refused by its name, and takes no memory", () => {
    const before = wasm.usedBytes;
    const narrow = values([3, 40], 8);
    expect(() => wasm.matrix(narrow, "q8_0", "lm_head.weight")).toThrow(
      "lm_head.weight: a matrix [N, K], K a multiple of 32, to be kept as q8_0; got shape=[3,40].",
    );
    expect(wasm.usedBytes).toBe(before);
  });
});
