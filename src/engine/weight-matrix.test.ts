import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { thrownBy } from "../../test/support/thrown-by.ts";
import { values } from "../../test/support/values.ts";
import { allocate, bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from "../dtype.ts";
import { f32, type Tensor, tensor } from "../tensor.ts";
import {
  convertWeights,
  createMatrix,
  type MatrixSource,
  type QuantizedMatrix,
  type WeightType,
  weightMatrixBytes,
  weightsToF32,
} from "./weight-matrix.ts";

function convert(source: MatrixSource, type: WeightType): ReturnType<typeof createMatrix> {
  const target = createMatrix("weight", type, source.shape, allocate);
  convertWeights(target, source, "weight");
  return target;
}

function quantize(row: ArrayLike<number>, type: QuantizedMatrix["dtype"]): Uint8Array {
  return (convert(f32([1, row.length], row), type) as QuantizedMatrix).data;
}

/** Blocks as GGUF defines them: an f16 scale, then 32 signed bytes, or 16 bytes with codes i and 16 + i. */
function readBlocks(type: "q8_0" | "q4_0", data: Uint8Array): { scale: number; codes: number[] }[] {
  const bytes = type === "q8_0" ? 34 : 18;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return Array.from({ length: data.length / bytes }, (_, block) => {
    const at = block * bytes;
    const codes = Array.from({ length: 32 }, (_, i) => {
      if (type === "q8_0") return view.getInt8(at + 2 + i);
      const two = view.getUint8(at + 2 + (i % 16));
      return (i < 16 ? two & 15 : two >> 4) - 8;
    });
    return { scale: f16ToNumber(view.getUint16(at, true)), codes };
  });
}

const toHex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

describe("blocks", () => {
  // Bytes of gguf.quants.quantize (the gguf package 0.19.0 of llama.cpp) for the same 64 numbers.
  test.each([
    [
      "q8_0",
      "f11f4f83b8ee24598dc3f82e6497cd03386ea2d70d4378ace2184d81b7ec22588bc1" +
        "0520f72c6197cc01366ba1d60b4075ace1164b81b6eb20558bc0f52a5f96cb00356a",
    ],
    ["q4_0", "e12f2d5093c7fa3e6194d80b3e71a5e81c4ffa2fd70b3e71a5d81b4f72b5e91c5f83b6f9"],
  ] as const)("%s has the bytes that llama.cpp's own tool writes", (type, bytes) => {
    expect(toHex((convert(values([1, 64], 5), type) as QuantizedMatrix).data)).toBe(bytes);
  });

  test("q8_0: the largest magnitude is 127, halves round away from 0", () => {
    const row = [-127, 126.5, 1.5, -1.5, 0.5, -0.5, 0.49, -0.49, 2.5, -2.5, ...new Array(22).fill(3)];
    expect(readBlocks("q8_0", quantize(row, "q8_0"))).toEqual([
      { scale: 1, codes: [-127, 127, 2, -2, 1, -1, 0, 0, 3, -3, ...new Array(22).fill(3)] },
    ]);
  });

  test.each([
    // [extreme, scale]; weights are what the code stands for times the scale
    [-8, 1],
    [8, -1],
  ])("q4_0: %d, the first of largest magnitude, is code −8; halves round up, and 8 is cut to 7", (extreme, scale) => {
    const [first, second] = [
      [-8, 7.4, 0.5, -0.5, 1.5, -1.5, 0, 7.5],
      [8, -7.6, -7.4, 3.2, -3.2, 6.5, -6.5, 0.2],
    ].map((eight) => [...eight, ...new Array(8).fill(0)].map((x) => x * scale));
    expect(first[0]).toBe(extreme);
    expect(readBlocks("q4_0", quantize([...first, ...second], "q4_0"))).toEqual([
      {
        scale,
        codes: [-8, 7, 1, 0, 2, -1, 0, 7, ...new Array(8).fill(0), 7, -8, -7, 3, -3, 7, -6, 0, ...new Array(8).fill(0)],
      },
    ]);
  });

  test.each(["q8_0", "q4_0", "int8"] as const)("%s: zeros, and numbers too small for a scale, become 0", (type) => {
    for (const x of [0, 1e-40]) {
      const matrix = convert(f32([1, 32], new Array(32).fill(x)), type);
      expect(Array.from(weightsToF32(matrix), Math.abs)).toEqual(new Array(32).fill(0));
    }
  });

  const numbers = fc.tuple(
    fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 96, maxLength: 96 }),
    fc.integer({ min: -12, max: 15 }),
  );

  test("q8_0 is within half a step of every weight, and the step is the largest over 127", () => {
    fc.assert(
      fc.property(numbers, ([unit, exponent]) => {
        const row = Float32Array.from(unit, (x) => x * 2 ** exponent);
        for (const [block, { scale, codes }] of readBlocks("q8_0", quantize(row, "q8_0")).entries()) {
          const weights = row.subarray(32 * block, 32 * block + 32);
          const step = Math.max(...weights.map(Math.abs)) / 127;
          expect(Math.abs(scale - step)).toBeLessThanOrEqual(step * 2 ** -11 + 2 ** -25);
          for (const [i, x] of weights.entries()) {
            expect(Math.abs(codes[i])).toBeLessThanOrEqual(127);
            expect(Math.abs(codes[i] * step - x)).toBeLessThanOrEqual(0.5 * step * (1 + 1e-4) + 2 ** -120);
          }
        }
      }),
      { numRuns: 40 },
    );
  });

  test("q4_0 is within half a step of every weight, or a whole one at the far end", () => {
    fc.assert(
      fc.property(numbers, ([unit, exponent]) => {
        const row = Float32Array.from(unit, (x) => x * 2 ** exponent);
        for (const [block, { scale, codes }] of readBlocks("q4_0", quantize(row, "q4_0")).entries()) {
          const weights = row.subarray(32 * block, 32 * block + 32);
          const largest = Math.max(...weights.map(Math.abs));
          const step = largest / 8;
          if (scale === 0) {
            expect(step).toBeLessThanOrEqual(2 ** -25);
            continue;
          }
          expect(Math.abs(Math.abs(scale) - step)).toBeLessThanOrEqual(step * 2 ** -11 + 2 ** -25);
          for (const [i, x] of weights.entries()) {
            const error = Math.abs(codes[i] * step * Math.sign(scale) - x);
            expect(error).toBeLessThanOrEqual((codes[i] === 7 ? 1 : 0.5) * step * (1 + 1e-4) + 2 ** -120);
          }
        }
      }),
      { numRuns: 40 },
    );
  });
});

