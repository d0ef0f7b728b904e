/**
 * The one reader of untrusted bytes (weight files, snapshots): little endian, bounds-checked, no allocation that the
 * bytes do not pay for.
 */

import { type ErrorValues, FormatError } from "./errors.ts";

const TRUNCATED = "The file is truncated or damaged.";

/** Reads a byte range from its start to its end. Every refusal is a FormatError with `got.byteOffset`. */
export class ByteReader {
  /** The name of the file, for messages. */
  readonly where: string;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #baseOffset: number;
  #position = 0;

  /**
   * @param where - the name of the file, for messages
   * @param bytes - what to read; not copied
   * @param baseOffset - where `bytes` starts in the file, in bytes, so that messages name the place in the file
   */
  constructor(where: string, bytes: Uint8Array, baseOffset = 0) {
    this.where = where;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#baseOffset = baseOffset;
  }

  /** Bytes of the whole range. */
  get length(): number {
    return this.#bytes.byteLength;
  }

  /** Bytes read so far; where the next read starts within the range. */
  get position(): number {
    return this.#position;
  }

  /** Where the next read starts within the file, in bytes. */
  get byteOffset(): number {
    return this.#baseOffset + this.#position;
  }

  /** Bytes not read yet. */
  get remaining(): number {
    return this.length - this.#position;
  }

  u8(): number {
    return this.#view.getUint8(this.#advance(1, "u8"));
  }

  u16(): number {
    return this.#view.getUint16(this.#advance(2, "u16"), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#advance(4, "u32"), true);
  }

  /** An unsigned 64-bit integer; refused beyond 2^53 − 1, where numbers stop being exact. */
  u64(): number {
    return this.#exact(this.#view.getBigUint64(this.#advance(8, "u64"), true), "u64");
  }

  i8(): number {
    return this.#view.getInt8(this.#advance(1, "i8"));
  }

  i16(): number {
    return this.#view.getInt16(this.#advance(2, "i16"), true);
  }

  i32(): number {
    return this.#view.getInt32(this.#advance(4, "i32"), true);
  }

  /** A signed 64-bit integer; refused beyond ±(2^53 − 1), where numbers stop being exact. */
  i64(): number {
    return this.#exact(this.#view.getBigInt64(this.#advance(8, "i64"), true), "i64");
  }

  f32(): number {
    return this.#view.getFloat32(this.#advance(4, "f32"), true);
  }

  f64(): number {
    return this.#view.getFloat64(this.#advance(8, "f64"), true);
  }

  /**
   * A u64 that counts items which follow, refused when the bytes left cannot hold that many.
   *
   * @param what - what is counted, for messages ("tensors")
   * @param minBytesPerItem - the fewest bytes one item takes, at least 1
   */
  count(what: string, minBytesPerItem: number): number {
    const count = this.u64();
    if (count > this.remaining / minBytesPerItem) {
      this.#position -= 8;
      throw this.error(
        `the ${what} must fit the bytes that follow`,
        { count, remaining: this.remaining - 8 },
        TRUNCATED,
      );
    }
    return count;
  }

  /** The next `length` bytes, sharing memory. */
  bytes(length: number): Uint8Array {
    const start = this.#advance(length, "bytes");
    return this.#bytes.subarray(start, start + length);
  }

  /** The next `length` bytes as text; invalid UTF-8 is refused, a byte order mark is kept. */
  utf8(length: number): string {
    const start = this.#position;
    const bytes = this.bytes(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      this.#position = start;
      throw this.error("valid UTF-8", { length }, "The file is damaged.");
    }
  }

  /** A reader of the next `length` bytes alone; this one moves past them. */
  range(length: number): ByteReader {
    const baseOffset = this.byteOffset;
    return new ByteReader(this.where, this.bytes(length), baseOffset);
  }

  /** Moves past `length` bytes. */
  skip(length: number): void {
    this.#advance(length, "bytes");
  }

  /** Moves to the next multiple of `alignment` bytes from the start of the file. */
  align(alignment: number): void {
    this.skip((alignment - (this.byteOffset % alignment)) % alignment);
  }

  /** Moves to `position` bytes from the start of the range. */
  seek(position: number): void {
    if (!Number.isSafeInteger(position) || position < 0 || position > this.length) {
      throw this.error("a position within the range", { position, length: this.length }, TRUNCATED);
    }
    this.#position = position;
  }

  /** An error at the current place, for the caller to throw. */
  error(expected: string, got: ErrorValues = {}, hint = ""): FormatError {
    return new FormatError(this.where, expected, { byteOffset: this.byteOffset, ...got }, hint);
  }

  /** Checks that `length` bytes are left and moves past them; returns where they start. */
  #advance(length: number, what: string): number {
    if (!Number.isSafeInteger(length) || length < 0 || length > this.remaining) {
      throw this.error(`${length} more bytes (${what})`, { remaining: this.remaining }, TRUNCATED);
    }
    const start = this.#position;
    this.#position += length;
    return start;
  }

  #exact(value: bigint, what: string): number {
    const number = Number(value);
    if (Number.isSafeInteger(number)) return number;
    this.#position -= 8;
    throw this.error(`a ${what} within ±(2^53 − 1)`, { value }, "The file is damaged.");
  }
}
