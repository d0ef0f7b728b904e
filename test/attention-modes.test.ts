/**
 * The modes of docs/attention.md: each is a composition of the same few parts, and each must give what one attention
 * over the whole sequence gives.
 */

import { describe, expect, it } from "vitest";
import {
  type ContiguousKv,
  causal,
  createEngine,
  finishState,
  mergeStates,
  sameSegment,
  slidingWindow,
  stateFromOutput,
} from "../src/index.ts";
import { rows, type Tensor, tensor } from "../src/tensor.ts";
import { expectClose } from "./support/expect-close.ts";
import { F32_COMPUTED } from "./support/tolerances.ts";
import { values } from "./support/values.ts";

const [T, H, HK, D, DV] = [23, 4, 2, 5, 3];
const q = values([T, H, D], 1);
const k = values([T, HK, D], 2);
const v = values([T, HK, DV], 3);
const mask = causal().and(slidingWindow(9));
const sinks = [0.5, -1, 0.25, 2];
const engine = await createEngine();
const whole = await engine.attention({ q, k, v, mask, sinks });

const range = (start: number, end: number): Int32Array => Int32Array.from({ length: end - start }, (_, n) => start + n);

/** Rows of the whole result that stand for tokens start to end − 1. */
function expectRows({ out, lse }: { out: Tensor; lse: Tensor }, start: number, end: number, want = whole): void {
  expectClose(out.data as Float32Array, rows(want.out as Tensor<"f32">, start, end).data, F32_COMPUTED);
  expectClose(lse.data as Float32Array, rows(want.lse as Tensor<"f32">, start, end).data, F32_COMPUTED);
}

describe("training", () => {
  it("attends over whole sequences, with dropout that another seed changes and evaluation turns off", async () => {
    const request = { q, k, v, mask, sinks, dropout: { rate: 0.3, seed: 7 } };
    const first = await engine.attention(request);
    const again = await engine.attention(request, { kernel: "tiled" });
    const other = await engine.attention({ ...request, dropout: { rate: 0.3, seed: 8 } });
    expectClose(again.out.data, first.out.data, F32_COMPUTED);
    expect(other.out.data).not.toEqual(first.out.data);
    expectRows(await engine.attention({ ...request, deterministic: true }), 0, T);
  });
});

describe("chunked prefill", () => {
  it("attends each chunk to the cache so far, by positions alone", async () => {
    for (const [start, end] of [
      [0, 7],
      [7, 18],
      [18, 23],
    ]) {
      const chunk = { q: rows(q, start, end), k: rows(k, 0, end), v: rows(v, 0, end) };
      expectRows(await engine.attention({ ...chunk, mask, sinks, queryPositions: range(start, end) }), start, end);
      expectRows(await engine.attention({ ...chunk, mask, sinks }), start, end); // the default: queries end with the keys
    }
  });
});

describe("autoregressive decoding", () => {
  it("attends one token to a ring that has forgotten what the window does not reach", async () => {
    const capacity = 9;
    const keys = tensor("f32", [1, capacity, HK, D], new Float32Array(capacity * HK * D));
    const kept = tensor("f32", [1, capacity, HK, DV], new Float32Array(capacity * HK * DV));
    for (let t = 0; t < T; t++) {
      keys.data.set(rows(k, t, t + 1).data, (t % capacity) * HK * D);
      kept.data.set(rows(v, t, t + 1).data, (t % capacity) * HK * DV);
      const first = Math.max(0, t + 1 - capacity);
      const kv = {
        layout: "ring" as const,
        keys,
        values: kept,
        starts: Int32Array.of(first % capacity),
        positions: range(first, t + 1),
        segments: new Int32Array(t + 1 - first),
      };
      const step = await engine.attention({ q: rows(q, t, t + 1), kv, mask, sinks, queryPositions: Int32Array.of(t) });
      expectRows(step, t, t + 1);
    }
  });

  it("plans a step once and runs it in every layer", async () => {
    const step = { q: rows(q, 22, 23), k, v, mask, sinks };
    const plan = engine.plan(step);
    expect(plan.kernel).toBe("decode");
    expectRows(await engine.run(plan, step), 22, 23);
    const layer = { ...step, v: values([T, HK, DV], 33) };
    const { out } = await engine.attention(layer);
    expectClose((await engine.run(plan, layer)).out.data, out.data, F32_COMPUTED);
  });
});

