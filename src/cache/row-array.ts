/**
 * Rows of numbers in a cache's memory, as f32 or quantised.
 *
 * A row has one unit for each head. Units are stored bit for bit the same wherever they lie, so moving one from slot
 * to slot, page to page or cache to cache changes nothing.
 *
 * | elements | parts of a unit                               |
 * |----------|-----------------------------------------------|
 * | f32      | D numbers                                     |
 * | int8     | D codes; a scale                              |
 * | int4     | ceil(D / 2) bytes of two codes each; a scale  |
 *
 * Two kinds of methods: those that issue to the memory (`put`, `copyRows` when told so) take effect in order with
 * the steps of a decoder; all others read and write at once, and must wait until everything issued has taken effect.
 */

import { dequantizeKv, type KvStore, type QuantizedKv, quantizationLimit } from "../attention/index.ts";
import { roundHalfToEven } from "../dtype.ts";
import { type Tensor, tensor, zeros } from "../tensor.ts";
import type { KvMemory } from "./cache.ts";
import type { CacheElements } from "./layer-spec.ts";

/** Whether a copy is issued to the memory, in order with other work, or done at once by the host. */
export type CopyMode = "issue" | "host";

type Part = {
  /** Whole words; the last may be used in part. */
  readonly words: Tensor<"f32">;
  readonly bytes: Uint8Array;
  readonly unitBytes: number;
};

/** [capacity, heads, dim] numbers. */
export class RowArray {
  readonly elements: CacheElements;
  readonly capacity: number;
  readonly heads: number;
  readonly dim: number;
  readonly #memory: KvMemory;
  readonly #parts: readonly Part[];

  constructor(
    memory: KvMemory,
    elements: CacheElements,
    shape: readonly [capacity: number, heads: number, dim: number],
  ) {
    const [capacity, heads, dim] = shape;
    this.#memory = memory;
    this.elements = elements;
    this.capacity = capacity;
    this.heads = heads;
    this.dim = dim;
    const parts: Part[] = [];
    try {
      for (const bytes of partBytes(elements, dim)) parts.push(this.#allocate(bytes));
    } catch (error) {
      for (const { words } of parts) memory.release(words);
      throw error;
    }
    this.#parts = parts;
  }

  /** Bytes taken from the memory. */
  get allocatedBytes(): number {
    return this.#parts.reduce((sum, { words }) => sum + words.data.byteLength, 0);
  }

  release(): void {
    if (this.capacity === 0) return;
    for (const { words } of this.#parts) this.#memory.release(words);
  }

  /**
   * Issues the storing of rows from `row` on.
   *
   * @param x - [T, heads, dim], or with `head` [T, H, dim], of which that one is stored
   */
  put(row: number, x: Tensor<"f32">, head?: number): void {
    const target = this.slice(row, x.shape[0], [x.shape[0]]);
    if ("codes" in target) this.#memory.quantize?.(target, x, head);
    else this.#memory.copy(target as Tensor<"f32">, x, head);
  }

  /** Copies `count` rows of an array of the same kind. Issued copies must start at whole words. */
  copyRows(source: RowArray, from: number, to: number, count: number, mode: CopyMode): void {
    this.#parts.forEach((part, p) => {
      const other = source.#parts[p];
      const rowBytes = this.heads * part.unitBytes;
      if (mode === "host") {
        part.bytes.set(other.bytes.subarray(from * rowBytes, (from + count) * rowBytes), to * rowBytes);
        return;
      }
      const length = Math.ceil((count * rowBytes) / 4);
      const words = ({ words: { data } }: Part, row: number): Tensor<"f32"> =>
        tensor("f32", [length], data.subarray((row * rowBytes) / 4, (row * rowBytes) / 4 + length));
      this.#memory.copy(words(part, to), words(other, from));
    });
  }

