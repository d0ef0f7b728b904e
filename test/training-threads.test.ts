/**
 * Training on worker threads, on the built package: workers cannot run TypeScript sources on every supported Node.
 */

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Every operation once, at sizes that do not divide; prints a hash of each tensor for each number of threads. */
const SCRIPT = `
  import { createHash } from "node:crypto";
  import { createTrainingBackend } from "phasor/engine";
  import { causal, sameSegment } from "phasor/mask";

  const [T, N, K, V, H, Hk, D] = [211, 103, 191, 307, 4, 2, 32];
  const SHAPES = {
    x: [T, K], weight: [N, K], dOut: [T, N], dx: [T, K], dWeight: [N, K], dBias: [N], mean: [N, K], square: [N, K],
    normWeight: [K], dNormWeight: [K], logits: [T, V], losses: [T], dTable: [97, N], norm: [1], dGate: [T, N], dUp: [T, N],
    q: [T, H, D], k: [T, Hk, D], v: [T, Hk, D], out: [T, H, D], lse: [T, H], dq: [T, H, D], dk: [T, Hk, D], dv: [T, Hk, D],
    dAttention: [T, H, D], normed: [T, K], dNormed: [T, K], dLayerWeight: [K], dLayerBias: [K],
  };

  async function hashes(threads) {
    const backend = await createTrainingBackend({ backend: "wasm", threads });
    let state = 1;
    const t = {};
    for (const [name, shape] of Object.entries(SHAPES)) {
      t[name] = backend.allocate(shape);
      t[name].data.forEach((_, i, data) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        data[i] = state / 2 ** 31 - 1;
      });
    }
    backend.fill(t.square, 0.5);
    const ids = Int32Array.from({ length: T }, (_, i) => (i * 31) % 97);
    const positions = Int32Array.from({ length: T }, (_, i) => i % 80);
    const segments = Int32Array.from({ length: T }, (_, i) => Math.floor(i / 80));
    const table = { cos: new Float32Array(T * 16).fill(0.6), sin: new Float32Array(T * 16).fill(0.8) };
    const call = {
      q: t.q, kv: { keys: t.k, values: t.v, positions, segments }, queryPositions: positions, querySegments: segments,
      mask: causal().and(sameSegment()), scale: 0.2,
    };
    backend.attendForTraining(t.out, t.lse, call);
    backend.attendBackward({ dq: t.dq, dk: t.dk, dv: t.dv }, { ...call, out: t.out, lse: t.lse, dOut: t.dAttention });
    backend.rotateBackward(t.dq, { ...table, rotaryDim: 32, rotaryOffset: 0, pairing: "half" });
    backend.gateBackward(t.dGate, t.dUp, t.dOut, t.dGate, t.dUp, "silu");
    backend.gateBackward(t.dGate, t.dUp, t.dOut, t.dGate, t.dUp, "gelu");
    backend.linearInputBackward(t.dx, t.dOut, t.weight, true);
    backend.linearWeightBackward(t.dWeight, t.dOut, t.x, t.dBias);
    backend.rmsNormBackward(t.dx, t.dNormWeight, t.dx, t.x, t.normWeight, 1e-5, false);
    backend.layerNorm(t.normed, t.x, t.normWeight, 1e-5, t.dNormWeight);
    backend.layerNormBackward(t.dNormed, t.dLayerWeight, t.dNormed, t.x, t.normWeight, 1e-5, false, t.dLayerBias);
    backend.crossEntropy(t.losses, t.logits, ids, 0.1);
    backend.embedBackward(t.dTable, t.dOut, ids);
    backend.addSquaredNorm(t.norm, t.dWeight);
    backend.adamW({
      weight: t.weight, gradient: t.dWeight, mean: t.mean, square: t.square, gradientScale: 0.01, learningRate: 0.01,
      beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, step: 1,
    });
    await backend.flush();
    const hash = ({ data }) => createHash("sha256").update(new Uint8Array(data.slice().buffer)).digest("hex");
    const result = Object.fromEntries(Object.entries(t).map(([name, tensor]) => [name, hash(tensor)]));
    backend.dispose();
    return result;
  }

  const runs = [];
  for (const threads of [2, 2, 3, 0]) runs.push(await hashes(threads));
  console.log(JSON.stringify(runs));
`;

it("gradients are the same to the last bit in every run, and but for keys and values with any number of threads", () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", SCRIPT], {
    cwd: ROOT,
    encoding: "utf8",
    timeout: 60_000,
  });
  expect(stderr).toBe("");
  expect(status).toBe(0);
  const [two, again, ...others] = JSON.parse(stdout) as Record<string, string>[];
  expect(again).toEqual(two);
  // Sums for keys and values are made by each worker and added up.
  for (const other of others) expect({ ...other, dk: two.dk, dv: two.dv }).toEqual(two);
});