describe("a prefill cache and a decode cache", () => {
  it("merge by their states, whatever the order, with the sinks in one of them", async () => {
    const prefill = 17;
    const query = { q: rows(q, 20, 23), mask, queryPositions: range(20, 23) };
    const shared = { k: rows(k, 0, prefill), v: rows(v, 0, prefill), keyPositions: range(0, prefill) };
    const recent = { k: rows(k, prefill, T), v: rows(v, prefill, T), keyPositions: range(prefill, T) };
    const parts = [
      await engine.attention({ ...query, ...shared, sinks }),
      await engine.attention({ ...query, ...recent }),
    ];
    expectRows(finishState(mergeStates(...parts.map(stateFromOutput)), "f32"), 20, 23);
    expectRows(finishState(mergeStates(...parts.reverse().map(stateFromOutput)), "f32"), 20, 23);
  });
});

describe("cross-attention", () => {
  it("has queries and keys with positions of their own", async () => {
    const memory = { k: values([11, HK, D], 5), v: values([11, HK, DV], 6) };
    const all = await engine.attention({ q, ...memory });
    expect(all.out.shape).toEqual([T, H, DV]);
    // A window over time: query t sits at 10·t of the keys' clock, which ticks in steps of 25.
    const queryPositions = Int32Array.from({ length: T }, (_, t) => 10 * t);
    const keyPositions = Int32Array.from({ length: 11 }, (_, t) => 25 * t);
    const near = slidingWindow({ left: 30, right: 30 });
    const timed = await engine.attention({ q, ...memory, mask: near, queryPositions, keyPositions });
    const seen = [3, 4, 5]; // by query 10, at 100: keys at 75, 100 and 125
    const pick = (t: Tensor<"f32">): Tensor<"f32"> => {
      const parts = seen.map((n) => rows(t, n, n + 1).data);
      return tensor("f32", [3, ...t.shape.slice(1)], Float32Array.from(parts.flatMap((part) => [...part])));
    };
    const direct = await engine.attention({ q: rows(q, 10, 11), k: pick(memory.k), v: pick(memory.v) });
    expectClose(rows(timed.out as Tensor<"f32">, 10, 11).data, direct.out.data, F32_COMPUTED);
  });
});

describe("packed batches", () => {
  it("hold documents of mixed length without padding, each as if it stood alone", async () => {
    const lengths = [5, 11, 1, 6];
    const segments = Int32Array.from(lengths.flatMap((length, n) => Array<number>(length).fill(n)));
    const positions = Int32Array.from(lengths.flatMap((length) => [...range(0, length)]));
    const packed = await engine.attention({
      q,
      k,
      v,
      mask: mask.and(sameSegment()),
      sinks,
      queryPositions: positions,
      keyPositions: positions,
      querySegments: segments,
      keySegments: segments,
    });
    let start = 0;
    for (const length of lengths) {
      const end = start + length;
      const part = { q: rows(q, start, end), k: rows(k, start, end), v: rows(v, start, end) };
      const alone = await engine.attention({ ...part, mask, sinks });
      expectClose(rows(packed.out as Tensor<"f32">, start, end).data, alone.out.data, F32_COMPUTED);
      start = end;
    }
  });

  it("hold sequences of mixed length in a ragged cache", async () => {
    const lengths = Int32Array.of(23, 9);
    const kv: ContiguousKv = {
      layout: "contiguous",
      keys: tensor("f32", [2, T, HK, D], Float32Array.of(...k.data, ...k.data)),
      values: tensor("f32", [2, T, HK, DV], Float32Array.of(...v.data, ...v.data)),
      positions: Int32Array.of(...range(0, T), ...range(0, T)),
      segments: new Int32Array(2 * T),
      lengths,
    };
    const last = tensor("f32", [2, 1, H, D], Float32Array.of(...rows(q, 22, 23).data, ...rows(q, 8, 9).data));
    const request = { q: last, kv, mask, sinks, queryPositions: Int32Array.of(22, 8) };
    const { out } = await engine.attention(request, { kernel: "ragged" });
    const want = [22, 8].flatMap((t) => [...rows(whole.out as Tensor<"f32">, t, t + 1).data]);
    expectClose(out.data, want, F32_COMPUTED);
  });
});
