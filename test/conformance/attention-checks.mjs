/** Attention beside the reference, over a fixed list of random sizes, masks, segments, sinks and positions. */

import { createReferenceBackend } from "../../dist/engine/index.js";
import { causal, full, sameSegment, slidingWindow } from "../../dist/mask/index.js";
import { ATTENTION } from "./budgets.mjs";
import { createRandom, expectClose, randomNumbers } from "./numbers.mjs";

const MASKS = {
  full: full(),
  causal: causal(),
  window: causal().and(slidingWindow(5)),
  "two-sided window": slidingWindow({ left: 3, right: 70 }),
  "causal within segments": causal().and(sameSegment()),
  "only the future": causal().not(),
};

/** The largest sizes of a random spec, by kind of call. */
const KINDS = {
  prefill: { Tq: 41, Tk: 150, Hk: 3, G: 5, D: 21 },
  decode: { Tq: 1, Tk: 400, Hk: 3, G: 8, D: 64 },
  "a few queries": { Tq: 5, Tk: 300, Hk: 2, G: 4, D: 33 },
};

const PER_KIND = 16;

/** Sizes that show the splits over keys and threads, and the packed tiles of many rows. */
const LARGE = [
  { kind: "decode", Tq: 1, Tk: 4099, Hk: 2, G: 4, D: 64, Dv: 64, mask: "causal", sinks: false, segments: 1 },
  { kind: "decode", Tq: 1, Tk: 2053, Hk: 1, G: 7, D: 24, Dv: 40, mask: "full", sinks: true, segments: 1 },
  { kind: "prefill", Tq: 131, Tk: 263, Hk: 2, G: 2, D: 32, Dv: 32, mask: "causal", sinks: false, segments: 1 },
  { kind: "prefill", Tq: 157, Tk: 157, Hk: 1, G: 3, D: 16, Dv: 20, mask: "window", sinks: true, segments: 1 },
  {
    kind: "prefill",
    Tq: 149,
    Tk: 149,
    Hk: 2,
    G: 1,
    D: 64,
    Dv: 8,
    mask: "causal within segments",
    sinks: false,
    segments: 5,
  },
];

const SPECS = [...Object.keys(KINDS).flatMap((kind, k) => randomSpecs(kind, k)), ...LARGE];

function randomSpecs(kind, salt) {
  const next = createRandom(1000 * (salt + 1));
  const upTo = (most) => 1 + Math.floor((Math.abs(next()) * most) % most);
  const names = Object.keys(MASKS);
  return Array.from({ length: PER_KIND }, (_, n) => {
    const { Tq, Tk, Hk, G, D } = KINDS[kind];
    return {
      kind,
      Tq: upTo(Tq),
      Tk: upTo(Tk),
      Hk: upTo(Hk),
      G: upTo(G),
      // Widths that vectors divide, and others.
      D: n % 2 ? 4 * upTo(Math.floor(D / 4)) : upTo(D),
      Dv: n % 3 ? upTo(D) : 4 * upTo(Math.floor(D / 4)),
      mask: names[n % names.length],
      sinks: next() > 0,
      segments: upTo(4),
    };
  });
}

/** The call of a spec with its arrays as they are, and its name. */
function callOf(spec, seed) {
  const { Tq, Tk, Hk, G, D, Dv, mask, sinks, segments } = spec;
  const H = Hk * G;
  const tensor = (salt, shape) => {
    const length = shape.reduce((a, b) => a * b, 1);
    return { dtype: "f32", shape, data: randomNumbers(length, seed + salt, 2) };
  };
  // Every sequence of segments ends with padding when there are several.
  const segment = (length) =>
    Int32Array.from({ length }, (_, i) => {
      const own = Math.floor((i * (segments + (segments > 1 ? 0.3 : 0))) / length);
      return own === segments ? -1 : own;
    });
  return {
    q: tensor(1, [Tq, H, D]),
    kv: {
      keys: tensor(2, [Tk, Hk, D]),
      values: tensor(3, [Tk, Hk, Dv]),
      // Some slots are missing, as after an eviction.
      positions: Int32Array.from({ length: Tk }, (_, slot) => slot + Math.floor(slot / 11)),
      segments: segment(Tk),
    },
    queryPositions: Int32Array.from({ length: Tq }, (_, t) => Tk + Math.floor(Tk / 11) - Tq + t),
    querySegments: segment(Tq),
    mask: MASKS[mask],
    scale: 1 / Math.sqrt(D),
    ...(sinks && { sinks: randomNumbers(H, seed + 4, 2) }),
  };
}

const wanted = new Map();

/** The reference's output for a call, computed once for all modes. */
function referenceOutput(key, call) {
  if (!wanted.has(key)) {
    const backend = createReferenceBackend();
    const out = backend.allocate(outShape(call));
    backend.attend(out, call);
    wanted.set(key, out.data);
  }
  return wanted.get(key);
}

const outShape = ({ q, kv }) => [q.shape[0], q.shape[1], kv.values.shape[2]];

/** Runs one call on a backend and gives a copy of the output. */
export async function attendOn(backend, call) {
  const place = (t) => {
    const placed = backend.allocate(t.shape);
    placed.data.set(t.data);
    return placed;
  };
  const [q, keys, values] = [call.q, call.kv.keys, call.kv.values].map(place);
  const out = backend.allocate(outShape(call));
  backend.attend(out, { ...call, q, kv: { ...call.kv, keys, values } });
  await backend.flush();
  const copy = out.data.slice();
  for (const t of [q, keys, values, out]) backend.release(t);
  return copy;
}

async function check(backend, spec, index, extra = {}) {
  const call = { ...callOf(spec, 10 * index), ...extra };
  const name = JSON.stringify({ ...spec, ...extra });
  expectClose(name, await attendOn(backend, call), referenceOutput(name, call), ATTENTION);
}

/** The largest decode call, for checks of determinism. */
export const SPLIT_CALL = callOf(LARGE[0], 7);

/** [name, check(backend)] by kind of call. */
export const ATTENTION_CHECKS = [
  ...Object.keys(KINDS).map((kind) => [
    `attention, ${kind}`,
    async (backend) => {
      for (const [index, spec] of SPECS.entries()) if (spec.kind === kind) await check(backend, spec, index);
    },
  ]),
  [
    "attention, soft cap",
    async (backend) => {
      for (const [index, spec] of SPECS.entries())
        if (index % 5 === 0) await check(backend, spec, index, { softcap: 3 });
    },
  ],
];
