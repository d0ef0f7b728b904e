/**
 * Saving and restoring a model's cache, version 1: what its owner knows, then the rows. All numbers are little endian.
 *
 *     "PHASORMC"                           8 bytes
 *     version, header length n             u32, u32
 *     header                               n bytes of JSON: {fingerprint, progress, arrays: [[name, type, length], ...],
 *                                          budget, maxBytes}; the last two only where the cache had them, for messages
 *     arrays                               one after the other; i32, f32 or f64
 *     checksum                             u32, the CRC-32 of everything before it
 *     rows                                 a snapshot of the key-value cache, see src/cache/snapshot.ts
 *
 * | array                          |                                                                  |
 * |--------------------------------|------------------------------------------------------------------|
 * | tokens                         | ids of all tokens given                                          |
 * | sources LAYER LANE             | the token every slot came from; a lane is a head where ragged    |
 * | mass LAYER LANE COLUMN         | attention mass, where a policy keeps it                          |
 * | queryPositions, queriesRotated | where the queries of the last tokens are, and are rotated at     |
 * | queries LAYER                  | those queries                                                    |
 */

import { crc32 } from "../cache/crc32.ts";
import { restoreSnapshot, type SnapshotChunks, saveSnapshot } from "../cache/index.ts";
import { BudgetError, ConfigError, FormatError } from "../errors.ts";
import { holdsRows, meanLength, queryRoom } from "./cache-room.ts";
import type { ModelCache } from "./model-cache.ts";
import { SnapshotBytes } from "./snapshot-bytes.ts";

const MAGIC = "PHASORMC";
const VERSION = 1;
const MAX_HEADER_BYTES = 2 ** 24;
const TYPES = { i32: Int32Array, f32: Float32Array, f64: Float64Array } as const;

type Numbers = Int32Array | Float32Array | Float64Array;
type ArrayEntry = readonly [name: string, type: keyof typeof TYPES, length: number];
type Header = {
  readonly fingerprint: Readonly<Record<string, string>>;
  readonly progress: { readonly sinceLast: number; readonly count: number; readonly hadQuestion: boolean };
  readonly arrays: readonly ArrayEntry[];
  readonly budget?: number | undefined;
  readonly maxBytes?: number | undefined;
};

/**
 * Saves a cache as a stream of chunks. No step may run while it is read.
 *
 * @throws ConfigError when a step is pending, or the cache remembers its tokens for a re-prefill
 */
export async function* saveCache(cache: ModelCache): AsyncGenerator<Uint8Array> {
  if (cache.onFrequencyChange === "reprefill") {
    throw new ConfigError(
      "cache.save",
      "a cache whose keys are kept when frequencies change",
      { onFrequencyChange: "reprefill" },
      'Choose "pin" or "rerotate".',
    );
  }
  cache.kv.checkSettled("save");
  const fingerprint = cache.owner.fingerprint?.() ?? {};
  const arrays = arraysOf(cache);
  const { sinceLast, count, hadQuestion } = cache.progress;
  const header: Header = {
    fingerprint,
    progress: { sinceLast, count, hadQuestion },
    arrays: arrays.map(([name, numbers]): ArrayEntry => [name, typeOf(numbers), numbers.length]),
    budget: cache.plan.compression?.budget,
    maxBytes: cache.options.maxBytes,
  };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = new Uint8Array(16);
  start.set(new TextEncoder().encode(MAGIC));
  const view = new DataView(start.buffer);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, text.length, true);
  let crc = 0;
  for (const bytes of [start, text, ...arrays.map(([, numbers]) => bytesOf(numbers))]) {
    crc = crc32(bytes, crc);
    yield bytes.slice();
  }
  const checksum = new Uint8Array(4);
  new DataView(checksum.buffer).setUint32(0, crc, true);
  yield checksum;
  yield* saveSnapshot(cache.kv, fingerprint);
}

