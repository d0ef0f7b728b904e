/** Writes the safetensors format. */

import { bytesPerElement, type DType } from "../../dtype.ts";
import { ConfigError } from "../../errors.ts";
import { byteSize, type Tensor } from "../../tensor.ts";
import { allocateBytes } from "./source.ts";

const NAMES: Readonly<Record<DType, string>> = {
  f64: "F64",
  f32: "F32",
  f16: "F16",
  bf16: "BF16",
  i64: "I64",
  i32: "I32",
  i16: "I16",
  i8: "I8",
  u8: "U8",
};

const WHERE = "writeSafetensors";
const LENGTH_BYTES = 8;

/**
 * Makes a safetensors file. The same tensors and metadata give the same bytes, whatever their order: wide element types
 * come first, then names in code unit order, so that every tensor is aligned to its elements.
 *
 * @param tensors - the tensors by name: a Map, or the entries of an object
 * @param metadata - strings to keep in the header
 * @returns the whole file
 * @throws ConfigError for a name given twice, and for the reserved name `__metadata__`
 * @see https://github.com/huggingface/safetensors#format
 */
export function writeSafetensors(
  tensors: Iterable<readonly [string, Tensor]>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const sorted = [...tensors].sort(([nameA, a], [nameB, b]) => {
    return bytesPerElement(b.dtype) - bytesPerElement(a.dtype) || compare(nameA, nameB);
  });
  const seen = new Set(["__metadata__"]);
  const entries: string[] = [];
  if (Object.keys(metadata).length > 0) {
    const inOrder = Object.entries(metadata).sort(([a], [b]) => compare(a, b));
    const fields = inOrder.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
    entries.push(`"__metadata__":{${fields.join(",")}}`);
  }
  let dataBytes = 0;
  for (const [name, { dtype, shape }, byteLength] of sorted.map(([n, t]) => [n, t, byteSize(t)] as const)) {
    if (seen.has(name)) throw new ConfigError(WHERE, "names that are unique and not __metadata__", { name });
    seen.add(name);
    const entry = { dtype: NAMES[dtype], shape, data_offsets: [dataBytes, dataBytes + byteLength] };
    entries.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    dataBytes += byteLength;
  }

  const json = new TextEncoder().encode(`{${entries.join(",")}}`);
  const headerBytes = Math.ceil(json.byteLength / 8) * 8; // padded with spaces
  const file = allocateBytes(WHERE, LENGTH_BYTES + headerBytes + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.set(json, LENGTH_BYTES);
  file.fill(0x20, LENGTH_BYTES + json.byteLength, LENGTH_BYTES + headerBytes);
  let position = LENGTH_BYTES + headerBytes;
  for (const [, { data }] of sorted) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position);
    position += data.byteLength;
  }
  return file;
}

function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
