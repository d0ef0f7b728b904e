import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 as zlibCrc32 } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { QueuedMemory } from "../../test/support/queued-memory.ts";
import { values } from "../../test/support/values.ts";
import { gatherKv } from "../attention/index.ts";
import { FormatError, PhasorError } from "../errors.ts";
import { crc32 } from "./crc32.ts";
import {
  createKvCache,
  type KvLayerSpec,
  type KvMemory,
  type PositionedCache,
  restoreSnapshot,
  saveSnapshot,
} from "./index.ts";
import { readSnapshotFile, writeSnapshotFile } from "./snapshot-file.ts";

const FINGERPRINT = { model: "m-1", tokenizer: "t-1" };

function cacheOf(spec: Partial<KvLayerSpec> = {}, memory?: KvMemory): PositionedCache {
  const layer: KvLayerSpec = { kvHeads: 2, keyDim: 4, valueDim: 3, rotary: null, ...spec };
  return createKvCache([layer, { ...layer, kvHeads: 3 }], { ...(memory && { memory }) });
}

function filled(spec: Partial<KvLayerSpec> = {}, count = 11): PositionedCache {
  const cache = cacheOf(spec);
  for (const [layer, heads] of [2, 3].entries()) {
    cache.append(layer, {
      keys: values([count, heads, 4], 1 + layer),
      values: values([count, heads, 3], 5 + layer),
      positions: Int32Array.from({ length: count }, (_, t) => 3 * t),
      segments: Int32Array.from({ length: count }, (_, t) => t % 2),
    });
  }
  return cache;
}

/** A cache of the same rows whose heads are apart. */
function apartOf(spec: Partial<KvLayerSpec>, heads: "apart" | "pooled"): PositionedCache {
  const layer: KvLayerSpec = { kvHeads: 2, keyDim: 4, valueDim: 3, rotary: null, ...spec };
  if (heads === "apart") return createKvCache([layer, { ...layer, kvHeads: 3 }], { heads });
  const paged = { ...layer, layout: { type: "paged", pageSize: 4 }, capacity: 13 } as const;
  return createKvCache([paged, { ...paged, kvHeads: 3 }], { heads });
}

/** A ragged cache and its snapshot. */
async function raggedSnapshot(spec: Partial<KvLayerSpec> = {}): Promise<{ cache: PositionedCache; bytes: Uint8Array }> {
  const cache = filled(spec);
  cache.compact(1, [Int32Array.of(0, 10), Int32Array.of(1, 2, 3), Int32Array.of(9)]);
  return { cache, bytes: await joined(saveSnapshot(cache, FINGERPRINT)) };
}

async function joined(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const all: number[] = [];
  for await (const chunk of chunks) all.push(...chunk);
  return Uint8Array.from(all);
}

function seen(cache: PositionedCache): unknown {
  const layers = Array.from({ length: cache.layers }, (_, layer) =>
    (cache.isRagged(layer) ? cache.headViews(layer) : [cache.view(layer)]).map((view) => gatherKv(view)),
  );
  return [cache.bytes, cache.nextPosition, cache.scheduleLength, layers];
}

async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return error instanceof PhasorError ? `${error.name}: ${error.message}` : String(error);
}

it("crc32 is the checksum of gzip, in one go and piece by piece", () => {
  // The standard's check value.
  expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
  const bytes = new Uint8Array(values([50], 3).data.buffer);
  expect(crc32(bytes.subarray(70), crc32(bytes.subarray(0, 70)))).toBe(crc32(bytes));
  if (typeof zlibCrc32 === "function") expect(crc32(bytes)).toBe(zlibCrc32(bytes));
});