/** Fills a cache from a snapshot. Throws as `cache.restore`. */
export async function restoreCache(cache: ModelCache, chunks: SnapshotChunks, name = "snapshot"): Promise<void> {
  cache.kv.checkSettled("restore");
  const source = new SnapshotBytes(name, chunks);
  try {
    const fingerprint = cache.owner.fingerprint?.() ?? {};
    const start = await source.take(16);
    const view = new DataView(start.buffer, start.byteOffset, 16);
    if (new TextDecoder().decode(start.subarray(0, 8)) !== MAGIC) {
      throw new FormatError(name, `a snapshot of a model's cache, which starts with ${MAGIC}`, { byteOffset: 0 });
    }
    if (view.getUint32(8, true) !== VERSION) {
      throw new FormatError(name, `snapshot version ${VERSION}`, { byteOffset: 8, version: view.getUint32(8, true) });
    }
    const header = await readHeader(source, view.getUint32(12, true));
    checkFingerprint(source, header.fingerprint, fingerprint);
    checkRoom(cache, header, name);
    const arrays = new Map<string, Numbers>();
    for (const [key, type, length] of header.arrays) {
      const bytes = await source.take(length * TYPES[type].BYTES_PER_ELEMENT);
      arrays.set(key, new TYPES[type](bytes.slice().buffer));
    }
    await source.checksum();
    let isPlaced = false;
    try {
      await restoreSnapshot(cache.kv, source.rest(), fingerprint, name);
      isPlaced = true;
      placeArrays(cache, arrays, source);
    } catch (error) {
      if (isPlaced || cache.kv.length() === 0) cache.dispose();
      throw error;
    }
    Object.assign(cache.progress, header.progress);
    const { budget, decoding } = cache.plan.compression ?? {};
    const most = (budget ?? Infinity) + (decoding?.intervalTokens ?? 0);
    cache.progress.overdue = meanLength(cache) > most ? "generated" : undefined;
  } finally {
    await source.close();
  }
}

/** Writes chunks to a file, by way of a temporary one (Node, Deno, Bun). */
export async function writeChunks(path: string, chunks: SnapshotChunks): Promise<void> {
  // Imported when needed: the file system is not there in browsers.
  const { writeSnapshotFile } = await import("../cache/snapshot-file.ts");
  await writeSnapshotFile(path, chunks);
}

/** The chunks of a file (Node, Deno, Bun). */
export async function chunksOfFile(path: string): Promise<SnapshotChunks> {
  const { readSnapshotFile } = await import("../cache/snapshot-file.ts");
  return readSnapshotFile(path);
}

function arraysOf(cache: ModelCache): [string, Numbers][] {
  const { queries, tokens } = cache;
  const arrays: [string, Numbers][] = [["tokens", tokens.slice(0, tokens.length)]];
  for (const layer of cache.plan.layers.keys()) {
    for (const [lane, { sources, mass }] of cache.records.lanesOf(layer).entries()) {
      arrays.push([`sources ${layer} ${lane}`, sources]);
      for (const [column, sums] of mass.entries()) arrays.push([`mass ${layer} ${lane} ${column}`, sums]);
    }
  }
  if (queries.length === 0) return arrays;
  arrays.push(["queryPositions", queries.positions], ["queriesRotated", queries.rotatedAt]);
  for (const layer of cache.plan.layers.keys()) {
    arrays.push([`queries ${layer}`, queries.layer(layer).data as Float32Array]);
  }
  return arrays;
}

/** Puts the arrays in place; the rows are there already. */
function placeArrays(cache: ModelCache, arrays: ReadonlyMap<string, Numbers>, source: SnapshotBytes): void {
  const { config } = cache.owner;
  const take = <T extends Numbers>(name: string, type: new (length: number) => T, length?: number): T => {
    const found = arrays.get(name);
    if (!(found instanceof type) || (length !== undefined && found.length !== length)) {
      throw source.error(`an array ${name} that fits`, { length: found?.length, expected: length });
    }
    return found;
  };
  const tokens = take("tokens", Int32Array);
  if (tokens.some((token) => token < 0 || token >= config.vocabSize)) throw source.error("token ids", {});
  cache.tokens.crop(0);
  cache.tokens.append(tokens);
  for (const [layer, { kvHeads }] of cache.plan.layers.entries()) {
    const ragged = cache.kv.isRagged(layer);
    // Heads of this cache may be apart where those of the saved one were not.
    const together = ragged && !arrays.has(`sources ${layer} 1`);
    const lanes = Array.from({ length: ragged ? kvHeads : 1 }, (_, lane) => {
      const from = together ? 0 : lane;
      const sources = take(`sources ${layer} ${from}`, Int32Array, cache.kv.length(layer, lane));
      const ascends = sources.every(
        (token, n) => token >= 0 && token < tokens.length && token > (sources[n - 1] ?? -1),
      );
      if (!ascends) throw source.error("sources that ascend", { layer, lane });
      const columns = cache.records.massColumns(layer, ragged);
      const mass = Array.from({ length: columns }, (_, column) => {
        const saved = together ? cache.records.columnTogether(layer, lane, column) : column;
        return take(`mass ${layer} ${from} ${saved}`, Float64Array, sources.length);
      });
      return { sources, mass };
    });
    cache.records.restore(layer, lanes);
  }
  if (!arrays.has("queryPositions")) {
    cache.queries.clear();
    return;
  }
  const positions = take("queryPositions", Int32Array);
  const rotatedAt = take("queriesRotated", Int32Array, positions.length);
  const rows = config.layers.map(({ heads, headDim }, layer) =>
    take(`queries ${layer}`, Float32Array, positions.length * heads * headDim),
  );
  cache.queries.restore(positions, rotatedAt, rows, queryRoom(cache));
}

