/**
 * Saving and restoring a cache, version 1 or 2. All numbers are little endian.
 *
 *     "PHASORKV"                           8 bytes
 *     version, header length n             u32, u32
 *     header                               n bytes, see below
 *     checksum                             u32
 *     blocks of rows, each:
 *       columns of the slots               i32 × rows each: positions, segments, axes, origins (pristine keys only)
 *       keys, values, pristine keys        rows × heads units each: f32 numbers, or all codes and then all scales
 *       checksum                           u32
 *
 * A checksum is the CRC-32 of everything before it, other checksums left out. Blocks come layer by layer, lane by lane
 * (one lane, or one per head where heads hold different rows), `blockRows` rows each, the last of a lane fewer. Older rows
 * whose keys hold some of their channels come before the others of their layer, in as many lanes of their own.
 *
 * Version 2 is written where there are such rows, version 1 otherwise: it has no `channels`.
 *
 * | header          |                                                             |
 * |-----------------|-------------------------------------------------------------|
 * | fingerprint     | u32 count; name and value of each as text, sorted by name   |
 * | kind            | text: widths, elements and rotation of every layer          |
 * | scheduleLength  | u64                                                         |
 * | nextPosition    | u64                                                         |
 * | blockRows       | u32                                                         |
 * | layers          | u32 count; for each: u8 lane per head; channels; for each   |
 * |                 | lane: u64 rows, u8 whether a ring let older rows go         |
 * | channels        | u32 n that older keys hold, 0 where there are no such keys; |
 * |                 | i32 × Hk × n, ascending for each head                       |
 *
 * Text is a u32 length and UTF-8. The layout is no part of the format: a cache restored in pages equals the
 * contiguous one that was saved.
 */

import type { KeyValues } from "../attention/index.ts";
import type { ByteReader } from "../byte-reader.ts";
import { BudgetError, FormatError } from "../errors.ts";
import type { Lane } from "./lane.ts";
import { headRowBytes, type ResolvedLayer } from "./layer-spec.ts";
import { canNarrow, leaveEmpty } from "./narrow.ts";
import type { PositionedCache } from "./positioned-cache.ts";
import { type LayerState, lanesOf } from "./positioned-rows.ts";
import { runsOf } from "./slot-store.ts";
import { type Pieces, SnapshotReader, SnapshotWriter } from "./snapshot-stream.ts";

/** What must be equal for a snapshot to fit: names and values of the caller's choice (model, tokenizer, ...). */
export type SnapshotFingerprint = Readonly<Record<string, string>>;

/** Where a snapshot comes from. */
export type SnapshotChunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

const MAGIC = "PHASORKV";
/** Without and with keys that hold some of their channels. */
const [PLAIN, NARROWED] = [1, 2];
const BLOCK_BYTES = 2 ** 20;
const MAX_HEADER_BYTES = 2 ** 24;
const MAX_BLOCK_BYTES = 2 ** 26;
const DAMAGED = "The file is damaged.";

/**
 * Saves a cache as a stream of chunks of about 1 MiB, the only copies that are made.
 *
 * The cache may be used while the stream is read (rows are shared with a fork until then), but no step may be pending
 * when a chunk is asked for.
 *
 * @param fingerprint - what must be equal when the snapshot is restored
 * @returns the chunks; each is the reader's own
 * @throws ConfigError when a step is pending
 */
export async function* saveSnapshot<View extends KeyValues>(
  cache: PositionedCache<View>,
  fingerprint: SnapshotFingerprint,
): AsyncGenerator<Uint8Array> {
  cache.checkSettled("saveSnapshot");
  const frozen = cache.fork();
  try {
    const blockRows = rowsPerBlock(frozen.states);
    const writer = new SnapshotWriter();
    const version = frozen.states.some(({ narrow }) => narrow.length > 0) ? NARROWED : PLAIN;
    const header = headerOf(frozen, fingerprint, blockRows, version);
    yield writer.seal([new TextEncoder().encode(MAGIC), u32Bytes(version, header.length), header]);
    for (const lane of frozen.states.flatMap(lanesOf)) {
      for (let slot = 0; slot < lane.length; slot += blockRows) {
        cache.checkSettled("saveSnapshot");
        yield writer.seal(piecesOf(lane, slot, Math.min(slot + blockRows, lane.length)));
      }
    }
  } finally {
    frozen.dispose();
  }
}

