import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../test/support/expect-close.ts";
import { F32_COMPUTED } from "../../test/support/tolerances.ts";
import { values } from "../../test/support/values.ts";
import {
  type Amount,
  compactor,
  criticalKV,
  finch,
  type HeadRows,
  headMajorRows,
  kvCompose,
  kvzip,
  nonCausalAttention,
  type Observation,
  type Policy,
  pyramidKV,
  type Queries,
  type RepeatPass,
  snapKV,
  tokenMajorRows,
  tova,
} from "../compress/index.ts";
import { projectedNorms as normsInLoops } from "../compress/projected-values.ts";
import { attentionSums, lastQueries } from "../compress/query-attention.ts";
import { repeatPeaks as peaksInLoops } from "../compress/repeat-attention.ts";
import { type Backend, createReferenceBackend, createWasmBackend } from "../engine/index.ts";
import { chunkSums, querySums, repeatPeaks } from "./attention-sums.ts";
import { projectedNorms } from "./projected-norms.ts";
import { Scratch } from "./scratch.ts";

const [HEADS, KV_HEADS, D, DV, C] = [6, 2, 40, 12, 19];
const SCALE = 0.7;

/** Rows [T, heads, dim] of numbers whose attention is neither even nor all in one place. */
function rowsOf(T: number, heads: number, dim: number, salt: number): HeadRows {
  const { data } = values([T, heads, dim], salt);
  return tokenMajorRows(data as Float32Array, heads, dim);
}

/** A layer of T tokens with every query, at positions with gaps. */
function layerOf(T: number, more: Partial<Observation> = {}): Observation & { readonly queries: Queries } {
  const positions = Int32Array.from({ length: T }, (_, t) => 2 * t + Math.floor(t / 5));
  return {
    ...{ layer: 0, layers: 1, heads: HEADS, scale: SCALE, rotary: null, nextPosition: 3 * T },
    keys: rowsOf(T, KV_HEADS, D, 1),
    values: rowsOf(T, KV_HEADS, DV, 2),
    positions: [positions, positions],
    queries: { rows: rowsOf(T, HEADS, D, 3), positions },
    unrotatedKeys: rowsOf(T, KV_HEADS, D, 1),
    outputProjection: values([C, HEADS * DV], 4).data as Float32Array,
    questionTokens: 23,
    ...more,
  };
}

/** Heads of 211 and 97 rows, one after the other. */
function raggedLayer(): Observation & { readonly queries: Queries } {
  const lengths = [211, 97];
  const positions = lengths.map((T) => Int32Array.from({ length: T }, (_, t) => 3 * t + 1));
  const { data } = values([lengths[0] + lengths[1], D], 7);
  const keys = { data: data as Float32Array, dim: D, starts: [0, lengths[0] * D], stride: D, lengths };
  const queryPositions = Int32Array.from({ length: 71 }, (_, n) => 8 * n);
  return layerOf(1, {
    keys,
    positions,
    queries: { rows: rowsOf(71, HEADS, D, 8), positions: queryPositions },
  }) as never;
}

/** A layer whose last Tr rows of keys repeat its tokens, and a pass over slots [start, end) of the others. */
function repeated(
  T: number,
  count: number,
  [start, end]: readonly [number, number],
): { all: Observation; pass: RepeatPass } {
  const all = layerOf(T + count);
  const { data } = all.keys;
  const behind = new Float32Array(KV_HEADS * count * D);
  for (let head = 0; head < KV_HEADS; head++) {
    for (let t = 0; t < count; t++) {
      const from = ((T + t) * KV_HEADS + head) * D;
      behind.set(data.subarray(from, from + D), (head * count + t) * D);
    }
  }
  const queries = rowsOf(count, HEADS, D, 9);
  const inputNorms = Float64Array.from({ length: count }, (_, i) => 1 + (i % 7));
  return { all, pass: { start, end, queries, keys: headMajorRows(behind, KV_HEADS, D), inputNorms } };
}

