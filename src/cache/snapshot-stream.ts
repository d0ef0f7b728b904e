/**
 * A snapshot's bytes as they flow: put together with checksums, and taken apart again, a block at a time.
 */

import { ByteReader } from "../byte-reader.ts";
import { FormatError } from "../errors.ts";
import { crc32 } from "./crc32.ts";

/** Bytes that follow each other, each where it lies. */
export type Pieces = readonly Uint8Array[];

/** Makes chunks with their checksums. */
export class SnapshotWriter {
  #crc = 0;

  /** The pieces in one chunk, followed by the checksum of everything so far. */
  seal(pieces: Pieces): Uint8Array {
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    const chunk = new Uint8Array(length + 4);
    let at = 0;
    for (const piece of pieces) {
      chunk.set(piece, at);
      at += piece.length;
    }
    this.#crc = crc32(chunk.subarray(0, length), this.#crc);
    new DataView(chunk.buffer).setUint32(length, this.#crc, true);
    return chunk;
  }
}

/** Reads chunks cut anywhere, without ever holding more than was asked for and the rest of a chunk. */
export class SnapshotReader {
  readonly #name: string;
  readonly #chunks: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);
  #byteOffset = 0;
  #crc = 0;

  constructor(name: string, chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) {
    this.#name = name;
    this.#chunks = Symbol.asyncIterator in chunks ? chunks[Symbol.asyncIterator]() : chunks[Symbol.iterator]();
  }

  /** The next bytes. */
  async read(length: number): Promise<ByteReader> {
    const start = this.#byteOffset;
    const bytes = await this.#take(length);
    this.#crc = crc32(bytes, this.#crc);
    return new ByteReader(this.#name, bytes, start);
  }

  /**
   * The next bytes, which a checksum follows.
   *
   * @throws FormatError when it does not fit
   */
  async sealed(length: number): Promise<ByteReader> {
    const reader = await this.read(length);
    const byteOffset = this.#byteOffset;
    const found = new ByteReader(this.#name, await this.#take(4), byteOffset).u32();
    if (found === this.#crc) return reader;
    throw new FormatError(
      this.#name,
      "the checksum of the bytes before it",
      { byteOffset, checksum: found, computed: this.#crc },
      "The file is damaged.",
    );
  }

  /** @throws FormatError when something follows */
  async end(): Promise<void> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done) return;
      this.#rest = value;
    }
    throw new FormatError(this.#name, "the end of the snapshot", { byteOffset: this.#byteOffset });
  }

  /** Lets the source go, whether it was read to its end or not. */
  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #take(length: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for (let missing = length; missing > 0; ) {
      if (this.#rest.length === 0) {
        const { done, value } = await this.#chunks.next();
        if (done) {
          throw new FormatError(
            this.#name,
            `${missing} more bytes`,
            { byteOffset: this.#byteOffset },
            "The file is truncated.",
          );
        }
        this.#rest = value;
        continue;
      }
      const piece = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(piece.length);
      this.#byteOffset += piece.length;
      missing -= piece.length;
      pieces.push(piece);
    }
    if (pieces.length === 1) return pieces[0];
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes;
  }
}
