/**
 * Reads the safetensors format: the header's length (u64), a JSON header, then the tensors' bytes without gaps.
 *
 * @see https://github.com/huggingface/safetensors#format
 */

import { ByteReader } from "../../byte-reader.ts";
import { bytesPerElement, type DType, viewBytes } from "../../dtype.ts";
import { FormatError } from "../../errors.ts";
import { sizeOf, type Tensor, tensor } from "../../tensor.ts";
import type { WeightSource } from "./source.ts";
import { type JsonLimits, parseStrictJson } from "./strict-json.ts";

/** What the header says of one tensor. */
export type TensorInfo = {
  /** Element type of what `read` returns; `undefined` for a type that Phasor cannot hold. */
  readonly dtype: DType | undefined;
  /** The element type's name in the file, such as "BF16". */
  readonly storedDType: string;
  readonly shape: readonly number[];
  /** Where the values start in the file, in bytes. */
  readonly byteOffset: number;
  /** Bytes of the values. */
  readonly byteLength: number;
};

/** An open safetensors file. */
export interface SafetensorsFile {
  /** The strings of `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** The tensors by name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /**
   * Reads one tensor.
   *
   * @param signal - stops reading; the promise then rejects with its reason
   * @throws FormatError when there is no such tensor, the file is truncated, or the element type has no DType
   */
  read(name: string, signal?: AbortSignal): Promise<Tensor>;
}

/** The element types that can be read, by their names in the file. BOOL is read as 0 and 1 in u8. */
const DTYPES: ReadonlyMap<string, DType> = new Map([
  ["F64", "f64"],
  ["F32", "f32"],
  ["F16", "f16"],
  ["BF16", "bf16"],
  ["I64", "i64"],
  ["I32", "i32"],
  ["I16", "i16"],
  ["I8", "i8"],
  ["U8", "u8"],
  ["BOOL", "u8"],
]);

const LENGTH_BYTES = 8;
/** The reference implementation allows 100 MB, which takes many seconds to parse. */
const MAX_HEADER_BYTES = 2 ** 24;
/** Names over fields over lists of numbers; with four keys each, 65,000 tensors. */
const HEADER_LIMITS: JsonLimits = { maxDepth: 3, maxKeys: 2 ** 18 };
const DAMAGED = "The file is damaged.";
const TRUNCATED = "The file is truncated or damaged; download it again.";

/**
 * Opens a safetensors file: reads and checks its header, and no tensor.
 *
 * A tensor of an element type that Phasor cannot hold (an 8-bit float, say) is refused when it is read and not before,
 * since files carry buffers that the model never asks for.
 *
 * @param source - the file
 * @param signal - stops reading; the promise then rejects with its reason
 * @throws FormatError with `got.byteOffset` when the header is damaged or does not describe the file exactly
 */
export async function openSafetensors(source: WeightSource, signal?: AbortSignal): Promise<SafetensorsFile> {
  const fileSize = await source.size();
  const start = new ByteReader(source.name, await source.read(0, Math.min(LENGTH_BYTES, fileSize), signal));
  const headerBytes = start.u64();
  if (headerBytes > fileSize - LENGTH_BYTES) {
    throw new FormatError(source.name, "a header within the file", { byteOffset: 0, headerBytes, fileSize }, TRUNCATED);
  }
  if (headerBytes > MAX_HEADER_BYTES) {
    const got = { byteOffset: 0, headerBytes };
    throw new FormatError(source.name, `a header of at most ${MAX_HEADER_BYTES} bytes`, got, DAMAGED);
  }
  const dataStart = LENGTH_BYTES + headerBytes;
  const header = new ByteReader(source.name, await source.read(LENGTH_BYTES, headerBytes, signal), LENGTH_BYTES);
  const { metadata, tensors } = parseHeader(source.name, header.utf8(headerBytes), dataStart, fileSize);

  const read = async (name: string, readSignal?: AbortSignal): Promise<Tensor> => {
    const info = tensors.get(name);
    if (info === undefined) throw new FormatError(source.name, `a tensor ${JSON.stringify(name)}`);
    return readTensor(source, name, info, readSignal);
  };
  return { metadata, tensors, read };
}

