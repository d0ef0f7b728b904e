/** What is measured: dimensions, useful work, and the figures to reach. */
import { stepFlop } from "./training-model.mjs";

/**
 * @typedef {object} AttentionDims
 * @property {number} Tq
 * @property {number} Tk
 * @property {number} H
 * @property {number} Hk
 * @property {number} D
 * @property {number} [window] visible keys of a causal window, the query's own included
 * @property {number} [document] tokens of each packed document
 */

/**
 * @typedef {object} Work
 * @property {string} id
 * @property {string} group
 * @property {string} name
 * @property {"engine" | "training" | "caches"} [section] where its measurements stand; engine when absent
 * @property {"attention" | "rotate" | "linear" | "overhead" | "training" | "gradient" | "compression" | "caches"} kind
 * @property {any} dims AttentionDims; {heads, T, D}; {tokens, inputs, outputs}; {B, T}; {shape, tokens, chunk}
 * @property {boolean} [alone] ours on one thread only
 * @property {boolean} [threads] ours on two threads as well, without a figure
 * @property {number} [rounds] at least so many rounds, where small differences count
 * @property {number} [longRounds] rounds of calls that take long; 2 when absent
 * @property {"int8"} [kv] element type of keys and values, f32 when absent
 * @property {string[]} [peers] who takes part beside ours; all when absent
 * @property {number} [flop] useful floating-point operations
 * @property {number} [bytes] bytes that must be read (and written) once
 * @property {Figure[]} figures
 */

/**
 * A figure to reach.
 * - peak, read: share of the core's limit
 * - ratio: time of the fastest contender whose name starts with one of `against` (and has no `without` in it), by ours
 * - per-flop, time: speed per FLOP, and time, compared with other work of ours
 * - threads: one thread's time by that of two
 * - overhead: time of a planned run over that of its kernel, µs
 * - bytes: bytes of the cache by those in f32
 * - extra: what another formulation of ours takes more than the first in its shortest call, as a share of that
 * - compressing: share of another formulation's time that it spends compressing
 *
 * @typedef {object} Figure
 * @property {"peak" | "read" | "ratio" | "per-flop" | "time" | "threads" | "overhead" | "bytes" | "extra" | "compressing"} of
 * @property {string} [name] of the other formulation
 * @property {number} [atLeast]
 * @property {number} [atMost]
 * @property {string[]} [against]
 * @property {string} [without]
 * @property {string} [than] id of other work
 */

const WASM_PEERS = ["ort-web", "tfjs", "jax"];
const ALL_PEERS = ["ort-node", ...WASM_PEERS];

/** Pairs of query and key that see each other, in one head. */
function visiblePairs({ Tq, Tk, window = Infinity, document = Infinity }) {
  let pairs = 0;
  for (let i = Tk - Tq; i < Tk; i++) pairs += Math.min(i + 1, window, (i % document) + 1 || i + 1);
  return pairs;
}

/** @returns {Work} */
function attention(id, group, name, dims, figures, more = {}) {
  const flop = visiblePairs(dims) * 4 * dims.H * dims.D;
  const bytes = dims.Tq === 1 ? 2 * dims.Tk * dims.Hk * dims.D * (more.kv === "int8" ? 1 : 4) : undefined;
  return { id, group, name, kind: "attention", dims, flop, ...(bytes ? { bytes } : {}), figures, ...more };
}

const prefill = (T, H, Hk, D, more = {}) => ({ Tq: T, Tk: T, H, Hk, D, ...more });
const decode = (Tk, Hk, D = 128) => ({ Tq: 1, Tk, H: 8, Hk, D });
const peak = (atLeast) => ({ of: "peak", atLeast });
const read = (atLeast) => ({ of: "read", atLeast });
const ratio = (atLeast, against) => ({ of: "ratio", atLeast, against });
const perFlop = (than) => ({ of: "per-flop", atLeast: 1, than });
const cacheBytes = { of: "bytes", atMost: 0.27 };
const threads = { of: "threads", atLeast: 1.8 };