  /** Copies units; unit r·heads + h is head h of row r. The source may be this array. */
  copyUnits(source: RowArray, from: number, to: number, count: number): void {
    this.#parts.forEach(({ bytes, unitBytes }, p) => {
      const start = from * unitBytes;
      bytes.set(source.#parts[p].bytes.subarray(start, start + count * unitBytes), to * unitBytes);
    });
  }

  /**
   * Copies a unit channel by channel, codes and scale as they are.
   *
   * @param channels - [dim] the source's channel that each channel is; −1: it becomes 0
   */
  copyChannels(source: RowArray, from: number, to: number, channels: Int32Array): void {
    const [numbers, scales] = this.#parts;
    const [given, givenScales] = source.#parts;
    if (this.elements === "f32") {
      const [target, x] = [numbers.words.data, given.words.data];
      channels.forEach((channel, d) => {
        target[to * this.dim + d] = channel < 0 ? 0 : x[from * source.dim + channel];
      });
      return;
    }
    const unit = given.bytes.subarray(from * given.unitBytes, (from + 1) * given.unitBytes);
    const target = numbers.bytes.subarray(to * numbers.unitBytes, (to + 1) * numbers.unitBytes).fill(0);
    channels.forEach((channel, d) => {
      if (channel < 0) return;
      if (this.elements === "int8") target[d] = unit[channel];
      else target[d >> 1] |= ((unit[channel >> 1] >> (channel % 2 === 0 ? 0 : 4)) & 0xf) << (d % 2 === 0 ? 0 : 4);
    });
    scales.words.data[to] = givenScales.words.data[from];
  }

  /** The bytes of rows, part by part, in place. */
  bytesOf(row: number, count: number): Uint8Array[] {
    return this.#parts.map(({ bytes, unitBytes }) => {
      const rowBytes = this.heads * unitBytes;
      return bytes.subarray(row * rowBytes, (row + count) * rowBytes);
    });
  }

  /** The numbers of rows, f32 [count · heads · dim]: the stored ones for f32, a copy otherwise. */
  load(row: number, count: number): Float32Array {
    const stored = this.slice(row, count, [count]);
    return "codes" in stored ? dequantizeKv(stored).data : (stored.data as Float32Array);
  }

  /** Stores numbers of rows, f32 [count · heads · dim]. Numbers that `load` gave come back as the same codes. */
  save(row: number, count: number, numbers: Float32Array): void {
    const stored = this.slice(row, count, [count]);
    if ("codes" in stored) requantizeInto(stored, numbers);
    else if (stored.data.byteOffset !== numbers.byteOffset || stored.data.buffer !== numbers.buffer) {
      (stored.data as Float32Array).set(numbers);
    }
  }

  /** Rows as attention sees them: [...outer, heads, dim] over `count` rows, sharing memory. */
  slice(row: number, count: number, outer: readonly number[]): KvStore {
    const { heads, dim, elements } = this;
    const shape = [...outer, heads, dim];
    const [numbers, scales] = this.#parts;
    const units = (t: Tensor<"f32">, width: number): Float32Array =>
      t.data.subarray(row * heads * width, (row + count) * heads * width);
    if (elements === "f32") return tensor("f32", shape, units(numbers.words, dim));
    const codes = numbers.bytes.subarray(row * heads * numbers.unitBytes, (row + count) * heads * numbers.unitBytes);
    return {
      bits: elements === "int8" ? 8 : 4,
      axis: "dkv",
      shape,
      codes:
        elements === "int8"
          ? tensor("i8", shape, new Int8Array(codes.buffer, codes.byteOffset, codes.length))
          : tensor("u8", [...outer, heads, numbers.unitBytes], codes),
      scales: tensor("f32", [...outer, heads, 1], units(scales.words, 1)),
    };
  }

  #allocate(unitBytes: number): Part {
    const words = Math.ceil((this.capacity * this.heads * unitBytes) / 4);
    const shape = [words];
    const t = words === 0 ? zeros("f32", shape) : this.#memory.allocate(shape);
    return { words: t, bytes: new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength), unitBytes };
  }
}

/** Bytes of an array of so many units. */
export function arrayBytes(elements: CacheElements, units: number, dim: number): number {
  return partBytes(elements, dim).reduce((sum, bytes) => sum + 4 * Math.ceil((units * bytes) / 4), 0);
}

function partBytes(elements: CacheElements, dim: number): readonly number[] {
  if (elements === "f32") return [4 * dim];
  return [elements === "int8" ? dim : Math.ceil(dim / 2), 4];
}

/**
 * As `quantizeKv`, but for numbers that are quantised again and again. The largest magnitude has the code 127 or 7
 * exactly, so that numbers which come from codes give the same codes; and the scale keeps the length of the vector, so
 * that rounding cannot make it grow.
 */
function requantizeInto({ bits, shape, codes, scales }: QuantizedKv, numbers: Float32Array): void {
  const limit = quantizationLimit(bits);
  const largestCode = bits === 8 ? 127 : 7;
  const depth = shape.at(-1) as number;
  const width = codes.shape.at(-1) as number; // bytes of a unit
  codes.data.fill(0);
  for (let unit = 0; unit < scales.data.length; unit++) {
    const x = numbers.subarray(unit * depth, (unit + 1) * depth);
    let largest = 0;
    for (let d = 0; d < depth; d++) largest = Math.max(largest, Math.abs(x[d]));
    scales.data[unit] = 0;
    if (largest === 0) continue;
    let squares = 0;
    let codeSquares = 0;
    for (let d = 0; d < depth; d++) {
      const code = roundHalfToEven((x[d] / largest) * largestCode);
      squares += x[d] ** 2;
      codeSquares += code ** 2;
      if (bits === 8) codes.data[unit * width + d] = code;
      else codes.data[unit * width + (d >> 1)] |= (code & 0xf) << (d % 2 === 0 ? 0 : 4);
    }
    scales.data[unit] = limit * Math.sqrt(squares / codeSquares);
  }
}