describe("a snapshot", () => {
  it.each<[string, Partial<KvLayerSpec>, Partial<KvLayerSpec>]>([
    ["contiguous", {}, {}],
    ["contiguous to pages", {}, { layout: { type: "paged", pageSize: 3 } }],
    ["pages to a ring", { layout: { type: "paged" } }, { layout: { type: "ring", window: 9, maxChunk: 4 } }],
    ["int4", { elements: "int4" }, { elements: "int4", layout: { type: "paged", pageSize: 4 } }],
    ["int8 with pristine keys", { elements: "int8", pristineKeys: true }, { elements: "int8", pristineKeys: true }],
  ])("gives the same cache: %s", async (_, from, to) => {
    const { cache, bytes } = await raggedSnapshot(from);
    const restored = cacheOf(to);
    await restoreSnapshot(restored, [bytes], FINGERPRINT);
    const [, , , got] = seen(restored) as unknown[];
    const [, , , want] = seen(cache) as unknown[];
    expect(got).toEqual(want);
    expect([restored.bytes, restored.nextPosition]).toEqual([cache.bytes, cache.nextPosition]);
  });

  it.each<[string, Partial<KvLayerSpec>, "apart" | "pooled"]>([
    ["f32, apart", {}, "apart"],
    ["int4, apart", { elements: "int4" }, "apart"],
    ["int8 with pristine keys, in one pool", { elements: "int8", pristineKeys: true }, "pooled"],
  ])("of heads that are together fills heads that are not: %s", async (_, spec, heads) => {
    for (const [cache, bytes] of [
      [filled(spec), await joined(saveSnapshot(filled(spec), FINGERPRINT))] as const,
      await raggedSnapshot(spec).then((both) => [both.cache, both.bytes] as const),
    ]) {
      const restored = apartOf(spec, heads);
      await restoreSnapshot(restored, [bytes], FINGERPRINT);
      // Heads that are apart in the cache to compare with.
      for (const [layer, count] of [2, 3].entries()) {
        expect(restored.isRagged(layer)).toBe(true);
        if (!cache.isRagged(layer)) {
          cache.append(layer, {
            keys: values([1, count, 4], 9),
            values: values([1, count, 3], 9),
            positions: Int32Array.of(99),
            segments: Int32Array.of(0),
          });
          const all = Int32Array.from({ length: cache.length(layer) }, (_, slot) => slot);
          const lists = Array.from({ length: count }, (_, head) => (head === 0 ? all : all.slice(0, -1)));
          cache.compact(layer, lists);
          cache.compact(
            layer,
            Array.from({ length: count }, () => all.slice(0, -1)),
          );
        }
      }
      const [, , , got] = seen(restored) as unknown[];
      const [, , , want] = seen(cache) as unknown[];
      expect(got).toEqual(want);
      restored.dispose();
      expect(restored.allocatedBytes).toBe(0);
    }
  });

  it("may be cut anywhere", async () => {
    const { cache, bytes } = await raggedSnapshot();
    const cut = function* (): Generator<Uint8Array> {
      for (let at = 0, size = 0; at < bytes.length; at += size, size = (size + 1) % 7) {
        yield bytes.slice(at, at + size);
      }
    };
    const restored = cacheOf();
    await restoreSnapshot(restored, cut(), FINGERPRINT);
    expect(seen(restored)).toEqual(seen(cache));
  });

  it("of many rows comes in chunks of at most 1 MiB and a little", async () => {
    const cache = filled({}, 20_000); // 2.9 MB
    const sizes: number[] = [];
    const restored = cacheOf();
    const counted = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of saveSnapshot(cache, FINGERPRINT)) {
        sizes.push(chunk.length);
        yield chunk;
      }
    };
    await restoreSnapshot(restored, counted(), FINGERPRINT);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(2 ** 20 + 4);
    expect(sizes.length).toBeGreaterThan(3);
    expect(restored.bytes).toBe(cache.bytes);
    expect(gatherKv(restored.view(1)).v.data).toEqual(gatherKv(cache.view(1)).v.data);
  });

  it("is of the moment it was begun, whatever happens to the cache meanwhile", async () => {
    const [cache, before] = [filled({}, 11), filled({}, 11)];
    const chunks = saveSnapshot(cache, FINGERPRINT);
    const first = await chunks.next();
    cache.erase(0, 9, { closeGap: true });
    const restored = cacheOf();
    const rest = async function* (): AsyncGenerator<Uint8Array> {
      yield first.value as Uint8Array;
      yield* chunks;
    };
    await restoreSnapshot(restored, rest(), FINGERPRINT);
    expect(seen(restored)).toEqual(seen(before));
  });

  it("that is not read to its end lets its rows go", async () => {
    const cache = filled();
    const chunks = saveSnapshot(cache, FINGERPRINT);
    await chunks.next();
    expect(cache.sharedBytes).toBeGreaterThan(0);
    await chunks.return(undefined);
    expect(cache.sharedBytes).toBe(0);
  });
});

