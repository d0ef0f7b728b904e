import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ByteReader } from "./byte-reader.ts";
import { FormatError } from "./errors.ts";

function reader(...bytes: number[]): ByteReader {
  return new ByteReader("a.bin", Uint8Array.from(bytes));
}

describe("ByteReader", () => {
  test("reads little-endian integers of every width", () => {
    expect(reader(0xfe).u8()).toBe(254);
    expect(reader(0xfe).i8()).toBe(-2);
    expect(reader(0x01, 0x80).u16()).toBe(0x8001);
    expect(reader(0x01, 0x80).i16()).toBe(-32767);
    expect(reader(0x01, 0x02, 0x03, 0x80).u32()).toBe(0x80030201);
    expect(reader(0x01, 0x02, 0x03, 0x80).i32()).toBe(0x80030201 - 2 ** 32);
    expect(reader(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x00).u64()).toBe(2 ** 53 - 1);
    expect(reader(0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff).i64()).toBe(-3);
  });

  test("reads floats", () => {
    expect(reader(0x00, 0x00, 0xc0, 0x3f).f32()).toBe(1.5);
    expect(reader(0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0xc0).f64()).toBe(-2.5);
  });

  test("reads text, bytes and ranges one after another, and knows where it is", () => {
    const whole = new ByteReader("a.bin", Uint8Array.from([0xc3, 0xa9, 7, 8, 9, 10, 11]), 1000);
    expect(whole.utf8(2)).toBe("é");
    expect([...whole.bytes(1)]).toEqual([7]);
    const range = whole.range(3);
    expect([range.byteOffset, range.length, range.u8()]).toEqual([1003, 3, 8]);
    expect([whole.byteOffset, whole.position, whole.remaining]).toEqual([1006, 6, 1]);
    expect(() => range.u32()).toThrow(
      "a.bin: 4 more bytes (u32); got byteOffset=1004, remaining=2. The file is truncated or damaged.",
    );
  });

  test("aligns to the start of the file, not of the range", () => {
    const range = new ByteReader("a.bin", new Uint8Array(16), 5);
    range.align(8);
    expect(range.byteOffset).toBe(8);
    range.align(8);
    expect(range.byteOffset).toBe(8);
    range.seek(0);
    range.skip(4);
    expect(range.byteOffset).toBe(9);
  });

  test("reads bytes that start anywhere in a buffer", () => {
    const bytes = Uint8Array.from([9, 9, 9, 1, 2, 3, 4]).subarray(3);
    expect(new ByteReader("a.bin", bytes).u32()).toBe(0x04030201);
  });

  test.each([
    ["u64", [0, 0, 0, 0, 0, 0, 0x20, 0], "9007199254740992"],
    ["u64", [255, 255, 255, 255, 255, 255, 255, 255], "18446744073709551615"],
    ["i64", [0, 0, 0, 0, 0, 0, 0, 0x80], "-9223372036854775808"],
  ] as const)("a %s beyond 2^53 is refused: %j", (method, bytes, value) => {
    expect(() => reader(...bytes)[method]()).toThrow(
      `a.bin: a ${method} within ±(2^53 − 1); got byteOffset=0, value=${value}. The file is damaged.`,
    );
  });

  test("a count that the bytes left cannot hold is refused, one that they just hold is not", () => {
    const bytes = [3, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3];
    expect(reader(...bytes).count("pairs", 2)).toBe(3);
    expect(() => reader(...bytes.slice(0, -1)).count("pairs", 2)).toThrow(
      "a.bin: the pairs must fit the bytes that follow; got byteOffset=0, count=3, remaining=5. " +
        "The file is truncated or damaged.",
    );
  });

  test.each([-1, 1.5, Number.NaN, 5, 2 ** 60])("a length of %d in 4 bytes is refused", (length) => {
    const bytes = reader(1, 2, 3, 4);
    for (const read of [bytes.bytes, bytes.utf8, bytes.range, bytes.skip, bytes.seek]) {
      expect(() => read.call(bytes, length)).toThrow(FormatError);
    }
    expect(bytes.position).toBe(0);
  });

  test("invalid UTF-8 is refused and a byte order mark kept", () => {
    expect(() => reader(65, 0xc3, 66).utf8(3)).toThrow(
      "a.bin: valid UTF-8; got byteOffset=0, length=3. The file is damaged.",
    );
    expect(reader(0xef, 0xbb, 0xbf, 65).utf8(4)).toBe("\ufeffA");
  });

  test("any reads of any bytes end in values or in a FormatError with a byte offset within the file", () => {
    const methods = ["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64"] as const;
    const sized = ["utf8", "bytes", "skip", "range", "seek"] as const;
    const step = fc.oneof(
      fc.record({ method: fc.constantFrom(...methods) }),
      fc.record({ method: fc.constantFrom(...sized), size: fc.integer({ min: -1, max: 12 }) }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.array(step), (bytes, steps) => {
        const source = new ByteReader("a.bin", bytes, 100);
        try {
          for (const { method, ...rest } of steps as { method: (typeof sized)[number]; size: number }[]) {
            source[method](rest.size);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
          const { byteOffset } = (error as FormatError).got;
          expect(byteOffset).toBeGreaterThanOrEqual(100);
          expect(byteOffset).toBeLessThanOrEqual(100 + bytes.length);
        }
      }),
      { numRuns: 300 },
    );
  });
});