test("int8 has a scale for each row, of any width", () => {
  const { data, scales } = convert(f32([2, 3], [-254, 3, 127, 0, 0.25, -0.5]), "int8") as QuantizedMatrix & {
    dtype: "int8";
  };
  expect(Array.from(new Int8Array(data.buffer))).toEqual([-127, 2, 64, 0, 64, -127]); // 1.5 and 63.5 are halves
  expect(Array.from(scales)).toEqual([2, Math.fround(0.5 / 127)]);
});

describe("conversions", () => {
  const source = values([3, 64], 2);
  const stored: [string, Tensor, Float32Array][] = [
    ["f64", tensor("f64", [3, 64], Float64Array.from(source.data)), source.data],
    ["f32", source, source.data],
    ...(
      [
        ["f16", numberToF16, f16ToNumber],
        ["bf16", numberToBf16, bf16ToNumber],
      ] as const
    ).map(([dtype, toBits, toNumber]): [string, Tensor, Float32Array] => {
      const bits = Uint16Array.from(source.data, toBits);
      return [dtype, tensor(dtype, [3, 64], bits), Float32Array.from(bits, toNumber)];
    }),
  ];

  test.each(stored)("from %s are those of its numbers", (_, matrix, numbers) => {
    expect(weightsToF32(matrix)).toEqual(numbers);
    for (const type of ["f32", "f16", "bf16", "int8", "q8_0", "q4_0"] as const) {
      expect(convert(matrix, type)).toEqual(convert(f32([3, 64], numbers), type));
    }
  });

  test.each([
    ["f32", 0],
    ["f16", 2 ** -12],
    ["bf16", 2 ** -9],
    ["int8", 1 / 254],
    ["q8_0", 1 / 254 + 2 ** -12],
    ["q4_0", 1 / 8 + 2 ** -12],
  ] as const)("to %s and back are near", (type, tolerance) => {
    expectClose(weightsToF32(convert(source, type)), source.data, tolerance);
  });

  test.each(["int8", "q8_0", "q4_0"] as const)("from %s to the same type keep every bit", (type) => {
    const matrix = convert(source, type);
    expect(convert(matrix, type)).toEqual(matrix);
  });

  test("from quantised to other types go through the numbers", () => {
    const matrix = convert(source, "q4_0");
    expect(convert(matrix, "q8_0")).toEqual(convert(f32([3, 64], weightsToF32(matrix)), "q8_0"));
  });
});

