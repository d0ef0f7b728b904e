import { describe, expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { F32_COMPUTED, F32_STORED } from "../../../test/support/tolerances.ts";
import { values } from "../../../test/support/values.ts";
import type { KvView } from "../../attention/index.ts";
import { causal, sameSegment } from "../../mask/index.ts";
import { f32, type Tensor, zeros } from "../../tensor.ts";
import type { Activation, AttendCall, RotationTable } from "../backend.ts";
import { createReferenceTrainingBackend } from "./training-backend.ts";

const backend = createReferenceTrainingBackend();

/** Central differences of a function at x, in f64; the formulas below are of third order at most within a step. */
function differences(x: ArrayLike<number>, f: (x: Float64Array) => number): number[] {
  const step = 1e-5;
  return Array.from({ length: x.length }, (_, i) => {
    const at = (by: number): number => {
      const moved = Float64Array.from(x);
      moved[i] += by;
      return f(moved);
    };
    return (at(step) - at(-step)) / (2 * step);
  });
}

/** Σ g·y, whose gradient is what a backward operation gives for the cotangent g. */
function weighted(g: ArrayLike<number>, y: ArrayLike<number>): number {
  return Array.from(g).reduce((sum, value, i) => sum + value * y[i], 0);
}

/** what was there + the gradient. */
function added(before: ArrayLike<number>, gradient: readonly number[]): number[] {
  return gradient.map((value, i) => before[i] + value);
}

const linear = (x: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>, N: number, K: number): number[] =>
  Array.from({ length: (x.length / K) * N }, (_, at) => {
    const [t, n] = [Math.floor(at / N), at % N];
    return Array.from({ length: K }, (_, k) => x[t * K + k] * w[n * K + k]).reduce((a, c) => a + c, b[n]);
  });

const rmsNorm = (x: ArrayLike<number>, w: ArrayLike<number>, eps: number): number[] => {
  const C = w.length;
  return Array.from(x, (value, at) => {
    const row = Array.from(x).slice(at - (at % C), at - (at % C) + C);
    return (value / Math.sqrt(row.reduce((a, c) => a + c * c, 0) / C + eps)) * w[at % C];
  });
};

const layerNorm = (x: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>, eps: number): number[] => {
  const C = w.length;
  return Array.from(x, (value, at) => {
    const row = Array.from(x).slice(at - (at % C), at - (at % C) + C);
    const mean = row.reduce((a, c) => a + c, 0) / C;
    const variance = row.reduce((a, c) => a + (c - mean) ** 2, 0) / C;
    return ((value - mean) / Math.sqrt(variance + eps)) * w[at % C] + b[at % C];
  });
};

/** exp(−t²/2)/√(2π) from −∞ to x, by Simpson's rule from 0. */
const normalCdf = (x: number): number => {
  const [steps, h] = [2000, x / 2000];
  const density = (t: number): number => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI);
  let sum = density(0) + density(x);
  for (let i = 1; i < steps; i++) sum += (i % 2 === 0 ? 2 : 4) * density(i * h);
  return 0.5 + (sum * h) / 3;
};