/**
 * Restores a cache from a snapshot.
 *
 * @param cache - of the same widths, elements and rotations as the saved one, in any layout; what it holds is
 *   forgotten once the header has been found to fit
 * @param chunks - the snapshot, cut anywhere
 * @param fingerprint - as it was when saved
 * @param name - the name of the file, for messages
 * @throws FormatError with `got.byteOffset` when the snapshot is damaged or of something else; the cache is then as
 *   before, or empty
 * @throws BudgetError when the cache cannot hold the rows; it is then empty
 */
export async function restoreSnapshot<View extends KeyValues>(
  cache: PositionedCache<View>,
  chunks: SnapshotChunks,
  fingerprint: SnapshotFingerprint,
  name = "snapshot",
): Promise<void> {
  cache.checkSettled("restoreSnapshot");
  const reader = new SnapshotReader(name, chunks);
  try {
    const header = await readHeader(reader, cache, fingerprint);
    cache.prepare(header.perHead, header.nextPosition, header.scheduleLength, header.channels);
    try {
      for (const [layer, { spec, lanes, narrow }] of cache.states.entries()) {
        const saved = header.lanes[layer];
        const parts = narrow.length > 0 ? [narrow, lanes] : [lanes];
        const savedLanes = saved.length / parts.length; // of a part
        const heads = spec.kvHeads / savedLanes;
        for (const [index, { rows, hasDropped }] of saved.entries()) {
          const part = parts[Math.floor(index / savedLanes)];
          const targets = part.length === savedLanes ? [part[index % savedLanes]] : part;
          for (let slot = 0; slot < rows; slot += header.blockRows) {
            const count = Math.min(header.blockRows, rows - slot);
            const block = await reader.sealed(count * rowBytes(part[0], heads));
            restoreRows(targets, heads, block, count, header.nextPosition);
          }
          for (const lane of targets) {
            if (lane.length !== rows) throw ringTooSmall(rows, lane.length);
            lane.hasDropped = hasDropped;
            if (lane.channels !== undefined) lane.trim();
          }
        }
      }
      for (const state of cache.states) leaveEmpty(state);
      await reader.end();
    } catch (error) {
      cache.dispose();
      throw error;
    }
  } finally {
    await reader.close();
  }
}

type Header = {
  readonly scheduleLength: number;
  readonly nextPosition: number;
  readonly blockRows: number;
  readonly perHead: readonly boolean[];
  readonly channels: readonly (readonly Int32Array[] | undefined)[];
  /** [L] lanes as they were saved. */
  readonly lanes: readonly (readonly SavedLane[])[];
};

type SavedLane = { readonly rows: number; readonly hasDropped: boolean };

