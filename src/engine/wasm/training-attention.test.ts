import { beforeAll, describe, expect, it } from "vitest";
import { expectClose } from "../../../test/support/expect-close.ts";
import { values } from "../../../test/support/values.ts";
import { referenceAttention, referenceAttentionGradients } from "../../attention/index.ts";
import { numberToBf16 } from "../../dtype.ts";
import { causal, sameSegment } from "../../mask/index.ts";
import { type Tensor, tensor } from "../../tensor.ts";
import { createWasmRuntime } from "./backend.ts";
import type { WasmRuntime } from "./runtime.ts";
import { TrainingAttention } from "./training-attention.ts";

const [T, H, Hk, D, Dv] = [83, 6, 2, 16, 8];
const positions = Int32Array.from({ length: T }, (_, n) => n % 37);
const segments = Int32Array.from({ length: T }, (_, n) => (n > 78 ? -1 : Math.floor(n / 37)));
const TOLERANCE = 2e-5;

function callOf(salt: number) {
  const kv = { keys: values([T, Hk, D], salt + 1), values: values([T, Hk, Dv], salt + 2), positions, segments };
  const mask = causal().and(sameSegment());
  const shared = { q: values([T, H, D], salt), kv, queryPositions: positions, querySegments: segments, mask };
  return { ...shared, scale: 0.4 };
}

describe("attention of a training step", () => {
  let runtime: WasmRuntime;
  let attention: TrainingAttention;
  beforeAll(async () => {
    runtime = await createWasmRuntime("test", { threads: 0, maxBytes: 2 ** 26 });
    attention = new TrainingAttention(runtime);
  });

  const allocate = (shape: readonly number[], source?: Tensor<"f32">): { address: number; data: Float32Array } => {
    const size = shape.reduce((a, b) => a * b, 1);
    const { address } = runtime.memory.take(size * 4);
    const data = runtime.memory.view("f32", address, size);
    if (source) data.set(source.data);
    return { address, data };
  };

  it.each([
    ["plain", {}],
    ["with sinks and a soft cap", { sinks: Float32Array.from({ length: H }, (_, h) => Math.cos(h)), softcap: 0.8 }],
  ])("%s: out, lse and gradients of two layers equal the reference's", async (_, options) => {
    const layers = [10, 20].map((salt) => {
      const call = { ...callOf(salt), ...options };
      const dOut = values([T, H, Dv], salt + 3);
      const sizes = { out: [T, H, Dv], lse: [T, H], dq: [T, H, D], dk: [T, Hk, D], dv: [T, Hk, Dv], dSinks: [H] };
      const areas = Object.fromEntries(Object.entries(sizes).map(([name, shape]) => [name, allocate(shape)])) as Record<
        keyof typeof sizes,
        ReturnType<typeof allocate>
      >;
      return { call, dOut, areas, dOutAt: allocate([T, H, Dv], dOut).address };
    });
    for (const { areas } of layers) areas.dSinks.data.fill(1); // added to
    for (const { call, areas } of layers) attention.attend(call, { out: areas.out.address, lse: areas.lse.address });
    for (const { call, areas, dOutAt } of layers) {
      const { out, lse, dq, dk, dv, dSinks } = areas;
      attention.attendBackward(call, {
        ...{ out: out.address, lse: lse.address, dOut: dOutAt },
        ...{ dq: dq.address, dk: dk.address, dv: dv.address, dSinks: "sinks" in options ? dSinks.address : 0 },
      });
    }
    await runtime.flush();
    for (const { call, dOut, areas } of layers) {
      const { kv, ...rest } = call;
      const request = { ...rest, k: kv.keys, v: kv.values, keyPositions: positions, keySegments: segments };
      const { out, lse } = referenceAttention(request);
      expectClose(areas.out.data, out.data, TOLERANCE);
      expectClose(areas.lse.data, lse.data, TOLERANCE);
      const { dq, dk, dv, dsinks } = referenceAttentionGradients(request, dOut);
      expectClose(areas.dq.data, dq.data, TOLERANCE);
      expectClose(areas.dk.data, dk.data, TOLERANCE);
      expectClose(areas.dv.data, dv.data, TOLERANCE);
      expectClose(areas.dSinks.data, dsinks?.data.map((x) => x + 1) ?? Array(H).fill(1), TOLERANCE);
    }
  });

  it("refuses the way back through keys of 16 bits", () => {
    const call = callOf(1);
    const narrow = tensor("bf16", [T, Hk, D], Uint16Array.from(call.kv.keys.data, numberToBf16));
    const kv = { ...call.kv, keys: narrow as unknown as Tensor<"f32"> };
    const addresses = { out: 0, lse: 0, dOut: 0, dq: 0, dk: 0, dv: 0, dSinks: 0 };
    expect(() => attention.attendBackward({ ...call, kv }, addresses)).toThrow(
      'attendBackward: keys and values in f32; got keys="bf16", values="f32".',
    );
  });
});
