/** Bytes of a snapshot as they come, cut anywhere: taken in pieces of known length, the rest handed on as it is. */

import { crc32 } from "../cache/crc32.ts";
import type { SnapshotChunks } from "../cache/index.ts";
import { type ErrorValues, FormatError } from "../errors.ts";

/** Reads from a stream without ever holding more than was asked for and the rest of a chunk. */
export class SnapshotBytes {
  readonly #name: string;
  readonly #chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);
  #byteOffset = 0;
  #crc = 0;

  constructor(name: string, chunks: SnapshotChunks) {
    this.#name = name;
    this.#chunks = Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]();
  }

  /** The next bytes; memory grows only with what has really come. */
  async take(length: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for (let missing = length; missing > 0; ) {
      if (this.#rest.length === 0 && !(await this.#more())) {
        throw this.error(`${missing} more bytes`, {}, "The file is truncated.");
      }
      const piece = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(piece.length);
      this.#byteOffset += piece.length;
      this.#crc = crc32(piece, this.#crc);
      missing -= piece.length;
      pieces.push(piece);
    }
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes;
  }

  /** @throws FormatError when the checksum that comes next is not that of everything before it */
  async checksum(): Promise<void> {
    const computed = this.#crc;
    const bytes = await this.take(4);
    const checksum = new DataView(bytes.buffer).getUint32(0, true);
    if (checksum !== computed) throw this.error("the checksum of the bytes before it", { checksum, computed });
  }

  /** Everything that was not taken. */
  async *rest(): AsyncGenerator<Uint8Array> {
    while (this.#rest.length > 0 || (await this.#more())) {
      const chunk = this.#rest;
      this.#rest = new Uint8Array(0);
      yield chunk;
    }
  }

  /** A refusal at the place reached. */
  error(expected: string, got: ErrorValues, hint = "The file is damaged."): FormatError {
    return new FormatError(this.#name, expected, { byteOffset: this.#byteOffset, ...got }, hint);
  }

  /** Lets the source go, whether it was read to its end or not. */
  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #more(): Promise<boolean> {
    const { done, value } = await this.#chunks.next();
    if (done) return false;
    this.#rest = value;
    return true;
  }
}