async function readHeader<View extends KeyValues>(
  source: SnapshotReader,
  cache: PositionedCache<View>,
  fingerprint: SnapshotFingerprint,
): Promise<Header> {
  const start = await source.read(MAGIC.length + 8);
  if (new TextDecoder().decode(start.bytes(MAGIC.length)) !== MAGIC) {
    throw new FormatError(start.where, `a cache snapshot, which starts with ${MAGIC}`, { byteOffset: 0 });
  }
  const version = start.u32();
  if (version !== PLAIN && version !== NARROWED) {
    throw new FormatError(start.where, `snapshot version ${PLAIN} or ${NARROWED}`, {
      byteOffset: MAGIC.length,
      version,
    });
  }
  const length = start.u32();
  if (length > MAX_HEADER_BYTES) {
    throw start.error(`a header of at most ${MAX_HEADER_BYTES} bytes`, { length }, DAMAGED);
  }
  const reader = await source.sealed(length);
  checkFingerprint(reader, fingerprint);
  const kind = readText(reader);
  const [scheduleLength, nextPosition, blockRows] = [reader.u64(), reader.u64(), reader.u32()];
  if (kind !== cache.rowKind(scheduleLength)) {
    throw reader.error(
      "a snapshot of the same layers, elements and rotations",
      { kind },
      "Restore it with the model it was made with.",
    );
  }
  if (nextPosition > 2 ** 31) throw reader.error("a position within 2^31", { nextPosition }, DAMAGED);
  const layers = reader.u32();
  if (layers !== cache.layers) throw reader.error(`${cache.layers} layers`, { layers }, DAMAGED);
  const perHead: boolean[] = [];
  const channels: (Int32Array[] | undefined)[] = [];
  const lanes: SavedLane[][] = [];
  for (const [layer, { spec }] of cache.states.entries()) {
    const split = flag(reader);
    perHead.push(split);
    const held = version === NARROWED ? readChannels(reader, spec, layer) : undefined;
    channels.push(held);
    const saved: SavedLane[] = [];
    for (let lane = 0; lane < (split ? spec.kvHeads : 1) * (held ? 2 : 1); lane++) {
      saved.push({ rows: reader.u64(), hasDropped: flag(reader) });
    }
    lanes.push(saved);
    const largest = blockRows * (spec.kvHeads * headRowBytes(spec) + 4 * (2 * cache.axes + 3));
    if (blockRows === 0 || (blockRows > 1 && largest > MAX_BLOCK_BYTES)) {
      throw reader.error(`blocks of at most ${MAX_BLOCK_BYTES} bytes`, { blockRows }, DAMAGED);
    }
  }
  if (reader.remaining > 0) throw reader.error("the end of the header", { remaining: reader.remaining }, DAMAGED);
  return { scheduleLength, nextPosition, blockRows, perHead, channels, lanes };
}

/** The channels that older keys of a layer hold; undefined where there are no such keys. */
function readChannels(reader: ByteReader, spec: ResolvedLayer, layer: number): Int32Array[] | undefined {
  const { kvHeads, keyDim } = spec;
  const width = reader.u32();
  if (width === 0) return undefined;
  if (width >= keyDim) throw reader.error(`fewer channels than ${keyDim}`, { channels: width, layer }, DAMAGED);
  if (!canNarrow(spec)) {
    throw reader.error(
      "a cache whose keys can hold some of their channels",
      { layer, layout: spec.layout.type, capacity: spec.capacity },
      "Restore it into a contiguous or paged layer without a capacity.",
    );
  }
  return Array.from({ length: kvHeads }, () => {
    const list = Int32Array.from({ length: width }, () => reader.i32());
    if (list.every((channel, n) => channel > (n === 0 ? -1 : list[n - 1]) && channel < keyDim)) return list;
    throw reader.error(`channels that ascend from 0 to ${keyDim - 1}`, { layer }, DAMAGED);
  });
}

function checkFingerprint(reader: ByteReader, wanted: SnapshotFingerprint): void {
  const found: Record<string, string> = {};
  const count = reader.u32();
  for (let n = 0; n < count; n++) {
    const name = readText(reader);
    found[name] = readText(reader);
  }
  for (const name of new Set([...Object.keys(wanted), ...Object.keys(found)])) {
    const [saved, expected] = [found, wanted].map((one) => (Object.hasOwn(one, name) ? one[name] : undefined));
    if (saved === expected) continue;
    throw reader.error(
      `a snapshot made with the same ${name}`,
      { saved, expected },
      "Restore it with the model it was made with.",
    );
  }
}

/** Writes one block of rows of so many heads to the end of the lane, or lanes, that hold them. */
function restoreRows(
  lanes: readonly Lane[],
  heads: number,
  reader: ByteReader,
  count: number,
  nextPosition: number,
): void {
  const lists = lanes[0].columns.lists.map(() => Int32Array.from({ length: count }, () => reader.i32()));
  for (const position of lists[0]) {
    if (position >= nextPosition)
      throw reader.error("positions below the next one", { position, nextPosition }, DAMAGED);
  }
  for (const lane of lanes) lane.addSlots(lists);
  for (const [n, { heads: own }] of lanes[0].store.block.arrays.entries()) {
    const unit = lanes[0].store.block.arrays[n].bytesOf(0, count).map(({ length }) => length / count / own);
    const parts = unit.map((bytes) => reader.bytes(count * heads * bytes));
    for (const [index, lane] of lanes.entries()) placeUnits(lane, n, count, index * own, parts);
  }
}

