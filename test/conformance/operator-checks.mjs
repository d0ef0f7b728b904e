/** Every option, layout and element type of the attention operator, by `createEngine`, beside the reference. */

import { quantizeKv, scoreModifier } from "../../dist/attention/index.js";
import { createEngine } from "../../dist/engine/index.js";
import { causal, sameSegment, slidingWindow } from "../../dist/mask/index.js";
import { ATTENTION } from "./budgets.mjs";
import { expectClose, randomNumbers } from "./numbers.mjs";

const [B, Tq, Tk, Hk, G, D, Dv] = [2, 13, 101, 2, 3, 20, 11];
const H = Hk * G;

function tensor(seed, shape) {
  const length = shape.reduce((a, b) => a * b, 1);
  return { dtype: "f32", shape, data: randomNumbers(length, seed, 2) };
}

/** The upper half of each number's bits. */
function bf16({ shape, data }) {
  return { dtype: "bf16", shape, data: Uint16Array.from(new Uint32Array(data.buffer), (bits) => bits >>> 16) };
}

const rows = (length, value) =>
  Int32Array.from({ length: B * length }, (_, n) => value(n % length, Math.floor(n / length)));
const q = tensor(1, [B, Tq, H, D]);
const k = tensor(2, [B, Tk, Hk, D]);
const v = tensor(3, [B, Tk, Hk, Dv]);
const mask = causal();
const dense = { q, k, v, mask };
const slots = { positions: rows(Tk, (slot) => slot), segments: rows(Tk, () => 0) };
const viewed = { q, mask, queryPositions: rows(Tq, (t) => Tk - Tq + t) };
/** Requests by name. */
const REQUESTS = {
  plain: dense,
  "a window": { ...dense, mask: causal().and(slidingWindow(17)) },
  segments: {
    ...dense,
    mask: causal().and(sameSegment()),
    querySegments: rows(Tq, (t, b) => (t < 3 + b ? 1 : 2)),
    keySegments: rows(Tk, (t) => (t < 30 ? 0 : t < 90 ? 1 : t < 100 ? 2 : -1)),
  },
  "a soft cap": { ...dense, softcap: 2 },
  sinks: { ...dense, sinks: randomNumbers(H, 4, 2) },
  ALiBi: { ...dense, alibiSlopes: randomNumbers(H, 5).map(Math.abs) },
  "a bias": { ...dense, bias: tensor(6, [B, H, Tq, Tk]) },
  "a bias for all heads": { ...dense, bias: tensor(7, [1, 1, Tq, Tk]) },
  "a score modifier": {
    ...dense,
    scoreModifier: scoreModifier(({ score, qPosition, kvPosition }) =>
      score.mul(0.5).add(qPosition.sub(kvPosition).mul(-0.01)),
    ),
  },
  dropout: { ...dense, dropout: { rate: 0.3, seed: 17 } },
  MoBA: { ...dense, select: { kind: "moba", chunk: 16, topk: 3 } },
  "an indexer": {
    ...dense,
    select: {
      kind: "indexer",
      queries: tensor(8, [B, Tq, 2, 6]),
      keys: tensor(9, [B, Tk, 6]),
      weights: tensor(10, [B, Tq, 2]),
      topk: 19,
    },
  },
  "16-bit keys and values": { ...viewed, kv: { layout: "contiguous", keys: bf16(k), values: bf16(v), ...slots } },
  "8-bit keys and values": { ...viewed, kv: quantized(8) },
  "4-bit keys and values": { ...viewed, kv: quantized(4) },
  "ragged lengths": {
    ...viewed,
    kv: { layout: "contiguous", keys: k, values: v, ...slots, lengths: Int32Array.of(101, 47) },
  },
  "a ring": { ...viewed, kv: { layout: "ring", keys: k, values: v, ...slots, starts: Int32Array.of(0, 37) } },
  pages: { ...viewed, kv: paged() },
};

function quantized(bits) {
  return { layout: "contiguous", keys: quantizeKv(k, { bits }), values: quantizeKv(v, { bits }), ...slots };
}

/** Pages of 16 rows, all of them in another order. */
function paged() {
  const [pageRows, pages] = [16, 7];
  const order = Int32Array.from({ length: B * pages }, (_, n) => (n * 5) % (B * pages));
  const store = (seed, width) => tensor(seed, [B * pages, pageRows, Hk, width]);
  const pageTable = { dtype: "i32", shape: [B, pages], data: order };
  return { layout: "paged", keys: store(11, D), values: store(12, Dv), ...slots, pageTable };
}

/** [name, check(backend, { options })]; `options` are those the backend was made with. */
export const OPERATOR_CHECKS = Object.entries(REQUESTS).map(([name, request]) => [
  `the operator with ${name}`,
  async (_, { options }) => {
    const reference = await createEngine({ backend: "reference" });
    const engine = await createEngine({ ...options, backend: "wasm" });
    try {
      const full = { ...request, outputs: { maxLogits: true } };
      const [got, want] = [await engine.attention(full), await reference.attention(full)];
      for (const part of ["out", "lse", "maxLogits"]) expectClose(part, got[part].data, want[part].data, ATTENTION);
    } finally {
      engine.dispose();
    }
  },
]);