function parseHeader(
  where: string,
  text: string,
  dataStart: number,
  fileSize: number,
): { metadata: Map<string, string>; tensors: Map<string, TensorInfo> } {
  const json = parseStrictJson(where, text, LENGTH_BYTES, HEADER_LIMITS);
  const metadata = new Map<string, string>();
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of json.entries()) {
    const refuse = (expected: string, got: Record<string, unknown>, hint = DAMAGED): never => {
      throw new FormatError(where, expected, { byteOffset: json.byteOffsetOf(name), name, ...got }, hint);
    };
    if (!isObject(entry)) refuse("an object for every name of the header", { value: entry });
    const fields = entry as Record<string, unknown>;
    if (name === "__metadata__") {
      for (const [key, value] of Object.entries(fields)) {
        if (typeof value !== "string") refuse("strings as metadata", { key, value });
        metadata.set(key, value as string);
      }
    } else {
      tensors.set(name, parseEntry(fields, dataStart, fileSize, refuse));
    }
  }
  checkLayout(where, tensors, dataStart, fileSize, json.byteOffsetOf);
  return { metadata, tensors };
}

function parseEntry(
  fields: Record<string, unknown>,
  dataStart: number,
  fileSize: number,
  refuse: (expected: string, got: Record<string, unknown>, hint?: string) => never,
): TensorInfo {
  const { dtype: storedDType, shape, data_offsets: offsets } = fields;
  if (typeof storedDType !== "string") return refuse("a dtype name", { dtype: storedDType });
  if (!isExtents(shape)) return refuse("a shape of non-negative integers", { shape });
  if (!isExtents(offsets) || offsets.length !== 2) return refuse("two data_offsets", { data_offsets: offsets });
  const [begin, end] = offsets as [number, number];
  const dataBytes = fileSize - dataStart;
  if (begin > end) refuse("data_offsets in order", { data_offsets: offsets });
  if (end > dataBytes) refuse("data_offsets within the file", { data_offsets: offsets, dataBytes }, TRUNCATED);

  const byteLength = end - begin;
  const dtype = DTYPES.get(storedDType);
  const elements = productOf(shape);
  if (dtype === undefined) {
    // The size of the element is unknown, but is at least one bit.
    if (elements > 8 * byteLength) refuse("a shape that the bytes can hold", { shape, bytes: byteLength });
  } else if (elements * bytesPerElement(dtype) !== byteLength) {
    refuse("as many bytes as shape and dtype need", { shape, dtype: storedDType, bytes: byteLength });
  }
  return { dtype, storedDType, shape, byteOffset: dataStart + begin, byteLength };
}

/** The tensors must fill the file from the header to its end: no overlap, no hole, nothing after the last. */
function checkLayout(
  where: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  dataStart: number,
  fileSize: number,
  byteOffsetOf: (name: string) => number,
): void {
  const inFileOrder = [...tensors].sort(
    ([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength, // an empty tensor comes first
  );
  let end = dataStart;
  for (const [name, info] of inFileOrder) {
    if (info.byteOffset !== end) {
      const expected = info.byteOffset < end ? "tensors that do not overlap" : "tensors without unused bytes between";
      const got = { byteOffset: byteOffsetOf(name), name, start: info.byteOffset, previousEnd: end };
      throw new FormatError(where, expected, got, DAMAGED);
    }
    end += info.byteLength;
  }
  if (end !== fileSize) {
    throw new FormatError(where, "the file to end with its last tensor", { byteOffset: end, fileSize }, DAMAGED);
  }
}

async function readTensor(
  source: WeightSource,
  name: string,
  info: TensorInfo,
  signal: AbortSignal | undefined,
): Promise<Tensor> {
  const { dtype, storedDType, shape, byteOffset, byteLength } = info;
  if (dtype === undefined) {
    const hint = `Convert the tensor to one of ${[...DTYPES.keys()].join(", ")}.`;
    throw new FormatError(source.name, "a supported dtype", { byteOffset, name, dtype: storedDType }, hint);
  }
  const bytes = await source.read(byteOffset, byteLength, signal);
  const aligned = bytes.byteOffset % bytesPerElement(dtype) === 0 ? bytes : bytes.slice();
  return tensor(dtype, shape, viewBytes(dtype, aligned.buffer, aligned.byteOffset, sizeOf(shape))) as Tensor;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isExtents(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

/** The product of the extents; Infinity once a step is not exact, so that it equals no number of bytes. */
function productOf(shape: readonly number[]): number {
  let product = 1;
  for (const extent of shape) {
    product *= extent;
    if (product > Number.MAX_SAFE_INTEGER) return Infinity;
  }
  return product;
}