describe("a snapshot of something else is refused, and the cache stays as it is:", () => {
  async function refused(bytes: Uint8Array, spec: Partial<KvLayerSpec> = {}, fingerprint = {}): Promise<string> {
    const cache = filled(spec, 2);
    const before = seen(cache);
    const message = await refusal(restoreSnapshot(cache, [bytes], { ...FINGERPRINT, ...fingerprint }, "a.kv"));
    expect(seen(cache)).toEqual(before);
    return message;
  }

  it("another model", async () => {
    const { bytes } = await raggedSnapshot();
    expect(await refused(bytes, {}, { model: "m-2" })).toMatch(
      /^FormatError: a\.kv: a snapshot made with the same model; got byteOffset=\d+, saved="m-1", expected="m-2"\. Restore it with the model it was made with\.$/,
    );
    expect(await refused(bytes, {}, { schedule: "s" })).toContain("same schedule; got byteOffset=");
  });

  it("other widths or elements", async () => {
    const { bytes } = await raggedSnapshot();
    for (const spec of [{ elements: "int8" }, { keyDim: 4, valueDim: 3, rotary: undefined }] as const) {
      const message = await refused(bytes, spec as Partial<KvLayerSpec>);
      expect(message).toContain(
        "FormatError: a.kv: a snapshot of the same layers, elements and rotations; got byteOffset=",
      );
    }
  });

  it("another format or version", async () => {
    const { bytes } = await raggedSnapshot();
    expect(await refused(Uint8Array.from([...bytes].fill(65, 0, 1)))).toBe(
      "FormatError: a.kv: a cache snapshot, which starts with PHASORKV; got byteOffset=0.",
    );
    expect(await refused(Uint8Array.from([...bytes].fill(3, 8, 9)))).toBe(
      "FormatError: a.kv: snapshot version 1 or 2; got byteOffset=8, version=3.",
    );
  });
});

describe("a damaged snapshot", () => {
  const spec: Partial<KvLayerSpec> = { elements: "int8", pristineKeys: true };
  let bytes: Uint8Array;
  beforeAll(async () => {
    bytes = (await raggedSnapshot(spec)).bytes;
  });

  async function damaged(file: Uint8Array): Promise<void> {
    const memory = new QueuedMemory();
    const cache = cacheOf(spec, memory);
    const error = await restoreSnapshot(cache, [file], FINGERPRINT).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(FormatError);
    expect((error as FormatError).got.byteOffset).toBeTypeOf("number");
    expect(cache.length()).toBe(0);
    memory.flush();
    expect(memory.takenBytes).toBe(0);
  }

  it("with any byte changed is refused, and the cache is empty", () =>
    fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) =>
        damaged(bytes.map((byte, i) => (i === at ? byte ^ flip : byte))),
      ),
      { numRuns: 300 },
    ));

  it("cut off or with something behind it is refused", async () => {
    for (let length = 0; length < bytes.length; length += 7) await damaged(bytes.subarray(0, length));
    await damaged(bytes.subarray(0, bytes.length - 1));
    await damaged(Uint8Array.of(...bytes, 0));
  });

  it("with wrong numbers under right checksums is refused or restored, and never takes more than its bytes", () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 12, max: headerEnd(bytes) }),
        fc.constantFrom(0, 1, 0x7f, 0xff),
        async (at, byte) => {
          const file = bytes.slice();
          file[at] = byte;
          reseal(file);
          const memory = new QueuedMemory();
          const cache = cacheOf(spec, memory);
          const error = await restoreSnapshot(cache, [file], FINGERPRINT).then(
            () => undefined,
            (thrown: unknown) => thrown,
          );
          if (error !== undefined) expect(error).toBeInstanceOf(PhasorError);
          expect(memory.takenBytes).toBeLessThan(20 * bytes.length);
        },
      ),
      { numRuns: 300 },
    ));
});

