import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { allocate, bytesPerElement, type DType } from "../../dtype.ts";
import { FormatError } from "../../errors.ts";
import { f32, sizeOf, type Tensor, tensor, toF32 } from "../../tensor.ts";
import { createMemorySource } from "./memory-source.ts";
import { openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import type { WeightSource } from "./source.ts";
import { writeSafetensors } from "./write-safetensors.ts";

const STORIES = new URL("../../../test/fixtures/stories260K/model.safetensors", import.meta.url);

/** A file by hand: the header as given, the data zeros. */
function fileOf(header: unknown, dataBytes: number): Uint8Array {
  const json = typeof header === "string" ? header : JSON.stringify(header);
  return rawFile(new TextEncoder().encode(json), dataBytes);
}

function rawFile(header: Uint8Array, dataBytes: number, headerBytes = BigInt(header.byteLength)): Uint8Array {
  const file = new Uint8Array(8 + header.byteLength + dataBytes);
  new DataView(file.buffer).setBigUint64(0, headerBytes, true);
  file.set(header, 8);
  return file;
}

function open(bytes: Uint8Array): Promise<SafetensorsFile> {
  return openSafetensors(createMemorySource("m.safetensors", bytes));
}

async function refusal(bytes: Uint8Array): Promise<FormatError> {
  const error = await open(bytes).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(FormatError);
  expect((error as FormatError).got.byteOffset).toBeTypeOf("number");
  return error as FormatError;
}

const f32Entry = (shape: number[], start: number, end: number): object => ({
  dtype: "F32",
  shape,
  data_offsets: [start, end],
});

describe("openSafetensors on the stories model", () => {
  test("reads names, shapes, metadata and values", async () => {
    const bytes = readFileSync(STORIES);
    const file = await open(bytes);
    expect(file.metadata.get("format")).toBe("pt");
    expect(file.tensors.size).toBe(47);
    expect(file.tensors.get("model.layers.0.mlp.down_proj.weight")).toEqual({
      dtype: "f32",
      storedDType: "F32",
      shape: [64, 172],
      byteOffset: 8 + 4856 + 131328,
      byteLength: 44032,
    });
    const norm = await file.read("model.layers.0.input_layernorm.weight");
    expect(norm.shape).toEqual([64]);
    expect(norm.data[0]).toBe(bytes.readFloatLE(8 + 4856 + 131072));
    expect(norm.data[63]).toBe(bytes.readFloatLE(8 + 4856 + 131072 + 63 * 4));
  });
});

describe("openSafetensors", () => {
  test("reads each element type from a file made by hand", async () => {
    const header = {
      a: { dtype: "F16", shape: [3], data_offsets: [0, 6] },
      b: { dtype: "BF16", shape: [1, 2], data_offsets: [6, 10] },
      c: { dtype: "BOOL", shape: [2], data_offsets: [10, 12] },
      d: { dtype: "I64", shape: [], data_offsets: [12, 20] },
      e: { dtype: "F32", shape: [0, 5], data_offsets: [20, 20] },
    };
    const bytes = fileOf(header, 20);
    const start = bytes.byteLength - 20;
    bytes.set([0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0x80, 0x3f, 0x20, 0xc1, 1, 0, 0xfe], start);
    bytes.fill(0xff, start + 13);
    const file = await open(bytes);
    expect([...toF32(await file.read("a"))]).toEqual([1, -2, 2 ** -24]);
    expect([...toF32(await file.read("b"))]).toEqual([1, -10]);
    expect(await file.read("c")).toEqual({ dtype: "u8", shape: [2], data: Uint8Array.of(1, 0) });
    expect(await file.read("d")).toEqual({ dtype: "i64", shape: [], data: BigInt64Array.of(-2n) });
    expect(await file.read("e")).toEqual({ dtype: "f32", shape: [0, 5], data: new Float32Array(0) });
  });

  test("an aligned tensor shares memory with a source in memory, an unaligned one is copied", async () => {
    for (const shift of [0, 1, 2, 3]) {
      const file = writeSafetensors([["w", f32([3], [1, 2, 3])]]);
      const buffer = new Uint8Array(file.byteLength + 4);
      buffer.set(file, shift);
      const opened = await open(buffer.subarray(shift, shift + file.byteLength));
      const { data } = await opened.read("w");
      expect(data).toEqual(Float32Array.of(1, 2, 3));
      expect(data.buffer === buffer.buffer).toBe(shift === 0);
    }
  });

  test("names that every object has are tensors like others", async () => {
    const header =
      '{"__proto__":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}';
    const file = await open(fileOf(header, 3));
    expect([...file.tensors.keys()]).toEqual(["__proto__", "constructor"]);
    expect((await file.read("__proto__")).shape).toEqual([2]);
    await expect(file.read("toString")).rejects.toThrow('m.safetensors: a tensor "toString".');
  });

  test("an element type without DType is refused when it is read, not before", async () => {
    const header = { a: { dtype: "F8_E4M3", shape: [3], data_offsets: [0, 3] }, b: f32Entry([1], 3, 7) };
    const file = await open(fileOf(header, 7));
    expect(file.tensors.get("a")).toMatchObject({ dtype: undefined, storedDType: "F8_E4M3", shape: [3] });
    expect((await file.read("b")).dtype).toBe("f32");
    await expect(file.read("a")).rejects.toThrow(
      'm.safetensors: a supported dtype; got byteOffset=119, name="a", dtype="F8_E4M3". ' +
        "Convert the tensor to one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL.",
    );
  });

  test("an aborted signal stops opening and reading", async () => {
    const source = createMemorySource("m.safetensors", fileOf({ a: f32Entry([1], 0, 4) }, 4));
    await expect(openSafetensors(source, AbortSignal.abort("enough"))).rejects.toBe("enough");
    const file = await openSafetensors(source);
    await expect(file.read("a", AbortSignal.abort("enough"))).rejects.toBe("enough");
  });

  const DAMAGED = "The file is damaged.";
  const AGAIN = "The file is truncated or damaged; download it again.";
  test.each<[string, Uint8Array, string]>([
    [
      "is empty",
      new Uint8Array(0),
      "8 more bytes (u64); got byteOffset=0, remaining=0. The file is truncated or damaged.",
    ],
    [
      "promises a header longer than itself",
      rawFile(new Uint8Array(5), 0, 1000n),
      `a header within the file; got byteOffset=0, headerBytes=1000, fileSize=13. ${AGAIN}`,
    ],
    [
      "promises a header of 2^64 − 1 bytes",
      rawFile(new Uint8Array(5), 0, 2n ** 64n - 1n),
      `a u64 within ±(2^53 − 1); got byteOffset=0, value=18446744073709551615. ${DAMAGED}`,
    ],
    ["has an empty header", fileOf("", 0), `valid JSON; got byteOffset=8. ${DAMAGED}`],
    ["has a header that is a list", fileOf("[]", 0), `a JSON object; got byteOffset=8. ${DAMAGED}`],
    ["has a header after a byte order mark", fileOf("\ufeff{}", 0), `valid JSON; got byteOffset=8. ${DAMAGED}`],
    [
      "has a header that is not UTF-8",
      rawFile(Uint8Array.of(0x7b, 0xff, 0x7d), 0),
      `valid UTF-8; got byteOffset=8, length=3. ${DAMAGED}`,
    ],
    [
      "has deep nesting",
      fileOf(`{"a":${"[".repeat(9)}`, 0),
      `JSON nested at most 3 deep; got byteOffset=15. ${DAMAGED}`,
    ],
    [
      "has a name twice, after names of several bytes",
      fileOf('{"é":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{},"\\u0062":{}}', 0),
      `every key once; got byteOffset=69, key="b". ${DAMAGED}`,
    ],
    [
      "has a field twice",
      fileOf('{"a":{"dtype":"U8","dtype":"U8"}}', 0),
      `every key once; got byteOffset=27, key="dtype". ${DAMAGED}`,
    ],
    ["has a string without end", fileOf('{"a":"b\\"}', 0), `strings that end; got byteOffset=13. ${DAMAGED}`],
    [
      "has an entry that is no object",
      fileOf({ a: 3 }, 0),
      `an object for every name of the header; got byteOffset=9, name="a", value=3. ${DAMAGED}`,
    ],
    [
      "has metadata that is no text",
      fileOf({ __metadata__: { format: "pt", step: 3 } }, 0),
      `strings as metadata; got byteOffset=9, name="__metadata__", key="step", value=3. ${DAMAGED}`,
    ],
    [
      "has a tensor without dtype",
      fileOf({ a: { shape: [1], data_offsets: [0, 4] } }, 4),
      `a dtype name; got byteOffset=9, name="a", dtype=undefined. ${DAMAGED}`,
    ],
    [
      "has a negative extent",
      fileOf({ a: f32Entry([-1], 0, 4) }, 4),
      `a shape of non-negative integers; got byteOffset=9, name="a", shape=[-1]. ${DAMAGED}`,
    ],
    [
      "has extents whose product overflows",
      fileOf({ a: f32Entry([2 ** 40, 2 ** 40], 0, 4) }, 4),
      `as many bytes as shape and dtype need; got byteOffset=9, name="a", shape=[1099511627776,1099511627776], dtype="F32", bytes=4. ${DAMAGED}`,
    ],
    [
      "has an absurd shape of an unknown dtype",
      fileOf({ a: { dtype: "F4", shape: [33], data_offsets: [0, 4] } }, 4),
      `a shape that the bytes can hold; got byteOffset=9, name="a", shape=[33], bytes=4. ${DAMAGED}`,
    ],
    [
      "has three offsets",
      fileOf({ a: { dtype: "F32", shape: [1], data_offsets: [0, 4, 8] } }, 8),
      `two data_offsets; got byteOffset=9, name="a", data_offsets=[0,4,8]. ${DAMAGED}`,
    ],
    [
      "has offsets in reverse",
      fileOf({ a: f32Entry([1], 4, 0) }, 4),
      `data_offsets in order; got byteOffset=9, name="a", data_offsets=[4,0]. ${DAMAGED}`,
    ],
    [
      "ends before its last tensor",
      fileOf({ a: f32Entry([2], 0, 8) }, 7),
      `data_offsets within the file; got byteOffset=9, name="a", data_offsets=[0,8], dataBytes=7. ${AGAIN}`,
    ],
    [
      "has a tensor of another size than its shape",
      fileOf({ a: f32Entry([3], 0, 8) }, 8),
      `as many bytes as shape and dtype need; got byteOffset=9, name="a", shape=[3], dtype="F32", bytes=8. ${DAMAGED}`,
    ],
    [
      "has tensors that overlap",
      fileOf({ a: f32Entry([2], 0, 8), b: f32Entry([2], 4, 12) }, 12),
      `tensors that do not overlap; got byteOffset=62, name="b", start=120, previousEnd=124. ${DAMAGED}`,
    ],
    [
      "has the same bytes in two tensors",
      fileOf({ a: f32Entry([2], 0, 8), b: f32Entry([2], 0, 8) }, 8),
      `tensors that do not overlap; got byteOffset=62, name="b", start=115, previousEnd=123. ${DAMAGED}`,
    ],
    [
      "has a hole between tensors",
      fileOf({ a: f32Entry([1], 0, 4), b: f32Entry([1], 5, 9) }, 9),
      `tensors without unused bytes between; got byteOffset=62, name="b", start=120, previousEnd=119. ${DAMAGED}`,
    ],
    [
      "has bytes after the last tensor",
      fileOf({ a: f32Entry([1], 0, 4) }, 6),
      `the file to end with its last tensor; got byteOffset=66, fileSize=68. ${DAMAGED}`,
    ],
  ])("a file that %s is refused", async (_, bytes, message) => {
    expect((await refusal(bytes)).message).toBe(`m.safetensors: ${message}`);
  });

  test("a header over the limit is refused before it is read", async () => {
    const asked: number[] = [];
    const source: WeightSource = {
      name: "m.safetensors",
      size: async () => 2 ** 40,
      read: async (_, length) => {
        asked.push(length);
        return rawFile(new Uint8Array(0), 0, 2n ** 24n + 1n);
      },
    };
    await expect(openSafetensors(source)).rejects.toThrow(
      `m.safetensors: a header of at most 16777216 bytes; got byteOffset=0, headerBytes=16777217. ${DAMAGED}`,
    );
    expect(asked).toEqual([8]);
  });
});

/** A source that counts the bytes asked of it. */
function countingSource(bytes: Uint8Array): { source: WeightSource; asked: () => number } {
  let asked = 0;
  const inner = createMemorySource("m.safetensors", bytes);
  const read: WeightSource["read"] = (offset, length, signal) => {
    asked += length;
    return inner.read(offset, length, signal);
  };
  return { source: { ...inner, read }, asked: () => asked };
}

/** Opens a file and reads all of it; only FormatErrors may come, and no more bytes be asked for than it has. */
async function openAll(bytes: Uint8Array): Promise<"read" | "refused"> {
  const { source, asked } = countingSource(bytes);
  try {
    const file = await openSafetensors(source);
    for (const [name, info] of file.tensors) {
      if (info.dtype !== undefined) expect((await file.read(name)).shape).toEqual(info.shape);
    }
    return "read";
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    expect(error.got.byteOffset).toBeTypeOf("number");
    return "refused";
  } finally {
    expect(asked()).toBeLessThanOrEqual(bytes.byteLength);
  }
}

const DTYPES: DType[] = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8"];

const anyTensor: fc.Arbitrary<Tensor> = fc
  .record({
    dtype: fc.constantFrom(...DTYPES),
    shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }),
    fill: fc.uint8Array({ minLength: 1, maxLength: 40 }),
  })
  .map(({ dtype, shape, fill }) => {
    const data = allocate(dtype, sizeOf(shape));
    const bytes = new Uint8Array(data.buffer);
    for (let index = 0; index < bytes.length; index++) bytes[index] = fill[index % fill.length];
    return tensor(dtype, shape, data) as Tensor;
  });