/** Forwards and back: 4·D operations a pair, and 10·D. @returns {Work} */
function gradient(id, name, dims, more = {}) {
  const flop = visiblePairs(dims) * 14 * dims.H * dims.D;
  return {
    id,
    section: "training",
    group: "gradient",
    name,
    kind: "gradient",
    dims,
    flop,
    figures: [peak(0.6)],
    ...more,
  };
}

/** @returns {Work} */
const training = (B, T, more = {}) => ({
  id: `training-${B}x${T}`,
  section: "training",
  group: "training",
  name: `training step, ${B} rows of ${T} tokens`,
  kind: "training",
  dims: { B, T },
  flop: stepFlop({ B, T }),
  peers: ["jax"],
  threads: true,
  longRounds: 4,
  figures: [ratio(2, ["jax"])],
  ...more,
});

const MEDIUM = { hidden: 512, layers: 2, heads: 8, kvHeads: 2, headDim: 64, inner: 1376, vocabulary: 1024 };
const SMALL = { hidden: 192, layers: 4, heads: 6, kvHeads: 2, headDim: 32, inner: 512, vocabulary: 1024 };

/** @returns {Work} */
const compression = (id, shape) => ({
  id: `compression-${id}`,
  section: "caches",
  group: "compression",
  name: `prefill of 4096 tokens in chunks of 512, ${shape.hidden} wide, ${shape.heads}/${shape.kvHeads} heads, D ${shape.headDim}`,
  kind: "compression",
  dims: { shape, tokens: 4096, chunk: 512 },
  alone: true,
  longRounds: 5,
  figures: ["SnapKV", "Knorm"].flatMap((name) => [
    { of: "compressing", atMost: 0.15, name: `${name}, half goes at the end` },
    { of: "compressing", atMost: 0.15, name: `${name}, a quarter stays after every chunk` },
  ]),
});