/**
 * Copies the heads of a lane from `head` on into its last rows.
 *
 * @param parts - bytes of `count` rows of one array, as they were saved
 */
function placeUnits(lane: Lane, n: number, count: number, head: number, parts: readonly Uint8Array[]): void {
  const first = lane.length - count;
  for (const { slot, row, count: rows } of runsOf(lane.store, first, lane.length)) {
    lane.store.block.arrays[n].bytesOf(row, rows).forEach((bytes, part) => {
      const [width, saved] = [bytes.length / rows, parts[part].length / count]; // bytes of a row
      const together = width === saved ? rows : 1;
      for (let r = 0; r < rows; r += together) {
        const from = (slot - first + r) * saved + head * (width / lane.heads);
        bytes.set(parts[part].subarray(from, from + together * width), r * width);
      }
    });
  }
}

/** The bytes of some slots in the order of the format, where they lie. */
function piecesOf(lane: Lane, from: number, to: number): Pieces {
  const bytes = (list: Int32Array): Uint8Array => new Uint8Array(list.buffer, list.byteOffset, list.byteLength);
  const pieces = lane.columns.lists.map((list) => bytes(list.subarray(from, to)));
  for (const array of lane.store.block.arrays) {
    const runs = [...runsOf(lane.store, from, to)].map(({ row, count }) => array.bytesOf(row, count));
    for (const part of runs[0].keys()) pieces.push(...runs.map((run) => run[part]));
  }
  return pieces;
}

function headerOf<View extends KeyValues>(
  cache: PositionedCache<View>,
  fingerprint: SnapshotFingerprint,
  blockRows: number,
  version: number,
): Uint8Array {
  const bytes: number[] = [];
  const text = (value: string): void => {
    const utf8 = new TextEncoder().encode(value);
    bytes.push(...u32Bytes(utf8.length));
    for (const byte of utf8) bytes.push(byte);
  };
  const u64 = (value: number): void => {
    bytes.push(...u32Bytes(value % 2 ** 32, Math.floor(value / 2 ** 32)));
  };
  const entries = Object.entries(fingerprint).sort(([a], [b]) => (a < b ? -1 : 1));
  bytes.push(...u32Bytes(entries.length));
  for (const [name, value] of entries) {
    text(name);
    text(value);
  }
  text(cache.rowKind());
  u64(cache.scheduleLength);
  u64(cache.nextPosition);
  bytes.push(...u32Bytes(blockRows, cache.layers));
  for (const state of cache.states) {
    bytes.push(state.lanes.length > 1 ? 1 : 0);
    const channels = state.narrow.flatMap((lane) => lane.channels ?? []);
    if (version === NARROWED) {
      bytes.push(...u32Bytes(channels[0]?.length ?? 0));
      for (const list of channels) bytes.push(...u32Bytes(...list));
    }
    for (const lane of lanesOf(state)) {
      u64(lane.length);
      bytes.push(lane.hasDropped ? 1 : 0);
    }
  }
  return Uint8Array.from(bytes);
}

function rowsPerBlock(states: readonly LayerState[]): number {
  const largest = Math.max(1, ...states.flatMap(lanesOf).map((lane) => rowBytes(lane, lane.heads)));
  return Math.max(1, Math.floor(BLOCK_BYTES / largest));
}

/** Bytes of a saved row of so many heads, of the kind that a lane holds. */
function rowBytes({ layer, columns }: Lane, heads: number): number {
  return heads * headRowBytes(layer) + 4 * columns.lists.length;
}

function readText(reader: ByteReader): string {
  return reader.utf8(reader.u32());
}

function flag(reader: ByteReader): boolean {
  const value = reader.u8();
  if (value > 1) throw reader.error("0 or 1", { value }, DAMAGED);
  return value === 1;
}

function u32Bytes(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  values.forEach((value, n) => {
    view.setUint32(4 * n, value, true);
  });
  return bytes;
}

function ringTooSmall(rows: number, held: number): BudgetError {
  return new BudgetError(
    "restoreSnapshot",
    "a ring that holds every saved row",
    { rows, held },
    "Make the cache with the window and maxChunk that it was saved with, or larger ones.",
  );
}