async function readHeader(source: SnapshotBytes, length: number): Promise<Header> {
  if (length > MAX_HEADER_BYTES) throw source.error(`a header of at most ${MAX_HEADER_BYTES} bytes`, { length });
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await source.take(length)));
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw source.error("a header of JSON", {});
  }
  const { fingerprint, progress, arrays, budget, maxBytes } = (json ?? {}) as Partial<Header>;
  const isCount = (n: unknown): boolean => typeof n === "number" && Number.isSafeInteger(n) && n >= 0;
  const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;
  const fine =
    isObject(fingerprint) &&
    isObject(progress) &&
    isCount(progress?.sinceLast) &&
    isCount(progress?.count) &&
    typeof progress?.hadQuestion === "boolean" &&
    [budget, maxBytes].every((one) => one === undefined || isCount(one)) &&
    Array.isArray(arrays) &&
    arrays.every(
      (entry) =>
        Array.isArray(entry) &&
        typeof entry[0] === "string" &&
        Object.hasOwn(TYPES, entry[1] as string) &&
        isCount(entry[2]) &&
        (entry[2] as number) < 2 ** 31,
    );
  if (!fine) throw source.error("a header with fingerprint, progress and arrays", {});
  const { sinceLast, count, hadQuestion } = progress as Header["progress"];
  return {
    fingerprint: fingerprint as Header["fingerprint"],
    progress: { sinceLast, count, hadQuestion },
    arrays: arrays as ArrayEntry[],
    ...{ budget, maxBytes },
  };
}

/** Refuses rows that a smaller cache has no room for, before anything of it changes. */
function checkRoom(
  cache: ModelCache,
  { arrays, budget: savedBudget, maxBytes: savedMaxBytes }: Header,
  name: string,
): void {
  const lengths = new Map(arrays.map(([key, , length]) => [key, length]));
  const rows = cache.plan.layers.map(({ kvHeads }, layer) =>
    Array.from(
      { length: kvHeads },
      (_, head) => lengths.get(`sources ${layer} ${head}`) ?? lengths.get(`sources ${layer} 0`) ?? 0,
    ),
  );
  if (holdsRows(cache.plan, rows)) return;
  const { capacity, chunk, compression } = cache.plan;
  throw new BudgetError(
    name,
    "a cache with room for the rows that were saved",
    {
      ...{ savedRows: Math.max(...rows.flat()), savedBudget, savedMaxBytes },
      ...{ capacity, budget: compression?.budget, prefillChunk: chunk, maxBytes: cache.options.maxBytes },
    },
    "Restore it with the budget or maxBytes that it was saved with, or with a larger prefillChunk: rows beyond the budget " +
      "then go at the next step.",
  );
}

function checkFingerprint(
  source: SnapshotBytes,
  found: Readonly<Record<string, unknown>>,
  wanted: Readonly<Record<string, string>>,
): void {
  for (const name of new Set([...Object.keys(wanted), ...Object.keys(found)])) {
    const [saved, expected] = [found, wanted].map((one) => (Object.hasOwn(one, name) ? one[name] : undefined));
    if (saved === expected) continue;
    throw source.error(
      `a snapshot made with the same ${name}`,
      { saved, expected },
      "Restore it with the model it was made with.",
    );
  }
}

function typeOf(numbers: Numbers): keyof typeof TYPES {
  if (numbers instanceof Int32Array) return "i32";
  return numbers instanceof Float32Array ? "f32" : "f64";
}

function bytesOf({ buffer, byteOffset, byteLength }: Numbers): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
