import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from "../../src/dtype.ts";
import type { WeightType } from "../../src/engine/wasm/kernels/weights.ts";
import { randomNumbers } from "./wasm-kernel.ts";

/** A weight in some type with the numbers it stands for, taken from the definition of the type. */
export type QuantizedWeight = {
  readonly bytes: Uint8Array;
  /** [rows, columns]. */
  readonly numbers: Float64Array;
  /** [rows]; int8 only. */
  readonly scales: Float32Array;
};

/** A made-up weight of any type. */
export function randomWeight(type: WeightType, rows: number, columns: number, seed: number): QuantizedWeight {
  const source = randomNumbers(rows * columns, seed);
  const scales = randomNumbers(rows, seed + 1).map((s) => 0.01 * (1.5 + s));
  const bytesOf = (array: Float32Array | Uint16Array | Int8Array): Uint8Array => new Uint8Array(array.buffer);
  switch (type) {
    case "f32":
      return { bytes: bytesOf(source), numbers: Float64Array.from(source), scales };
    case "f16": {
      const bits = Uint16Array.from(source, (x, i) => numberToF16(i % 5 === 0 ? x * 1e-6 : x)); // subnormals too
      return { bytes: bytesOf(bits), numbers: Float64Array.from(bits, f16ToNumber), scales };
    }
    case "bf16": {
      const bits = Uint16Array.from(source, numberToBf16);
      return { bytes: bytesOf(bits), numbers: Float64Array.from(bits, bf16ToNumber), scales };
    }
    case "int8": {
      const codes = Int8Array.from(source, (x) => Math.floor(128 * x)); // −128..127
      const numbers = Float64Array.from(codes, (code, i) => code * scales[Math.floor(i / columns)]);
      return { bytes: bytesOf(codes), numbers, scales };
    }
    case "q8_0":
    case "q4_0":
      return { ...randomBlocks(type, source), scales };
  }
}

/** Blocks of 32: an f16 scale, then 32 signed bytes (q8_0) or 16 bytes of two unsigned halves (q4_0). */
function randomBlocks(type: "q8_0" | "q4_0", source: Float32Array): { bytes: Uint8Array; numbers: Float64Array } {
  const blockBytes = type === "q8_0" ? 34 : 18;
  const bytes = new Uint8Array((source.length / 32) * blockBytes);
  const numbers = new Float64Array(source.length);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < source.length / 32; block++) {
    const start = block * blockBytes;
    const scale = numberToF16(source[32 * block] * 0.1); // of either sign
    view.setUint16(start, scale, true);
    for (let i = 0; i < 32; i++) {
      const x = source[32 * block + i];
      let code: number;
      if (type === "q8_0") {
        code = Math.floor(128 * x);
        view.setInt8(start + 2 + i, code);
      } else {
        const half = Math.floor(8 * (x + 1)); // 0..15
        bytes[start + 2 + (i % 16)] |= i < 16 ? half : half << 4;
        code = half - 8;
      }
      numbers[32 * block + i] = code * f16ToNumber(scale);
    }
  }
  return { bytes, numbers };
}