const BACKENDS: [string, () => Promise<Backend>][] = [
  ["reference", async () => createReferenceBackend()],
  ["wasm", () => createWasmBackend({ threads: 0, maxBytes: 2 ** 28 })],
];

describe.each(BACKENDS)("by the %s backend", (_, create) => {
  let backend: Backend;
  let scratch: Scratch;
  beforeAll(async () => {
    backend = await create();
    scratch = new Scratch(backend);
  });
  afterAll(() => {
    scratch.release();
    backend.dispose();
  });

  it.each([
    ["even heads", layerOf(211)],
    ["a sliding window", layerOf(211, { slidingWindow: 37 })],
    ["ragged heads", raggedLayer()],
  ])("sums over queries are those of loops, for %s", async (__, layer) => {
    for (const count of [64, 71]) {
      const queries = lastQueries(layer.queries, count);
      for (const weights of ["equal", "slots"] as const) {
        const want = attentionSums(layer, queries, weights);
        const got = (await querySums(scratch, layer, queries, weights)) as Float64Array[];
        expect(got.map((row) => row.length)).toEqual(want.map((row) => row.length));
        const largest = weights === "equal" ? 1 : 211;
        for (const [head, row] of got.entries()) {
          expectClose(
            row.map((sum) => sum / largest),
            want[head].map((sum) => sum / largest),
            F32_COMPUTED,
          );
        }
      }
    }
  });

  it("keys that heads hold one after the other, and queries that lie in other rows, are found", async () => {
    const T = 307;
    const layer = layerOf(T, { keys: headMajorRows(values([KV_HEADS, T, D], 5).data as Float32Array, KV_HEADS, D) });
    const queries = lastQueries(layer.queries, 67);
    const want = attentionSums(layer, queries, "equal");
    const got = (await querySums(scratch, layer, queries, "equal")) as Float64Array[];
    for (const [head, row] of got.entries()) expectClose(row, want[head], F32_COMPUTED);
  });

  it("the largest attention of repeated tokens is that of loops", async () => {
    for (const [range, sinks] of [
      [[0, 103], 4],
      [[50, 157], 4],
      [[50, 157], 0],
    ] as const) {
      const { all, pass } = repeated(157, 113, range);
      const { start, end, queries, inputNorms: norms } = pass;
      const part = { start, end, repeatedFrom: 157, sinks };
      const plain = (await repeatPeaks(scratch, all, queries, part)) as Float64Array[];
      const normed = (await repeatPeaks(scratch, all, queries, { ...part, norms })) as Float64Array[];
      const want = [peaksInLoops(all, pass, sinks), peaksInLoops(all, pass, sinks, norms)];
      for (let head = 0; head < HEADS; head++) {
        expectClose(plain[head], want[0][head], F32_COMPUTED);
        expectClose(normed[head], want[1][head], F32_COMPUTED);
      }
    }
  });

  it("norms of projected values are those of loops", async () => {
    const layer = layerOf(701);
    for (const order of [1, 2] as const) {
      const want = normsInLoops("test", layer, order);
      const weight = layer.outputProjection as Float32Array;
      const got = (await projectedNorms(scratch, layer, weight, order)) as Float64Array[];
      for (const [head, row] of got.entries()) expectClose(row, want[head], F32_COMPUTED);
    }
  });

  const POLICIES: [string, Policy, Amount][] = [
    ["snapKV", snapKV({ window: 53 }), { budget: 90 }],
    ["pyramidKV", pyramidKV({ window: 41 }), { budget: 100 }],
    ["tova", tova(), { compressionRatio: 0.4 }],
    ["finch", finch(), { budget: 60 }],
    ["finch, rows alike", finch({ normalize: false }), { budget: 60 }],
    ["nonCausalAttention", nonCausalAttention({ chunkTokens: 64 }), { budget: 70 }],
    ["compactor", compactor({ chunkTokens: 61, sketchColumns: 7 }), { budget: 80 }],
    ["criticalKV", criticalKV(snapKV({ window: 31 })), { budget: 99 }],
    ["kvzip", kvzip(), { budget: 70 }],
    ["kvzip, normalized", kvzip({ normalize: true, layerwise: true }), { budget: 70 }],
    ["kvCompose", kvCompose(), { budget: 70 }],
  ];

  it.each(POLICIES)("%s chooses the same slots as by loops of its own", async (__, policy, amount) => {
    const { takes = {} } = policy;
    expect(Object.keys(takes).length).toBeGreaterThan(0);
    const T = 229;
    const { all, pass } = repeated(T, 113, [60, T]);
    const plain: Observation = { ...layerOf(T), keys: { ...all.keys, lengths: [T, T] }, repeats: [pass] };
    const queries = plain.queries as Queries;
    let given = plain;
    if (takes.querySums) {
      const { weights, queries: wanted } = takes.querySums;
      const count = wanted === "question" ? (plain.questionTokens as number) : wanted;
      const sums = await querySums(scratch, plain, lastQueries(queries, count), weights);
      if (count * HEADS * D * T > 2 ** 18) expect(sums).toBeDefined();
      if (sums) given = { ...given, querySums: { queries: count, weights, sums } };
    }
    if (takes.chunkSums) {
      const sums = (await chunkSums(scratch, plain, queries, takes.chunkSums)) as Float64Array[];
      given = { ...given, chunkSums: { ...takes.chunkSums, sums } };
    }
    if (takes.projectedNorms) {
      const weight = plain.outputProjection as Float32Array;
      const rows = (await projectedNorms(scratch, plain, weight, takes.projectedNorms)) as Float64Array[];
      given = { ...given, projectedNorms: { order: takes.projectedNorms, rows } };
    }
    if (takes.repeatSinks !== undefined) {
      const normalized = policy.needs.inputNorms === true;
      const norms = normalized ? pass.inputNorms : undefined;
      const part = { start: pass.start, end: pass.end, repeatedFrom: T, sinks: takes.repeatSinks, norms };
      const rows = (await repeatPeaks(scratch, all, pass.queries, part)) as Float64Array[];
      given = { ...given, repeats: [{ ...pass, peaks: { sinks: takes.repeatSinks, normalized, rows } }] };
    }
    expect(policy.plan([given], amount)).toEqual(policy.plan([plain], amount));
  });
});