const ACTIVATIONS: Record<Activation, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => x * normalCdf(x),
  geluTanh: (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

describe("gradients of the reference backend equal central differences", () => {
  it.each([false, true])("linear, accumulate %s", (accumulate) => {
    const [T, N, K] = [3, 5, 2];
    const [x, weight, dOut] = [values([T, K], 1), values([N, K], 2), values([T, N], 3)];
    const [dx, dWeight, dBias] = [values([T, K], 4), values([N, K], 5), values([N], 6)];
    const before = { dx: dx.data.slice(), dWeight: dWeight.data.slice(), dBias: dBias.data.slice() };
    const none = new Array(N).fill(0);
    const loss = (a: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>): number =>
      weighted(dOut.data, linear(a, w, b, N, K));
    backend.linearInputBackward(dx, dOut, weight, accumulate);
    const wantDx = differences(x.data, (a) => loss(a, weight.data, none));
    expectClose(dx.data, accumulate ? added(before.dx, wantDx) : wantDx, F32_STORED);
    backend.linearWeightBackward(dWeight, dOut, x, dBias);
    const wantDw = differences(weight.data, (w) => loss(x.data, w, none));
    expectClose(dWeight.data, added(before.dWeight, wantDw), F32_STORED);
    const wantDb = differences(none, (b) => loss(x.data, weight.data, b));
    expectClose(dBias.data, added(before.dBias, wantDb), F32_STORED);
  });

  it.each([false, true])("rmsNorm, accumulate %s, dOut overwritten when not", (accumulate) => {
    const [T, C, eps] = [3, 5, 0.1];
    const [x, weight, dOut] = [values([T, C], 1), values([C], 2), values([T, C], 3)];
    const g = dOut.data.slice();
    const dx = accumulate ? values([T, C], 4) : dOut;
    const dWeight = values([C], 5);
    const before = { dx: dx.data.slice(), dWeight: dWeight.data.slice() };
    backend.rmsNormBackward(dx, dWeight, dOut, x, weight, eps, accumulate);
    const wantDx = differences(x.data, (a) => weighted(g, rmsNorm(a, weight.data, eps)));
    const wantDw = differences(weight.data, (w) => weighted(g, rmsNorm(x.data, w, eps)));
    expectClose(dx.data, accumulate ? added(before.dx, wantDx) : wantDx, F32_STORED);
    expectClose(dWeight.data, added(before.dWeight, wantDw), F32_STORED);
  });

  it.each([
    ["of prime sizes", 3, 5, 0],
    ["one wide", 3, 1, 0],
    ["of pairs", 2, 2, 0],
    ["with a mean of 1000 and a spread of 1", 3, 7, 1000],
    ["of equal numbers", 2, 5, "equal"],
  ] as const)("layerNorm of rows %s, accumulating or overwriting dOut", (_, T, C, offset) => {
    const eps = 0.1;
    for (const accumulate of [false, true]) {
      const [x, weight, dOut, bias] = [values([T, C], 1), values([C], 2), values([T, C], 3), values([C], 6)];
      for (let at = 0; at < T * C; at++) x.data[at] = offset === "equal" ? 0.3 : x.data[at] + offset;
      const g = dOut.data.slice();
      const out = values([T, C], 7);
      backend.layerNorm(out, x, weight, eps, bias);
      expectClose(out.data, layerNorm(x.data, weight.data, bias.data, eps), F32_STORED);
      backend.layerNorm(out, x, weight, eps);
      expectClose(out.data, layerNorm(x.data, weight.data, new Array(C).fill(0), eps), F32_STORED);
      const dx = accumulate ? values([T, C], 4) : dOut;
      const [dWeight, dBias] = [values([C], 5), values([C], 8)];
      const before = { dx: dx.data.slice(), dWeight: dWeight.data.slice(), dBias: dBias.data.slice() };
      backend.layerNormBackward(dx, dWeight, dOut, x, weight, eps, accumulate, dBias);
      const loss = (x: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>): number =>
        weighted(g, layerNorm(x, w, b, eps));
      const wantDx = differences(x.data, (a) => loss(a, weight.data, bias.data));
      const wantDw = differences(weight.data, (w) => loss(x.data, w, bias.data));
      const wantDb = differences(bias.data, (b) => loss(x.data, weight.data, b));
      expectClose(dx.data, accumulate ? added(before.dx, wantDx) : wantDx, F32_STORED);
      expectClose(dWeight.data, added(before.dWeight, wantDw), F32_STORED);
      expectClose(dBias.data, added(before.dBias, wantDb), F32_STORED);
    }
  });

  it.each(["silu", "gelu", "geluTanh"] as const)("the gate by %s, in place", (activation) => {
    const [gate, up, dOut] = [values([3, 7], 1), values([3, 7], 2), values([3, 7], 3)];
    const [a, b] = [gate.data.slice(), up.data.slice()];
    const loss = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
      weighted(
        dOut.data,
        Array.from(a, (value, i) => ACTIVATIONS[activation](4 * value) * b[i]),
      );
    gate.data.forEach((value, i) => {
      gate.data[i] = 4 * value;
    });
    const out = values([3, 7], 4);
    backend.gate(out, gate, up, activation);
    expectClose([weighted(dOut.data, out.data)], [loss(a, b)], F32_STORED);
    backend.gateBackward(gate, up, dOut, gate, up, activation);
    const wantDGate = differences(a, (a) => loss(a, b)).map((value) => value / 4);
    expectClose(gate.data, wantDGate, F32_STORED);
    expectClose(
      up.data,
      differences(b, (b) => loss(a, b)),
      F32_STORED,
    );
  });

  it.each(["half", "interleaved"] as const)("rotation with a factor, pairing %s", (pairing) => {
    const [T, H, D, R, offset] = [3, 2, 9, 6, 1];
    const angles = values([T, R / 2], 1).data.map((value) => 3 * value);
    const table: RotationTable = {
      cos: angles.map((angle) => 1.3 * Math.cos(angle)),
      sin: angles.map((angle) => 1.3 * Math.sin(angle)),
      rotaryDim: R,
      rotaryOffset: offset,
      pairing,
    };
    const x = values([T, H, D], 2);
    const g = values([T, H, D], 3);
    const rotated = (x: Float64Array): number[] => {
      const out = Array.from(x);
      for (let row = 0; row < T * H; row++) {
        for (let p = 0; p < R / 2; p++) {
          const at = row * D + offset + (pairing === "half" ? p : 2 * p);
          const other = at + (pairing === "half" ? R / 2 : 1);
          const [c, s] = [table.cos, table.sin].map((one) => one[Math.floor(row / H) * (R / 2) + p]);
          out[at] = x[at] * c - x[other] * s;
          out[other] = x[other] * c + x[at] * s;
        }
      }
      return out;
    };
    const want = differences(x.data, (x) => weighted(g.data, rotated(x)));
    backend.rotateBackward(g, table);
    expectClose(g.data, want, F32_STORED);
  });

  it("cross-entropy, with targets that do not count", () => {
    const [T, V, scale] = [4, 5, 0.7];
    const logits = values([T, V], 1);
    const x = logits.data.slice();
    const targets = Int32Array.of(2, -1, 0, 4);
    const losses = values([T], 2);
    const lossOf = (x: ArrayLike<number>, t: number): number => {
      if (targets[t] < 0) return 0;
      const row = Array.from(x).slice(t * V, (t + 1) * V);
      return -Math.log(Math.exp(row[targets[t]]) / row.reduce((sum, value) => sum + Math.exp(value), 0));
    };
    const each = (x: ArrayLike<number>): number[] => Array.from(targets, (_, t) => lossOf(x, t));
    backend.crossEntropy(losses, logits, targets, scale);
    expectClose(losses.data, each(x), F32_STORED);
    expectClose(
      logits.data,
      differences(x, (x) => scale * each(x).reduce((a, b) => a + b)),
      F32_STORED,
    );
  });

  it("attention with sinks, a soft cap and packed segments", () => {
    const [T, H, Hk, D, Dv] = [5, 4, 2, 3, 2];
    const [q, k, v] = [values([T, H, D], 1), values([T, Hk, D], 2), values([T, Hk, Dv], 3)];
    const sinks = values([H], 4).data;
    const positions = Int32Array.of(0, 1, 0, 1, 2);
    const segments = Int32Array.of(0, 0, 1, 1, -1);
    const dOut = values([T, H, Dv], 5);
    const call: AttendCall<KvView> = {
      q,
      kv: { keys: k, values: v, positions, segments },
      queryPositions: positions,
      querySegments: segments,
      mask: causal().and(sameSegment()),
      scale: 1.1,
      softcap: 2,
      sinks,
    };
    const forward = (
      q: ArrayLike<number>,
      k: ArrayLike<number>,
      v: ArrayLike<number>,
      sinks: ArrayLike<number>,
    ): { out: number[]; lse: number[] } => {
      const out = new Array(T * H * Dv).fill(0);
      const lse = new Array(T * H).fill(-Infinity);
      for (let i = 0; i < T * H; i++) {
        const [t, h, kh] = [Math.floor(i / H), i % H, Math.floor((i % H) / (H / Hk))];
        let sum = Math.exp(sinks[h]);
        let seen = false;
        for (let j = 0; j < T; j++) {
          if (segments[j] < 0 || segments[j] !== segments[t] || positions[j] > positions[t]) continue;
          seen = true;
          let score = 0;
          for (let d = 0; d < D; d++) score += 1.1 * q[i * D + d] * k[(j * Hk + kh) * D + d];
          const weight = Math.exp(2 * Math.tanh(score / 2));
          sum += weight;
          for (let d = 0; d < Dv; d++) out[i * Dv + d] += weight * v[(j * Hk + kh) * Dv + d];
        }
        for (let d = 0; d < Dv; d++) out[i * Dv + d] /= sum;
        if (seen) lse[i] = Math.log(sum);
      }
      return { out, lse };
    };
    const got = { out: zeros("f32", [T, H, Dv]), lse: zeros("f32", [T, H]) };
    backend.attendForTraining(got.out, got.lse, call);
    const want = forward(q.data, k.data, v.data, sinks);
    expectClose(got.out.data, want.out, F32_STORED);
    expectClose(got.lse.data.subarray(0, 4 * H), want.lse.slice(0, 4 * H), F32_STORED);

    const dSinks = f32([H], [1, 2, 3, 4]);
    const gradients = { dq: values(q.shape, 6), dk: values(k.shape, 7), dv: values(v.shape, 8), dSinks };
    backend.attendBackward(gradients, { ...call, ...got, dOut });
    const loss = (...inputs: Parameters<typeof forward>): number => weighted(dOut.data, forward(...inputs).out);
    const d = {
      q: differences(q.data, (q) => loss(q, k.data, v.data, sinks)),
      k: differences(k.data, (k) => loss(q.data, k, v.data, sinks)),
      v: differences(v.data, (v) => loss(q.data, k.data, v, sinks)),
      sinks: differences(sinks, (sinks) => loss(q.data, k.data, v.data, sinks)),
    };
    expectClose(gradients.dq.data, d.q, F32_STORED);
    expectClose(gradients.dk.data, d.k, F32_STORED);
    expectClose(gradients.dv.data, d.v, F32_STORED);
    expectClose(dSinks.data, added([1, 2, 3, 4], d.sinks), F32_STORED);
  });
});

describe("the reference backend for training", () => {
  it("adds gradients of repeated tokens to their row of a table", () => {
    const dTable = f32([3, 2], [1, 2, 3, 4, 5, 6]);
    backend.embedBackward(dTable, f32([3, 2], [10, 20, 30, 40, 50, 60]), Int32Array.of(2, 0, 2));
    expect([...dTable.data]).toEqual([31, 42, 3, 4, 65, 86]);
  });

  it("adds squares, and fills", () => {
    const out = f32([1], [0.5]);
    backend.addSquaredNorm(out, f32([3], [1, -2, 3]));
    expect(out.data[0]).toBe(14.5);
    const x: Tensor<"f32"> = zeros("f32", [5]);
    backend.fill(x, -2);
    expect([...x.data]).toEqual([-2, -2, -2, -2, -2]);
  });

  it("takes the steps of AdamW that torch.optim.AdamW takes", () => {
    // By hand: gradients 2·0.5 = 1 and 2·(−0.25) = −0.5. The first bias-corrected step is sign(gradient)·lr.
    const call = {
      weight: f32([2], [1, -1]),
      gradient: f32([2], [0.5, -0.25]),
      mean: zeros("f32", [2]),
      square: zeros("f32", [2]),
      gradientScale: 2,
      learningRate: 0.1,
      beta1: 0.9,
      beta2: 0.99,
      epsilon: 0,
      weightDecay: 0.01,
    };
    backend.adamW({ ...call, step: 1 });
    expectClose(call.weight.data, [1 - 0.1 - 0.001, -1 + 0.1 + 0.001], F32_STORED);
    expectClose(call.mean.data, [0.1, -0.05], F32_STORED);
    expectClose(call.square.data, [0.01, 0.0025], F32_STORED);
    // Second step, gradients 0: m = 0.09, v = 0.0099; m̂ = 0.09/0.19, v̂ = 0.0099/0.0199.
    backend.adamW({ ...call, gradientScale: 0, step: 2 });
    const change = 0.09 / 0.19 / Math.sqrt(0.0099 / 0.0199);
    expectClose(call.weight.data, [0.899 - 0.1 * (change + 0.00899), -0.899 + 0.1 * (change + 0.00899)], F32_COMPUTED);
  });

  it.each([
    [Int32Array.of(0, 3), "embedBackward: token ids must be from 0 to 2; got token=3, index=1."],
    [Int32Array.of(-1, 0), "embedBackward: token ids must be from 0 to 2; got token=-1, index=0."],
  ])("refuses tokens %o of a vocabulary of three", (tokens, message) => {
    const table = zeros("f32", [3, 2]);
    expect(() => backend.embedBackward(table, values([2, 2], 1), tokens)).toThrow(message);
    expect([...table.data]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it("refuses targets outside the vocabulary", () => {
    expect(() => backend.crossEntropy(zeros("f32", [1]), zeros("f32", [1, 3]), Int32Array.of(3), 1)).toThrow(
      "crossEntropy: token ids must be from -1 to 2; got token=3, index=0.",
    );
  });
});