describe("a header that lies under right checksums is refused:", () => {
  /** Two layers of 11 rows, with a number of the header changed. */
  async function lying(change: (header: DataView, end: number) => void): Promise<string> {
    const bytes = await joined(saveSnapshot(filled(), FINGERPRINT));
    const end = headerEnd(bytes);
    const view = new DataView(bytes.buffer);
    change(view, end);
    let [at, crc] = [0, 0];
    for (const length of [end, 11 * (2 * 7 * 4 + 8), 11 * (3 * 7 * 4 + 8)]) {
      crc = crc32(bytes.subarray(at, at + length), crc);
      view.setUint32(at + length, crc, true);
      at += length + 4;
    }
    const cache = cacheOf();
    const message = await refusal(restoreSnapshot(cache, [bytes], FINGERPRINT, "a.kv"));
    if (message !== "undefined") expect(cache.length()).toBe(0);
    return message;
  }
  // The header ends with nextPosition (u64), blockRows, layers, and for each layer a byte, its rows (u64) and a byte.
  const LAYERS = 2 * 10;

  it("rows at positions that are yet to come", async () => {
    expect(await lying((view, end) => view.setUint32(end - LAYERS - 16, 30, true))).toMatch(
      /^FormatError: a\.kv: positions below the next one; got byteOffset=\d+, position=30, nextPosition=30\./,
    );
  });

  it("blocks larger than memory", async () => {
    expect(await lying((view, end) => view.setUint32(end - LAYERS - 8, 2 ** 32 - 1, true))).toContain(
      "FormatError: a.kv: blocks of at most 67108864 bytes; got byteOffset=",
    );
  });

  it("more rows than there are", async () => {
    expect(await lying((view, end) => view.setUint32(end - 5, 2 ** 20, true))).toContain("The file is truncated.");
  });

  it("nothing, when nothing was changed", async () => {
    expect(await lying(() => {})).toBe("undefined");
  });
});

function headerEnd(bytes: Uint8Array): number {
  return 16 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(12, true);
}

/** Puts the right checksum behind a header that was changed. */
function reseal(bytes: Uint8Array): void {
  const end = headerEnd(bytes);
  if (end + 4 <= bytes.length) new DataView(bytes.buffer).setUint32(end, crc32(bytes.subarray(0, end)), true);
}

describe("a snapshot file", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "phasor-snapshot-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("is written and read", async () => {
    const path = join(folder, "a.kv");
    const cache = filled();
    await writeSnapshotFile(path, saveSnapshot(cache, FINGERPRINT));
    const restored = cacheOf();
    await restoreSnapshot(restored, readSnapshotFile(path), FINGERPRINT, path);
    expect(seen(restored)).toEqual(seen(cache));
  });

  it("stays as it was when saving fails, and nothing else is left", async () => {
    const path = join(folder, "b.kv");
    await writeFile(path, "old");
    const failing = function* (): Generator<Uint8Array> {
      yield Uint8Array.of(1, 2, 3);
      throw new Error("no more");
    };
    await expect(writeSnapshotFile(path, failing())).rejects.toThrow("no more");
    expect(await readFile(path, "utf8")).toBe("old");
    expect((await readdir(folder)).filter((name) => name.includes("b.kv"))).toEqual(["b.kv"]);
  });

  it("stays as it was while a new one is being written, so that a process may be killed at any time", async () => {
    const path = join(folder, "c.kv");
    await writeFile(path, "old");
    const seenWhileWriting: string[] = [];
    const chunks = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of saveSnapshot(filled(), FINGERPRINT)) {
        yield chunk;
        seenWhileWriting.push(await readFile(path, "utf8"));
      }
    };
    await writeSnapshotFile(path, chunks());
    expect(seenWhileWriting).toEqual(["old", "old", "old"]); // header, two layers
    expect((await readFile(path)).subarray(0, 8).toString()).toBe("PHASORKV");
  });
});