/** @type {Work[]} */
export const WORK = [
  ...[1024, 4096].flatMap((T) => [
    attention(`prefill-${T}`, "prefill", `causal prefill, 8 heads, D 64, T ${T}`, prefill(T, 8, 8, 64), [
      peak(0.7),
      ratio(2.2, WASM_PEERS),
      threads,
    ]),
    attention(
      `prefill-${T}-gqa`,
      "prefill",
      `the same, 2 key-value heads`,
      prefill(T, 8, 2, 64),
      [perFlop(`prefill-${T}`)],
      T === 1024 ? {} : { peers: ["ort-node"] },
    ),
  ]),
  attention("prefill-1024-128", "prefill", "causal prefill, 8 heads, D 128, T 1024", prefill(1024, 8, 8, 128), [
    perFlop("prefill-1024"),
  ]),
  attention(
    "prefill-4096-128",
    "prefill",
    "causal prefill, 8 heads, D 128, T 4096",
    prefill(4096, 8, 8, 128),
    [perFlop("prefill-4096")],
    { peers: ["ort-node"] },
  ),
  attention(
    "window-4096",
    "window",
    "sliding window 256, 8 heads, D 64, T 4096",
    prefill(4096, 8, 8, 64, { window: 256 }),
    [ratio(2.5, ["ort-node"])],
  ),
  attention(
    "packed-4096",
    "packed",
    "16 packed documents of 256, 8 heads, D 64",
    prefill(4096, 8, 8, 64, { document: 256 }),
    [{ ...ratio(5, ALL_PEERS), without: "as a batch" }],
  ),
  attention("decode-4096-gqa", "decode", "decode, 8/2 heads, D 128, 4096 keys", decode(4096, 2), []),
  attention("decode-16384-gqa", "decode", "decode, 8/2 heads, D 128, 16384 keys", decode(16384, 2), [
    peak(0.75),
    ratio(1.5, ["ort-node: decomposed", "ort-node: keys first"]),
  ]),
  attention("decode-65536-gqa", "decode", "decode, 8/2 heads, D 128, 65536 keys", decode(65536, 2), [
    peak(0.75),
    ratio(1.5, ["ort-node: decomposed", "ort-node: keys first"]),
    ratio(4, ["ort-node: GroupQueryAttention"]),
  ]),
  attention("decode-4096", "decode", "decode, 8/8 heads, D 128, 4096 keys", decode(4096, 8), []),
  attention("decode-16384", "decode", "decode, 8/8 heads, D 128, 16384 keys", decode(16384, 8), []),
  attention("decode-65536", "decode", "decode, 8/8 heads, D 128, 65536 keys", decode(65536, 8), [read(0.8)]),
  attention("decode-4096-gqa-int8", "int8", "decode, 8/2 heads, int8 keys and values, 4096 keys", decode(4096, 2), [], {
    kv: "int8",
    peers: [],
  }),
  attention(
    "decode-65536-gqa-int8",
    "int8",
    "decode, 8/2 heads, int8 keys and values, 65536 keys",
    decode(65536, 2),
    [{ of: "time", atLeast: 1, than: "decode-65536-gqa" }, cacheBytes],
    { kv: "int8", peers: [] },
  ),
  attention(
    "decode-65536-int8",
    "int8",
    "decode, 8/8 heads, int8 keys and values, 65536 keys",
    decode(65536, 8),
    [{ of: "time", atLeast: 1.3, than: "decode-65536" }, cacheBytes],
    { kv: "int8", peers: [] },
  ),
  {
    id: "rotate",
    group: "rotate",
    name: "rotation of [1, 8, 4096, 128]",
    kind: "rotate",
    dims: { heads: 8, T: 4096, D: 128 },
    bytes: 2 * 4 * 8 * 4096 * 128,
    figures: [ratio(1.3, ["ort-node"])],
  },
  {
    id: "linear-512",
    group: "linear",
    name: "linear 512³",
    kind: "linear",
    dims: { tokens: 512, inputs: 512, outputs: 512 },
    flop: 2 * 512 ** 3,
    figures: [peak(0.85), ratio(1, WASM_PEERS), threads],
  },
  {
    id: "linear-row",
    group: "linear",
    name: "linear 1×4096 by 4096²",
    kind: "linear",
    dims: { tokens: 1, inputs: 4096, outputs: 4096 },
    flop: 2 * 4096 ** 2,
    bytes: 4 * 4096 ** 2,
    figures: [ratio(1, WASM_PEERS)],
  },
  ...[64, 16384].map((Tk) => ({
    id: `overhead-${Tk}`,
    group: "overhead",
    name: `a planned decode step, 8/2 heads, D 128, ${Tk} keys`,
    kind: "overhead",
    dims: decode(Tk, 2),
    figures: [{ of: "overhead", atMost: 10 }],
    peers: [],
  })),
  training(4, 128),
  training(2, 512),
  gradient("gradient-1024", "attention, forwards and back, 8 heads, D 64, T 1024", prefill(1024, 8, 8, 64), {
    peers: ["jax"],
    threads: true,
  }),
  gradient("gradient-4096", "the same, T 4096", prefill(4096, 8, 8, 64), { peers: [], longRounds: 4 }),
  gradient("gradient-4096-gqa", "the same, T 4096, 2 key-value heads", prefill(4096, 8, 2, 64), {
    peers: [],
    longRounds: 4,
  }),
  gradient("gradient-packed", "the same, 16 packed documents of 256", prefill(4096, 8, 8, 64, { document: 256 }), {
    peers: [],
  }),
  compression("medium", MEDIUM),
  compression("small", SMALL),
  {
    id: "caches-8192",
    section: "caches",
    group: "caches",
    name: "a step after 8192 tokens, 512 wide, 8/2 heads, D 64",
    kind: "caches",
    dims: { shape: MEDIUM, tokens: 8192 },
    alone: true,
    rounds: 25,
    figures: ["SnapKV", "Knorm"].map((name) => {
      return { of: "extra", atMost: 0.02, name: `a policy that has no reason to run: ${name}` };
    }),
  },
];