it("little work is left to loops", async () => {
  const layer = layerOf(23);
  const scratch = new Scratch(createReferenceBackend());
  expect(await querySums(scratch, layer, lastQueries(layer.queries, 7), "equal")).toBeUndefined();
});

it("what the backend has no room for is left to loops, and nothing stays taken", async () => {
  const backend = await createWasmBackend({ threads: 0, maxBytes: 2 ** 17 });
  const scratch = new Scratch(backend);
  const layer = layerOf(401);
  expect(await querySums(scratch, layer, lastQueries(layer.queries, 64), "equal")).toBeUndefined();
  scratch.release();
  await backend.flush();
  expect(backend.usedBytes).toBe(0);
  backend.dispose();
});

it("a computation finds what the one before has taken, and the next one only what it used", () => {
  const allocated: number[] = [];
  const released: number[] = [];
  const reference = createReferenceBackend();
  const backend = {
    allocate: (shape: readonly number[]) => {
      allocated.push(shape[0]);
      return reference.allocate(shape);
    },
    release: ({ shape }: { shape: readonly number[] }) => void released.push(shape[0]),
  } as unknown as Backend;
  const scratch = new Scratch(backend);
  const first = scratch.take(2, 3);
  scratch.take(5);
  scratch.giveBack(first);
  expect(scratch.take(6).data).toBe(first.data);
  expect(scratch.take(6).data).not.toBe(first.data);
  scratch.reset();
  expect(scratch.take(3, 2).data).toBe(first.data);
  expect(allocated).toEqual([6, 5, 6]);
  scratch.reset();
  expect(released).toEqual([5, 6]);
  scratch.release();
  expect(released).toEqual([5, 6, 6]);
});