const anyTensors = fc.dictionary(fc.oneof(fc.string(), fc.constantFrom("__proto__", "é😀", '"\\')), anyTensor, {
  maxKeys: 5,
  noNullPrototype: true,
});

function bytesOf({ data }: Tensor): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

describe("writeSafetensors", () => {
  test("what is written is read back bit for bit, whatever names, shapes and types", async () => {
    await fc.assert(
      fc.asyncProperty(
        anyTensors,
        fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
        async (tensors, metadata) => {
          const file = await open(writeSafetensors(Object.entries(tensors), metadata));
          expect([...file.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort());
          expect([...file.metadata].sort()).toEqual(Object.entries(metadata).sort());
          for (const [name, original] of Object.entries(tensors)) {
            const back = await file.read(name);
            expect([back.dtype, back.shape]).toEqual([original.dtype, original.shape]);
            expect(bytesOf(back)).toEqual(bytesOf(original));
            expect(file.tensors.get(name)!.byteOffset % bytesPerElement(original.dtype)).toBe(0);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  test("the order of tensors and metadata does not change the bytes", () => {
    const tensors: [string, Tensor][] = [
      ["b", f32([2], [1, 2])],
      ["a", f32([1], [3])],
      ["c", tensor("u8", [3], Uint8Array.of(1, 2, 3))],
      ["d", tensor("f64", [1], Float64Array.of(0.5))],
    ];
    const file = writeSafetensors(tensors, { x: "1", y: "2" });
    expect(writeSafetensors([...tensors].reverse(), { y: "2", x: "1" })).toEqual(file);
  });

  test("gives exactly the bytes of the format", () => {
    const json =
      '{"__metadata__":{"k":"v"},"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},' +
      '"m":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}     ';
    expect(json.length % 8).toBe(0);
    const expected = [
      ...[json.length, 0, 0, 0, 0, 0, 0, 0],
      ...new TextEncoder().encode(json),
      0x00,
      0x3c,
      0x00,
      0xc0,
      7,
    ];
    const file = writeSafetensors(
      [
        ["m", tensor("u8", [1], Uint8Array.of(7))],
        ["w", tensor("f16", [2], Uint16Array.of(0x3c00, 0xc000))],
      ],
      { k: "v" },
    );
    expect([...file]).toEqual(expected);
  });

  test.each(["__metadata__", "w"])("the name %s given twice or reserved is refused", (name) => {
    const w = f32([1], [1]);
    expect(() =>
      writeSafetensors([
        ["w", w],
        [name, w],
      ]),
    ).toThrow(`writeSafetensors: names that are unique and not __metadata__; got name="${name}".`);
  });
});

describe("damaged files", () => {
  const small = writeSafetensors(
    [
      ["a", f32([2, 3], [1, 2, 3, 4, 5, 6])],
      ["bé", tensor("f16", [3], Uint16Array.of(1, 2, 3))],
      ["c", tensor("u8", [0], new Uint8Array(0))],
    ],
    { format: "pt" },
  );

  test("a file cut at any byte is refused", async () => {
    expect(await openAll(small)).toBe("read");
    for (let length = 0; length < small.byteLength; length++) {
      expect(await openAll(small.slice(0, length))).toBe("refused");
    }
  });

  test("a file with a byte more is refused", async () => {
    const longer = new Uint8Array(small.byteLength + 1);
    longer.set(small);
    expect(await openAll(longer)).toBe("refused");
  });

  test("a file with flipped bytes is read or refused", async () => {
    const flips = fc.array(fc.tuple(fc.nat(small.byteLength - 1), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    });
    await fc.assert(
      fc.asyncProperty(flips, async (places) => {
        const damaged = small.slice();
        for (const [index, mask] of places) damaged[index] ^= mask;
        await openAll(damaged);
      }),
      { numRuns: 2000 },
    );
  });

  test("a header with any value anywhere is read or refused", async () => {
    const extent = fc.oneof(fc.integer({ min: -1, max: 40 }), fc.constantFrom(2 ** 32, 2 ** 53, 1e300, 0.5, -0, null));
    const entry = fc.record(
      {
        dtype: fc.oneof(fc.constantFrom("F32", "U8", "BOOL", "F8_E4M3", "__proto__", "toString"), fc.jsonValue()),
        shape: fc.oneof(fc.array(extent, { maxLength: 4 }), fc.jsonValue()),
        data_offsets: fc.oneof(fc.tuple(extent, extent), fc.jsonValue()),
      },
      { requiredKeys: [] },
    );
    const header = fc.dictionary(
      fc.constantFrom("a", "b", "c", "__metadata__", "__proto__", "constructor"),
      fc.oneof({ weight: 9, arbitrary: entry }, { weight: 1, arbitrary: fc.jsonValue() }),
    );
    await fc.assert(
      fc.asyncProperty(header, fc.nat(40), async (json, dataBytes) => {
        await openAll(fileOf(json, dataBytes));
      }),
      { numRuns: 2000 },
    );
  });

  test("any bytes as a header, or as a file, are read or refused", async () => {
    const bytes = fc.uint8Array({ maxLength: 80 });
    await fc.assert(
      fc.asyncProperty(bytes, async (some) => {
        await openAll(some);
        await openAll(rawFile(some, 3));
      }),
      { numRuns: 500 },
    );
  });

  const MEGABYTE = 2 ** 20;
  test.each<[string, () => string]>([
    ["brackets", () => "[".repeat(4 * MEGABYTE)],
    ["a string without end", () => `{"${"a".repeat(4 * MEGABYTE)}`],
    ["backslashes", () => `{"${"\\".repeat(4 * MEGABYTE)}`],
    ["spaces", () => `{${" ".repeat(4 * MEGABYTE)}`],
    ["quotes", () => `{${'""'.repeat(2 * MEGABYTE)}`],
    ["strings and spaces", () => `{${`"" ${" ".repeat(100)}`.repeat(40_000)}`],
    [
      "a shape of very many extents",
      () => `{"a":{"dtype":"F32","data_offsets":[0,0],"shape":[${"1,".repeat(2 * MEGABYTE)}1]}}`,
    ],
    ["very many keys", () => `{"a":{${Array.from({ length: 270_000 }, (_, index) => `"${index}":1`).join(",")}}}`],
    ["very many tensors, the last damaged", () => `{${manyEntries(40_000)},"z":0}`],
  ])("a header of 4 MB of %s is refused within a second", async (_, header) => {
    const bytes = fileOf(header(), 0);
    const start = process.cpuUsage(); // unlike the clock, not slowed by other processes
    await refusal(bytes);
    expect(process.cpuUsage(start).user / 1000).toBeLessThan(1000);
  });
});

function manyEntries(count: number): string {
  return Array.from(
    { length: count },
    (_, index) => `"layers.${index}.weight":{"dtype":"F32","shape":[0,64],"data_offsets":[0,0]}`,
  ).join(",");
}