test.each([
  ["f32", 4 * 3 * 64],
  ["f16", 2 * 3 * 64],
  ["bf16", 2 * 3 * 64],
  ["int8", 3 * 64 + 3 * 4],
  ["q8_0", 3 * 2 * 34],
  ["q4_0", 3 * 2 * 18],
] as const)("the bytes of a matrix as %s", (type, bytes) => {
  expect(weightMatrixBytes(type, [3, 64])).toBe(bytes);
  const matrix = createMatrix("weight", type, [3, 64], allocate);
  expect(matrix.data.byteLength + ("scales" in matrix ? matrix.scales.byteLength : 0)).toBe(bytes);
});

describe("refusals", () => {
  const HINT = "The file is damaged, or its weights need a type of wider range: f32 or bf16.";
  const withWeight = (value: number): Tensor<"f32"> => {
    const t = values([3, 64], 1);
    t.data[64 + 37] = value;
    return t;
  };

  test.each([
    ["f16", 65520],
    ["f16", NaN],
    ["int8", Infinity],
    ["q8_0", NaN],
    ["q8_0", -8_330_000], // scale 65590
    ["q4_0", -Infinity],
    ["q4_0", 524_200], // scale −65525
  ] as const)("%s cannot hold %d", (type, value) => {
    expect(thrownBy(() => convert(withWeight(value), type))).toBe(
      `FormatError: weight: weights that ${type} can hold; got row=1, column=37, value=${Math.fround(value)}. ${HINT}`,
    );
  });

  test.each([
    [0x7c00, Infinity],
    [0xfc00, -Infinity],
    [0x7e01, Number.NaN],
  ])("f16 that are stored as f16 must be finite, unlike the bits %d", (bits, value) => {
    const halves = tensor("f16", [3, 64], new Uint16Array(3 * 64).fill(0x7bff)); // 65504, the largest there is
    expect(weightsToF32(convert(halves, "f16"))[64 + 37]).toBe(65504);
    halves.data[64 + 37] = bits;
    expect(thrownBy(() => convert(halves, "f16"))).toBe(
      `FormatError: weight: weights that f16 can hold; got row=1, column=37, value=${value}. ${HINT}`,
    );
  });

  test("f32 and bf16 take what is not finite", () => {
    for (const value of [NaN, Infinity]) {
      expect(weightsToF32(convert(withWeight(value), "bf16"))[64 + 37]).toBe(value);
    }
  });

  test.each([
    ["q4_0", [3, 33], "weight: a matrix [N, K], K a multiple of 32, to be kept as q4_0; got shape=[3,33]."],
    ["int8", [33], "weight: a matrix [N, K] to be kept as int8; got shape=[33]."],
  ] as const)("%s cannot have the shape %j", (type, shape, message) => {
    expect(() => createMatrix("weight", type, shape, allocate)).toThrow(message);
  });

  test("integers are no weights", () => {
    const integers = tensor("i32", [1, 2], Int32Array.of(1, 2));
    expect(() => convert(integers, "f32")).toThrow('weight: a floating-point matrix; got dtype="i32".');
  });
});

describe("interleaved rows", () => {
  test("lie four together, in pieces of four numbers", () => {
    const source = f32(
      [8, 8],
      Array.from({ length: 64 }, (_, i) => i),
    ); // row n holds 8n … 8n + 7
    const target = createMatrix("weight", "f32", [8, 8], allocate, true);
    convertWeights(target, source, "weight");
    const [a, b, c, d] = [0, 8, 16, 24].map((row) => [row, row + 1, row + 2, row + 3]);
    expect([...target.data.slice(0, 16)]).toEqual([...a, ...b, ...c, ...d]);
    expect([...target.data.slice(16, 32)]).toEqual([...a, ...b, ...c, ...d].map((x) => x + 4));
    expect([...target.data.slice(32, 36)]).toEqual([32, 33, 34, 35]);
    expect(weightsToF32(target)).toEqual(source.data);
  });

  test("are a source like any other", () => {
    const rows = values([4, 16], 3);
    const interleaved = createMatrix("weight", "f32", [4, 16], allocate, true);
    convertWeights(interleaved, rows, "weight");
    const back = createMatrix("weight", "f32", [4, 16], allocate);
    convertWeights(back, interleaved, "weight");
    expect(back.data).toEqual(rows.data);
    const again = createMatrix("weight", "f32", [4, 16], allocate, true);
    convertWeights(again, interleaved, "weight");
    expect(again.data).toEqual(interleaved.data);
  });

  test("are not for shapes without whole groups, nor for other types", () => {
    for (const [type, shape] of [
      ["f32", [5, 8]],
      ["f32", [4, 12]],
      ["bf16", [4, 8]],
    ] as const) {
      expect("interleaved" in createMatrix("weight", type, shape, allocate, true)).toBe(false);
    }
  });
});
