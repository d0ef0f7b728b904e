import { expect, it } from "vitest";
import { ShapeError } from "./errors.ts";
import { byteSize, f32, reshape, rows, tensor, toF32, zeros } from "./tensor.ts";

it("rows share memory with the tensor they come from", () => {
  const t = f32([3, 2], [1, 2, 3, 4, 5, 6]);
  const middle = rows(t, 1, 2);
  expect(middle.shape).toEqual([1, 2]);
  middle.data[0] = 9;
  expect([...t.data]).toEqual([1, 2, 9, 4, 5, 6]);
});

it("reshape keeps the data and refuses another size", () => {
  const t = zeros("i32", [2, 3]);
  expect(reshape(t, [3, 2]).data).toBe(t.data);
  expect(() => reshape(t, [7])).toThrow(
    "tensor: data length must equal the product of the shape; got length=6, shape=[7].",
  );
});

it("a tensor is refused when its data has another array type", () => {
  expect(() => tensor("f32", [1], new Float64Array(1) as never)).toThrow(
    'tensor: data of dtype f32 has another array type; got array="[object Float64Array]".',
  );
});

it("a tensor is refused when an extent is negative or fractional", () => {
  expect(() => zeros("f32", [2, -1])).toThrow(ShapeError);
  expect(() => tensor("f32", [0.5, 2], new Float32Array(1))).toThrow(ShapeError);
});

it("rows outside the first axis are refused", () => {
  expect(() => rows(zeros("f32", [3]), 2, 4)).toThrow(
    "rows: 0 <= start <= end <= shape[0]; got start=2, end=4, shape=[3].",
  );
});

it("sixteen-bit floats convert to f32, f32 is not copied, integers are refused", () => {
  expect([...toF32(tensor("f16", [2], Uint16Array.of(0x3c00, 0xc000)))]).toEqual([1, -2]);
  expect([...toF32(tensor("bf16", [2], Uint16Array.of(0x3f80, 0xc000)))]).toEqual([1, -2]);
  const t = f32([1], [3]);
  expect(toF32(t)).toBe(t.data);
  expect(() => toF32(zeros("i32", [1]))).toThrow('toF32: a floating-point tensor; got dtype="i32".');
});

it("byte size counts elements times their width", () => {
  expect(byteSize(zeros("bf16", [3, 5]))).toBe(30);
  expect(byteSize(zeros("f64", []))).toBe(8);
});
