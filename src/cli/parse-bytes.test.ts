import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatBytes, parseBytes } from "./parse-bytes.ts";

describe("parseBytes", () => {
  test.each([
    ["64MiB", 67108864],
    ["2GB", 2000000000],
    ["1.5GiB", 1610612736],
    ["1.5 gib", 1610612736],
    ["4096", 4096],
    ["7B", 7],
    ["0.0015KB", 1],
    [" 3 TiB ", 3298534883328],
  ])("%s", (text, bytes) => {
    expect(parseBytes(text)).toBe(bytes);
  });

  test.each(["", "GiB", "-1GB", "2G", "1e3", "0", "0.9", "1,5GiB", "2 GiB free", "999999TiB", "2constructor"])(
    "%o is refused",
    (text) => {
      expect(() => parseBytes(text)).toThrow(
        `parseBytes: a byte count such as 64MiB, 2GB or 1.5GiB; got text=${JSON.stringify(text)}.`,
      );
    },
  );
});

describe("formatBytes", () => {
  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.00 KiB"],
    [1536, "1.50 KiB"],
    [10240, "10.0 KiB"],
    [131072, "128 KiB"],
    [1048575, "1.00 MiB"],
    [5 * 2 ** 30, "5.00 GiB"],
    [2 ** 50, "1024 TiB"],
  ])("%d", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test("what is written reads back within half a percent", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 50 }), (bytes) => {
        const again = parseBytes(formatBytes(bytes));
        expect(Math.abs(again - bytes)).toBeLessThanOrEqual(Math.max(1, bytes * 0.005));
      }),
    );
  });
});
